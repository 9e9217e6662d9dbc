"""A server of two ranks: each answer is that of one process which has nothing else to do, and one end ends both."""

from __future__ import annotations

import http.client
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import SECONDS, question, questions, wait_for
from comparing import LONG
from PIL import Image
from several import idles, run_all, started
from shown import png, uri

import mlx_mm

Checkpoint = Callable[..., Path]
Body = dict[str, Any]

pytestmark = [*LONG]
_PORTS = itertools.count(0, 10_001)
WORDS = ("-m", "mlx_mm", "serve", "--port", "0", "--ready-json")
CHAT = "/v1/chat/completions"
ENDLESS = 30_000  # tokens
USAGE = {"include_usage": True}


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where kernels round inputs to 8 bits, a sum in another order may round otherwise."""
    monkeypatch.setenv("MLX_MM_CPU", "exact")
    monkeypatch.setenv("MLX_MM_THREADS", "1")


def part(array: np.ndarray) -> Body:
    """Of a message: 3 axes are a picture, 4 a video of half a second for each frame."""
    if array.ndim == 3:
        return {"type": "image_url", "image_url": {"url": uri("image/png", png(Image.fromarray(array)))}}
    file, frames = io.BytesIO(), [Image.fromarray(frame) for frame in array]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=500)
    return {"type": "video_url", "video_url": {"url": uri("image/png", file.getvalue())}}


def sent(messages: list[Any]) -> list[Any]:
    """Messages of `asked` in OpenAI's shape."""
    (message,) = messages
    return [{"role": "user", "content": [part(p[p["type"]]) if p["type"] != "text" else p for p in message["content"]]}]


def bodies(model: str) -> list[Body]:
    """Eight requests, with answers of different lengths; half of them are streamed."""
    common = {"model": model, "temperature": 0, "reasoning_effort": "none"}
    return [
        {**common, "messages": sent(messages), "max_tokens": 6 + 5 * index, "stream": index % 2 == 0}
        for index, messages in enumerate(questions())
    ]


class Server:
    """said: its line of JSON."""

    def __init__(self, line: str) -> None:
        self.said = json.loads(line)

    @contextmanager
    def asking(self, method: str, path: str, body: Body | None = None) -> Iterator[http.client.HTTPResponse]:
        """A client that leaves at the end."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.said["port"], timeout=SECONDS)) as connection:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                yield response

    def post(self, path: str, body: Body) -> tuple[int, str]:
        with self.asking("POST", path, body) as response:
            return response.status, response.read().decode()

    def health(self) -> Body:
        with self.asking("GET", "/health") as response:
            return json.loads(response.read())

    def answer(self, body: Body) -> tuple[int, str, str]:
        """What is said, why it ends, and how many tokens it has."""
        status, data = self.post(CHAT, body | ({"stream_options": USAGE} if body["stream"] else {}))
        assert status == 200, data
        if not body["stream"]:
            found = json.loads(data)
            choice = found["choices"][0]
            return found["usage"]["completion_tokens"], choice["finish_reason"], choice["message"]["content"] or ""
        events = [json.loads(line[6:]) for line in data.splitlines() if line.startswith("data: {")]
        choices = [event["choices"][0] for event in events if event["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        return events[-1]["usage"]["completion_tokens"], choices[-1]["finish_reason"], text

    def idle(self) -> None:
        wait_for(lambda: (now := self.health())["running"] == 0 == now["waiting"])


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], Server]]:
    """A process, and the server that it is or starts; what it says of itself goes to the file `said`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(mlx_mm.__file__).parents[1])}
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=env, text=True
        )
    assert process.stdout is not None
    server = Server(process.stdout.readline())
    try:
        yield process, server
    finally:
        if process.poll() is None:
            os.kill(server.said["pid"], signal.SIGTERM)  # and of several ranks the others with it
            process.wait(60)
        process.communicate()


def launched(folder: Path, *words: str) -> list[str]:
    """Two ranks of a server, by MLX's launcher."""
    port = 20_000 + next(_PORTS) + os.getpid() % 1000 * 10
    return ["mlx.launch", "-n", "2", "--verbose", "--starting-port", str(port), "--", sys.executable, *WORDS, *words]


