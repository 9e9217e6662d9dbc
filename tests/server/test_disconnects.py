"""Clients that go in the middle of a request: over real sockets, the engine is idle soon, and goes on for others."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asked import SECONDS, idle, question, serving, wait_for

from mlx_mm.server.app import make_app
from mlx_mm.server.engine import Engine
from mlx_mm.server.running import Life, tcp_socket
from mlx_mm.server.security import Access

LONG = question("Hello, how are you? " * 60)
ENDLESS = 30_000  # tokens: an answer that ends only because nobody waits for it
Server = tuple[Engine, int]


@pytest.fixture
def server(tiny_checkpoint: Callable[..., Path]) -> Iterator[Server]:
    """Answers one at a time, and reads prompts slowly."""
    with (
        serving(tiny_checkpoint("glm46v", name="glm"), prefill=8, max_running=1) as engine,
        tcp_socket("127.0.0.1", 0) as bound,
    ):
        life, ready = Life(), threading.Event()
        app = make_app(engine, Access(hosts=("127.0.0.1",)))
        thread = threading.Thread(target=life.run, args=(app, bound, ready.set, lambda: None))
        thread.start()
        assert ready.wait(SECONDS)
        yield engine, bound.getsockname()[1]
        life.die()
        thread.join(SECONDS)
        assert not thread.is_alive()


def asking(port: int, messages: list[Any], *, stream: bool, tokens: int = 600) -> socket.socket:
    body = {"model": "glm", "messages": messages, "stream": stream, "max_tokens": tokens, "temperature": 0}
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return client


def close(client: socket.socket) -> None:
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def time_out(client: socket.socket) -> None:
    """One that waits no longer, as clients do."""
    client.settimeout(0.001)
    with contextlib.suppress(TimeoutError):
        while client.recv(1 << 16):
            continue
    client.close()


@pytest.mark.parametrize("leave", [close, reset, time_out])
@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_is_forgotten(server: Server, leave: Callable[[socket.socket], None], stream: bool) -> None:
    """While it is written, while its prompt is read, and while it waits."""
    engine, port = server
    writing = asking(port, question("Hello."), stream=stream, tokens=ENDLESS)
    wait_for(lambda: engine.stats()["generated_tokens_total"] > 0)
    read = engine.stats()["prompt_tokens_total"]
    reading = asking(port, LONG, stream=stream, tokens=ENDLESS)
    wait_for(lambda: engine.stats()["waiting"] == 1)
    waiting = asking(port, LONG, stream=stream, tokens=ENDLESS)
    wait_for(lambda: engine.stats()["waiting"] == 2)
    leave(waiting)
    wait_for(lambda: engine.stats()["cancelled_total"] == 1)
    leave(writing)
    wait_for(lambda: engine.stats()["prompt_tokens_total"] > read)
    leave(reading)
    wait_for(lambda: engine.stats()["cancelled_total"] == 3)
    stats = idle(engine)
    assert stats["generated_tokens_total"] < ENDLESS
    with asking(port, question("Hello."), stream=False, tokens=2) as client:
        assert b"200 OK" in client.recv(1 << 16)
