"""Bodies that are no JSON or too much of it, clients that are slow, and what a server says of itself."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from asked import idle
from asking import KEY, ask

from mlx_mm.server.app import make_app
from mlx_mm.server.openapi import document
from mlx_mm.server.security import Access

EMBED, CHAT, CLASSIFY = "/v1/embeddings", "/v1/chat/completions", "/v1/classify"
HALF = "\\ud83d"  # of a pair, as JSON writes it


def nested(depth: int, inner: str = "1") -> str:
    return '{"a":' * depth + inner + "}" * depth


def embedding(value: str) -> str:
    return '{"model": "emoji-siglip2", "input": ' + value + "}"


def tool(parameters: str) -> str:
    chat = '{"model": "emoji-glm4v", "messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", '
    return chat + '"function": {"name": "a", "parameters": ' + parameters + "}}]}"


def message(content: str) -> str:
    return '{"model": "emoji-glm4v", "messages": [{"role": "user", "content": ' + content + "}]}"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (EMBED, "", None),
        (EMBED, "{", None),
        (EMBED, "[]", None),
        (EMBED, "null", None),
        (EMBED, '"a"', None),
        (EMBED, "1", None),
        (EMBED, b"\xff\xfe{\x00}\x00", None),
        (EMBED, b"\xef\xbb\xbf{}", None),
        (EMBED, b'{"model": "\xff"}', None),
        (EMBED, embedding('"a"') + "x", None),
        (EMBED, '{"model": "emoji-siglip2", "input": "a", "input": "b"}', None),  # others would read the other one
        (EMBED, '{"model": "emoji-siglip2", "input": "a", "in\\u0070ut": "b"}', None),
        (EMBED, '{"model": "emoji-siglip2", "input": "a", "' + HALF + '": 1}', None),
        (EMBED, embedding(f'"{HALF}"'), "input"),
        (EMBED, embedding(f'["a", "{HALF}"]'), "input[1]"),
        (EMBED, embedding('{"text": "' + HALF + '"}'), "input.text"),
        (EMBED, embedding("NaN"), None),
        (EMBED, '{"model": "emoji-siglip2", "input": "a", "dimensions": Infinity}', None),
        (EMBED, '{"model": "emoji-siglip2", "input": "a", "dimensions": 1e999}', "dimensions"),
        (EMBED, '{"model": "emoji-siglip2", "input": "a", "dimensions": 1' + "0" * 5000 + "}", None),
        (EMBED, embedding("[" * 200_000 + "]" * 200_000), None),
        (EMBED, embedding(nested(200)), "input"),
        (EMBED, embedding("[" + nested(90_000) + "]"), None),
        (EMBED, embedding(json.dumps(["a"] * 10_000)), "input"),
        (EMBED, embedding(json.dumps([{"text": "a"}] * 10_000)), "input"),
        (EMBED, '{"model": "' + "m" * 100_000 + '", "input": "a"}', "model"),
        (EMBED, json.dumps({"model": "emoji-siglip2", "input": "a", "x" * 100_000: 1}), "x" * 200),
        (EMBED, json.dumps({"model": "emoji-siglip2", "input": "a", "\0\n\x1b[31m": 1}), "\0\n\x1b[31m"),
        (CLASSIFY, '{"model": "emoji-siglip2", "input": "a"}', "input"),
        (CHAT, tool(nested(200)), "tools"),
        (CHAT, tool('{"a": 1e999}'), "tools"),
        (CHAT, tool('{"a": "' + HALF + '"}'), "tools"),
        (CHAT, tool('{"' + HALF + '": 1}'), None),
        (CHAT, tool("[]"), "tools[0].function.parameters"),
        (CHAT, tool('"a"'), "tools[0].function.parameters"),
        (CHAT, message(f'"{HALF}"'), "messages[0].content"),
        (CHAT, message('[{"type": "text", "text": "' + HALF + '"}]'), "messages[0].content[0].text"),
        (CHAT, message("{}"), "messages[0].content"),
        (CHAT, message('["a"]'), "messages[0].content[0]"),
        (CHAT, message('[{"type": ["text"]}]'), "messages[0].content[0].type"),
        (CHAT, message('[{"type": "text", "text": {}}]'), "messages[0].content[0].text"),
        (CHAT, message('[{"type": "image_url", "image_url": [1]}]'), "messages[0].content[0].image_url"),
        (CHAT, message('[{"type": "image_url", "image_url": {"url": {"url": "a"}}}]'), None),
        (CHAT, message('[{"type": "video", "video": [[]]}]'), "messages[0].content[0].video[0]"),
        (CHAT, message('"<|image|>"'), None),  # by which the model knows pictures
    ],
)
def test_each_is_refused(app: Any, path: str, body: str | bytes, param: str | None) -> None:
    answer = ask(app, "POST", path, body.encode() if isinstance(body, str) else body)
    assert answer.status in ((404,) if param == "model" else (400,)), answer.body[:300]
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert len(answer.body) < 20_000
    if param is not None:
        assert answer.error["param"] == param


def test_fields_that_are_null_are_left_out(app: Any) -> None:
    nothing = dict.fromkeys(("dimensions", "encoding_format", "user", "messages", "modality", "unheard_of"))
    assert ask(app, "POST", EMBED, {"model": "emoji-siglip2", "input": "a", **nothing}).status == 200


@contextlib.contextmanager
def listening(app: Any) -> Iterator[tuple[str, int]]:
    """A server on loopback."""
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield bound.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def status(connection: socket.socket) -> int:
    """Of what is answered."""
    data = b""
    while b"\r\n" not in data:
        part = connection.recv(4096)
        if not part:
            break
        data += part
    found = re.match(rb"HTTP/1\.1 (\d{3})", data)
    return int(found[1]) if found else 0


def head(length: str, path: str = EMBED) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\n{length}\r\n\r\n"
    ).encode()


def test_clients_that_are_slow_send_without_end_or_go(locked: Any, engine: Any) -> None:
    """Over a real connection: a body that does not come, one in pieces without end, and a client that resets."""
    body = json.dumps({"model": "emoji-siglip2", "input": "a"}).encode()
    with listening(locked) as address:
        whole, slow, endless, gone = (socket.create_connection(address, timeout=60) for _ in range(4))
        with whole, slow, endless, gone:
            slow.sendall(head("Content-Length: 100") + body[:10])
            endless.sendall(head("Transfer-Encoding: chunked"))
            with contextlib.suppress(ConnectionError):  # once it is refused
                for _ in range(64):
                    endless.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            chat = {"model": "emoji-glm4v", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2000}
            asked = json.dumps({**chat, "temperature": 2, "min_p": 0.01}).encode()
            gone.sendall(head(f"Content-Length: {len(asked)}", CHAT) + asked)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            gone.close()
            whole.sendall(head(f"Content-Length: {len(body)}") + body)
            assert status(whole) == 200
            assert status(slow) == 408
            with contextlib.suppress(ConnectionError):
                assert status(endless) == 413
        assert idle(engine)["running"] == 0


def test_a_full_queue_says_when_to_come_again(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_mm.server.tickets import EngineDead, QueueFull

    app = make_app(engine, Access())
    body = {"model": "emoji-siglip2", "input": "a"}
    for error, want, code in ((QueueFull("Full.", 7), 429, "queue_full"), (EngineDead("Dead."), 503, "engine_dead")):

        def refuse(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(engine, "embed", refuse)
        answer = ask(app, "POST", EMBED, body)
        assert answer.status == want
        assert answer.error["code"] == code
        assert answer.headers.get("retry-after") == ("7" if want == 429 else None)


def test_health_and_metrics(app: Any, engine: Any) -> None:
    found = ask(app, "GET", "/health").json
    assert found["status"] == "ok"
    assert found["running"] == found["waiting"] == 0
    before = numbers(app)
    ask(app, "POST", EMBED, {"model": "emoji-siglip2", "input": ["a", "b"]})
    after = numbers(app)
    assert after["mlx_mm_requests_total"] - before["mlx_mm_requests_total"] == 1
    assert after["mlx_mm_encoded_items_total"] - before["mlx_mm_encoded_items_total"] == 2
    assert after["mlx_mm_alive"] == 1


def numbers(app: Any) -> dict[str, float]:
    """Of /metrics, each of which has its type before it."""
    answer = ask(app, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    found = {}
    for kind, line in zip(lines[::2], lines[1::2], strict=True):
        name, value = line.split(" ")
        assert kind == f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
        assert re.fullmatch(r"[a-z_]+", name)
        found[name] = float(value)
    return found


def test_models_say_what_they_can(app: Any) -> None:
    listed = ask(app, "GET", "/v1/models").json
    assert listed["object"] == "list"
    models = {model["id"]: model for model in listed["data"]}
    assert list(models) == ["emoji-siglip2", "sounds-clap", "emoji-glm4v"]
    assert models["emoji-siglip2"]["capabilities"]["input"] == ["text", "image"]
    assert models["sounds-clap"]["capabilities"]["embeddings"]
    assert models["emoji-glm4v"]["capabilities"]["chat"]
    assert not models["emoji-glm4v"]["capabilities"]["embeddings"]
    assert models["emoji-glm4v"]["context_length"] == 2048
    for name in models:
        one = ask(app, "GET", f"/v1/models/{name}")
        assert one.status == 200
        assert one.json["id"] == name
    missing = ask(app, "GET", "/v1/models/a/b")
    assert missing.status == 404
    assert missing.error["param"] == "model"


def test_the_description_is_of_what_there_is(app: Any) -> None:
    """Every route, every field that is read, and references that lead somewhere."""
    found = ask(app, "GET", "/openapi.json").json
    assert found == json.loads(json.dumps(document()))
    assert found["openapi"].startswith("3.1")
    paths = {re.sub(r"\{(\w+):path\}", r"{\1}", route.path): route for route in app.routes}
    assert set(found["paths"]) == {path.replace("{name}", "{id}") for path in paths}
    schemas = found["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(found)):
        assert name in schemas
    for name, path in (("ChatRequest", CHAT), ("EmbeddingsRequest", EMBED), ("ResponsesRequest", "/v1/responses")):
        assert schemas[name]["additionalProperties"] is False
        for method in found["paths"][path].values():
            assert method["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{name}")
            assert all(status in method["responses"] for status in ("200", "400", "401", "403", "413", "415", "429"))