@pytest.mark.parametrize("recipe", ["glm46v", "glm4v_moe", "emoji-glm4v"])
def test_each_is_that_of_one_process(recipe: str, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Also with what is kept of prompts, and beside one who leaves; at the end both end well."""
    model = recipe if recipe.startswith("emoji") else str(tiny_checkpoint(recipe))
    words = ["-m", "emoji-siglip2", "-m", model]
    asked, embedded = bodies(Path(model).name), {"model": "emoji-siglip2", "input": ["frog", "cat"]}
    with running([sys.executable, *WORDS, *words], tmp_path) as (_, server):
        want = [server.answer(body) for body in asked]
        vectors = server.post("/v1/embeddings", embedded)
    assert len({length for length, _, _ in want}) > 2
    with running(launched(tmp_path, *words), tmp_path) as (launcher, server), ThreadPoolExecutor(9) as clients:
        assert list(clients.map(server.answer, asked)) == want
        long = asked[0] | {"max_tokens": ENDLESS, "stream": True}
        long |= {"messages": question("Hello, how are you? " * 40)}
        with server.asking("POST", CHAT, long) as leaving:
            answers = clients.map(server.answer, reversed(asked))
            leaving.readline()
        assert list(answers) == want[::-1]
        assert server.post("/v1/embeddings", embedded) == vectors
        server.idle()
        again = json.loads(server.post(CHAT, asked[3])[1])
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        os.kill(server.said["pid"], signal.SIGTERM)
        assert launcher.wait(60) == 0
    said = (tmp_path / "said").read_text()
    assert [f"Node with rank {rank} completed" in said for rank in range(2)] == [True, True], said


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_the_server(how: signal.Signals, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Who waits is told."""
    model = tiny_checkpoint("glm46v", name="glm")
    words = [*WORDS, "-m", str(model)]
    body = {"model": "glm", "messages": question("Hello."), "temperature": 0, "max_tokens": ENDLESS}
    with started(tmp_path, words, words) as (first, second), ThreadPoolExecutor(1) as clients:
        assert first.stdout is not None
        server = Server(first.stdout.readline())
        whole = clients.submit(server.post, CHAT, body)
        with server.asking("POST", CHAT, body | {"stream": True}) as streamed:
            assert streamed.status == 200
            wait_for(lambda: server.health()["running"] == 2)
            os.kill(second.pid, how)
            begun = time.monotonic()
            status, answer = whole.result(30)
            assert status == 503
            assert "Rank 1 of 2 has ended" in answer
            assert "Rank 1 of 2 has ended" in streamed.read().decode()
        assert first.wait(30) == 1
        assert time.monotonic() - begun < 30
        assert first.stderr is not None
        assert first.stderr.read().count("Rank 1 of 2 has ended, or cannot be reached") == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_a_rank_sleeps_while_nobody_asks(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """And wakes for a question, and for the end of the other."""
    words = [*WORDS, "-m", str(tiny_checkpoint("glm46v", name="glm"))]
    body = {"model": "glm", "messages": question("Hello."), "temperature": 0, "max_tokens": 4}
    with started(tmp_path, words, words) as (first, second):
        assert first.stdout is not None
        server = Server(first.stdout.readline())
        answers = []
        for _ in range(2):
            answers.append(json.loads(server.post(CHAT, body)[1])["choices"])
            server.idle()
            time.sleep(0.5)
            assert idles(second.pid)
        assert answers == answers[:1] * 2
        first.kill()
        assert second.wait(30) == 1
        assert second.stderr is not None
        assert "Rank 0 of 2 has ended" in second.stderr.read()


def test_ranks_divide_one_model_that_answers(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    words = [*WORDS, "-m", str(tiny_checkpoint("glm46v", name="one")), "-m", str(tiny_checkpoint("glm46v", name="two"))]
    (first, _, said), (second, _, _) = run_all(tmp_path, words, words)
    assert (first, second) == (1, 1)
    assert "one, two answer; expected one" in said
