"""A web application of twenty lines streams to many clients at once, each the text that it would have had alone."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from comparing import LONG
from recipes import RECIPES

from mlx_mm import generate, load, stream_generate

pytestmark = [*LONG]

applications = pytest.importorskip("starlette.applications", reason="pip install '.[test]'")
responses = pytest.importorskip("starlette.responses")
routing = pytest.importorskip("starlette.routing")
uvicorn = pytest.importorskip("uvicorn", reason="pip install '.[test]'")

CLIENTS = 32
Answer = dict[str, Any]


def make_app(model: Any, processor: Any, ended: Callable[[], None]) -> Any:
    """Starlette takes each piece in whichever thread of its pool is free."""

    def pieces(asked: Answer) -> Iterator[str]:
        try:
            for piece in stream_generate(model, processor, **asked):
                yield piece.raw
        finally:
            ended()

    async def answer(request: Any) -> Any:
        return responses.StreamingResponse(pieces(await request.json()), media_type="text/plain")

    return applications.Starlette(routes=[routing.Route("/answer", answer, methods=["POST"])])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(RECIPES["glm4v"].write(tmp_path_factory.mktemp("app") / "glm"))


@pytest.fixture(scope="module")
def ended() -> threading.Semaphore:
    """Released at the end of each stream."""
    return threading.Semaphore(0)


@pytest.fixture(scope="module")
def port(loaded: Any, ended: threading.Semaphore) -> Iterator[int]:
    """Where the application listens."""
    config = uvicorn.Config(make_app(*loaded, ended.release), log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=2 * CLIENTS) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


@contextlib.contextmanager
def answered(port: int, asked: Answer) -> Iterator[http.client.HTTPResponse]:
    """A response, of which nothing is read yet; whoever goes leaves."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/answer", json.dumps(asked))
        with connection.getresponse() as response:
            yield response


def read(port: int, asked: Answer) -> str:
    with answered(port, asked) as response:
        assert response.status == 200
        return response.read().decode()


def questions(count: int) -> list[Answer]:
    words = ("hello", "What is this?", "Tell")
    chosen = {"max_tokens": 6, "temperature": 1.0, "top_k": 30}
    return [{"prompt": words[i % 3], "seed": i, **chosen} for i in range(count)]


def test_streams_to_many_clients_at_once(loaded: Any, port: int) -> None:
    asked = questions(CLIENTS)
    right = [generate(*loaded, **question).raw for question in asked]
    assert len(set(right)) > CLIENTS / 2
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(lambda question: read(port, question), asked))
    assert found == right


def test_a_client_that_leaves_early(loaded: Any, port: int, ended: threading.Semaphore) -> None:
    """Its stream is closed, by another thread than those that took the pieces, and the next question is answered."""
    question = questions(1)[0]
    right = generate(*loaded, **question).raw
    while ended.acquire(blocking=False):  # those before
        pass
    for _ in range(3):
        with answered(port, question | {"max_tokens": 400}) as response:
            assert response.read(1)
        assert read(port, question) == right
    gc.collect()  # Starlette drops a stream in a circle of references
    for _ in range(6):
        assert ended.acquire(timeout=60)
