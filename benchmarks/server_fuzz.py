"""A server under requests that schemathesis makes from its /openapi.json: none may be answered with 500 or more.

    python benchmarks/server_fuzz.py --schemathesis VENV/bin/schemathesis [--examples 300] [--seed 1]

schemathesis lives in an environment of its own. It runs twice, with the bundled models: with the description as it is,
where hardly any request names a model that is there, and with one in which models, pictures and lengths are those
that a client would send.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import copy
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn

from mlx_mm.server.app import make_app
from mlx_mm.server.engine import Engine
from mlx_mm.server.openapi import document
from mlx_mm.server.security import Access

BUNDLED = Path(str(resources.files("mlx_mm") / "bundled"))
MODELS = ("emoji-siglip2", "sounds-clap", "emoji-glm4v")
CHECKS = (  # without unsupported_method: what is no JSON is refused before it is seen that a route has no PUT
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schemathesis", required=True, help="the program")
    parser.add_argument("--examples", type=int, default=300, help="of each route (default: 300)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--phases", default="coverage,fuzzing", help="(default: coverage,fuzzing)")
    parser.add_argument("--narrow", action="store_true", help="the second description alone")
    options = parser.parse_args()
    found = with_null(json.loads(json.dumps(document())))
    failed = False
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        for name, description in (("as it is", found), ("of what is there", narrowed(found)))[options.narrow :]:
            print(f"The description {name}.", flush=True)
            path = Path(folder) / "openapi.json"
            path.write_text(json.dumps(description))
            failed |= fuzz(options, path, url) != 0
    return int(failed)


def fuzz(options: argparse.Namespace, path: Path, url: str) -> int:
    """The exit status of one run."""
    command = [options.schemathesis, "run", str(path), "--url", url, "--checks", ",".join(CHECKS)]
    command += ["--max-examples", str(options.examples), "--seed", str(options.seed), "--continue-on-failure"]
    return subprocess.run([*command, "--phases", options.phases], check=False, cwd=path.parent).returncode


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address of a server of the bundled models, whose state is seen at the end."""
    engine = Engine(MODELS)
    engine.start()
    app = make_app(engine, Access(body_seconds=10))
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            print(json.dumps(engine.stats()), flush=True)
            server.should_exit = True
            thread.join()
            engine.close()


def narrowed(found: dict[str, Any]) -> dict[str, Any]:
    """The description, in which a model is one of those, a source a bundled one, and an answer short."""
    pictures = [uri("image/png", path.read_bytes()) for path in sorted((BUNDLED / "pictures").glob("*.png"))[:4]]
    sounds = [uri("audio/flac", path.read_bytes()) for path in sorted((BUNDLED / "sounds").glob("*.flac"))[:1]]
    sources = {"type": "string", "enum": [*pictures, *sounds, pictures[0][:200], "https://example.org/a.png"]}

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        if str(value.get("description", "")).startswith("data:"):
            return sources
        made = {name: walk(item) for name, item in value.items()}
        properties = made.get("properties", {})
        if "model" in properties and "object" not in properties:
            properties["model"] = {"type": "string", "enum": list(MODELS)}
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if name in properties and "object" not in properties:
                properties[name] = {"type": "integer", "minimum": 1, "maximum": 8}
        return made

    narrow = copy.deepcopy(found)
    narrow["components"]["schemas"] = walk(narrow["components"]["schemas"])
    return narrow


def with_null(found: dict[str, Any]) -> dict[str, Any]:
    """The description, in which a field that may be left out may be null, as its introduction says."""

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        made = {name: walk(item) for name, item in value.items()}
        if isinstance(made.get("properties"), dict):
            for name in set(made["properties"]) - set(made.get("required", ())):
                made["properties"][name] = {"anyOf": [made["properties"][name], {"type": "null"}]}
        return made

    schemas = found["components"]["schemas"]
    requests = {name: walk(schema) for name, schema in schemas.items() if name.endswith("Request")}
    return {**found, "components": {**found["components"], "schemas": {**schemas, **requests}}}


def uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


if __name__ == "__main__":
    sys.exit(main())
