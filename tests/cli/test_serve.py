"""`mlx_mm serve`: what it serves with nothing else, its options, and what it refuses to begin with."""

from __future__ import annotations

import argparse
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import EQUAL, Run, assert_one_error, environment

from mlx_mm import encode_text, generate, load
from mlx_mm.checkpoint import hub
from mlx_mm.cli.serve import size

QUESTION = "Which animal is this?"
README = Path(__file__).parents[2] / "README.md"
NUMBER = re.compile(r"-?\d+\.\d+")


class Started:
    """A process of `mlx_mm serve`, and what it said: with --ready-json in a line of JSON, else to people."""

    def __init__(self, cache: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "mlx_mm", "serve", *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=None if "--ready-json" in arguments else subprocess.PIPE,
            text=True,
            env={**environment(), "MLX_MM_CACHE": str(cache)},
        )
        self.watch = threading.Timer(120, self.process.kill)
        self.watch.start()
        out, err = self.process.stdout, self.process.stderr
        assert out is not None
        self.lines = [out.readline().strip()]
        self.said: dict[str, Any] = {}
        if err is None:
            self.said = json.loads(self.lines[0])
        else:
            self.lines += [out.readline().strip()]
            for line in iter(err.readline, ""):  # the rest is of the index that is made
                self.lines += [line.strip()] if line.startswith(("the page: ", "/api/")) else []
                if line.startswith("/api/"):
                    break
            self.said["token"] = re.findall(r"token: (\S+);", self.lines[-1])[0]
            self.said["port"] = int(re.findall(r":(\d+) ", self.lines[0])[0])

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", self.said.get("port", 80), timeout=60)
        if "uds" in self.said:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(self.said["uds"])
        headers = {"Authorization": f"Bearer {self.said['token']}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body).encode() if body else None, headers)
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        self.watch.cancel()
        return self.process.returncode


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """With nothing else."""
    server = Started(tmp_path_factory.mktemp("cache"), "--port", "0")
    yield server
    assert server.end() == 0


def test_alone_it_serves_what_is_bundled(started: Started) -> None:
    status, found = started.ask("GET", "/api/search?q=frog&kind=image")
    assert (status, [hit["name"] for hit in found["hits"]]) == (200, ["frog.png"])
    assert set(found["hits"][0]["copies"]) == {found["hits"][0]["path"].replace("frog", "frog-copy")}
    status, found = started.ask("GET", "/api/tags")
    assert (status, found["tags"]["cat"]) == (200, 1)
    status, found = started.ask("POST", "/v1/embeddings", {"model": "emoji-siglip2", "input": ["frog"]})
    own = encode_text(*load("emoji-siglip2"), ["frog"])
    assert np.abs(np.array(found["data"][0]["embedding"]) - own[0]).max() <= EQUAL
    hit = started.ask("GET", "/api/search?q=frog&top=1")[1]["hits"][0]
    content = [
        {"type": "image_url", "image_url": {"url": f"mm://item/{hit['id']}"}},
        {"type": "text", "text": QUESTION},
    ]
    asked = {"model": "emoji-glm4v", "messages": [{"role": "user", "content": content}], "temperature": 0}
    status, found = started.ask("POST", "/v1/chat/completions", {**asked, "max_tokens": 16})
    said = generate(*load("emoji-glm4v"), QUESTION, images=[hub.BUNDLED / "pictures/frog.png"], max_tokens=16)
    assert (status, found["choices"][0]["message"]["content"]) == (200, said.text)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
def test_the_session_of_the_readme(started: Started) -> None:
    begun, asked = re.findall(r"^```shell-session\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    shown = begun.replace("8765", str(started.said["port"])).replace("TOKEN", started.said["token"])
    assert shown.splitlines() == ["$ mlx_mm serve", *started.lines]
    for command, expected in re.findall(r"^\$ (.*(?:\n  .*)*)\n(.*)$", asked, re.MULTILINE):
        here = command.replace("8765", str(started.said["port"])).replace("TOKEN", started.said["token"])
        ran = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=60, check=False)
        assert NUMBER.sub("N", ran.stdout.strip()) == NUMBER.sub("N", expected), command
        for found, number in zip(NUMBER.findall(ran.stdout), NUMBER.findall(expected), strict=True):
            assert float(found) == pytest.approx(float(number), abs=1e-3)


def test_a_port_is_taken(started: Started, run: Run) -> None:
    assert_one_error(run("serve", "--port", started.said["port"]), str(started.said["port"]), "--port")


def test_a_socket_and_an_index_of_ones_own(tmp_path: Path, run: Run) -> None:
    place = tmp_path / "own.mmindex"
    (tmp_path / "photos").mkdir()
    assert run("index", tmp_path / "photos", "--index", place, "-m", "emoji-siglip2").status == 0
    with tempfile.TemporaryDirectory(prefix="mm", dir="/tmp") as folder:
        options = ("--ready-json", "--uds", f"{folder}/s", "-m", "emoji-siglip2", "--index", str(place))
        server = Started(tmp_path, *options)
        assert server.said["models"] == ["emoji-siglip2"]
        assert (server.said["ready"], server.said["pid"]) == (True, server.process.pid)
        assert server.said["uds"] == f"{folder}/s"
        assert server.ask("GET", "/api/index")[1]["path"] == str(place)
        assert [model["id"] for model in server.ask("GET", "/v1/models")[1]["data"]] == ["emoji-siglip2"]
        assert server.end() == 0
        assert not Path(folder, "s").exists()


@pytest.mark.parametrize(
    ("arguments", "parts", "status"),
    [
        (("--host", "0.0.0.0"), ("--host 0.0.0.0", "--api-key-file"), 2),
        (("--host", "::", "--port", "0"), ("--api-key-file",), 2),
        (("--port", "65536"), ("a port, 0 to 65535",), 2),
        (("--port", "http"), ("a port, 0 to 65535",), 2),
        (("--max-running", "0"), ("above 0",), 2),
        (("--kv-memory", "much"), ("a size such as 4GB",), 2),
        (("--idle-unload", "soon"), ("soon",), 2),
        (("--api-key", "short"), ("too short",), 1),
        (("--api-key", "with spaces in it"), ("odd characters",), 1),
        (("--api-key", "a" * 20, "--api-key-file", "k"), ("--api-key and --api-key-file",), 1),
        (("--api-key-file", "absent"), ("--api-key-file absent",), 1),
        (("--parent-pid", "2147483647"), ("no process 2147483647",), 1),
        (("--index", "absent.mmindex", "--port", "0"), ("absent.mmindex",), 1),
        (("-m", "absent-model", "--port", "0"), ("absent-model",), 1),
        (("-m", "emoji-siglip2", "-m", "emoji-siglip2", "--port", "0"), ("called the same",), 1),
    ],
)
def test_what_it_refuses_to_begin_with(
    arguments: tuple[str, ...], parts: tuple[str, ...], status: int, run: Run, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("serve", *arguments)
    assert (result.status, result.out) == (status, "")
    for part in parts:
        assert part in result.err.splitlines()[-1]
    assert "a" * 20 not in result.err  # a key is never said


def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_mm.cli.serve.find_spec", lambda name: None)
    assert_one_error(run("serve"), "starlette and uvicorn", "pip install 'mlx_mm[serve]'")


@pytest.mark.parametrize(
    ("text", "count"), [("4GB", 4 * 10**9), ("512M", 512 * 10**6), ("1.5k", 1500), ("2GiB", 2 << 30), ("1000", 1000)]
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "4 apples", "1e9", "GB", "99999999999T"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a size such as 4GB"):
        size(text)
