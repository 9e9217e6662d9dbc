"""How a server begins and ends: its sockets, signals, its parent, and an engine that has died."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_mm
from mlx_mm.errors import InputError, OutputError
from mlx_mm.server.running import DIED, Life, tcp_socket, unix_socket

# A server without models: / answers, /forever never ends what it begins, /die is an engine that dies.
SERVER = """
import sys
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from mlx_mm.server.running import Life, tcp_socket
import asyncio

async def endless():
    yield "begun"
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise

async def forever(_):
    return StreamingResponse(endless())

async def die(_):
    life.die()
    return PlainTextResponse("dying")

async def here(_):
    return PlainTextResponse("here")

app = Starlette(routes=[Route("/", here), Route("/forever", forever), Route("/die", die)])
life = Life(int(sys.argv[1]) if len(sys.argv) > 1 else None)
with tcp_socket("127.0.0.1", 0) as bound:
    status = life.run(
        app, bound, lambda: print(bound.getsockname()[1], flush=True), lambda: print("ending", flush=True)
    )
print("ended", flush=True)
sys.exit(status)
"""


class Running:
    """A process of SERVER."""

    def __init__(self, *arguments: object) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(mlx_mm.__file__).parents[1])}
        command = [sys.executable, "-c", SERVER, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.watch = threading.Timer(60, self.process.kill)
        self.watch.start()
        self.opened: list[http.client.HTTPConnection] = []
        self.port = int(self.line())

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def get(self, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self.opened.append(connection)
        connection.request("GET", path)
        return connection.getresponse()

    def end(self) -> None:
        self.watch.cancel()
        self.process.kill()
        self.process.communicate()
        for connection in self.opened:
            connection.close()


@pytest.fixture
def running() -> Iterator[Running]:
    server = Running()
    yield server
    server.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it(running: Running, number: signal.Signals) -> None:
    assert running.get("/").read() == b"here"
    running.process.send_signal(number)
    assert [running.line(), running.line(), running.process.wait(30)] == ["ending", "ended", 0]
    with pytest.raises(ConnectionRefusedError):
        running.get("/")


def test_a_second_signal_waits_for_no_answer(running: Running) -> None:
    answer = running.get("/forever")
    assert answer.read(5) == b"begun"
    running.process.send_signal(signal.SIGINT)
    assert running.line() == "ending"
    running.process.send_signal(signal.SIGINT)
    assert sorted([running.line(), running.line(), running.line()]) == ["cancelled", "ended", "ending"]
    assert running.process.wait(30) == 0


def test_an_engine_that_has_died_ends_it(running: Running) -> None:
    assert running.get("/die").read() == b"dying"
    assert running.process.wait(30) == DIED


def test_it_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        server = Running(parent.pid)
        assert server.get("/").read() == b"here"
        parent.communicate(b"\n")
    try:
        assert [server.line(), server.line(), server.process.wait(30)] == ["ending", "ended", 0]
    finally:
        server.end()
    with pytest.raises(InputError, match=f"no process {parent.pid}"):
        Life(parent.pid)


def test_a_port_is_free_or_refused() -> None:
    with tcp_socket("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(OutputError, match=f"127.0.0.1 port {port} .*--port"), tcp_socket("127.0.0.1", port):
            pass
    with pytest.raises(InputError, match=r"no\.such\.host"), tcp_socket("no.such.host.invalid", 0):
        pass
    with pytest.raises(OutputError, match=r"192\.0\.2\.1"), tcp_socket("192.0.2.1", 0):
        pass


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of a short name, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="mm", dir="/tmp") as name:
        yield Path(name)


def test_a_socket_of_its_owner(folder: Path) -> None:
    path = folder / "s"
    with unix_socket(path) as bound:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        bound.listen()
        with pytest.raises(OutputError, match="a server listens there"), unix_socket(path):
            pass
        assert path.exists()
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))  # by a server that was killed
    with unix_socket(path):
        assert path.exists()
    path.write_text("mine")
    with pytest.raises(OutputError, match="another file"), unix_socket(path):
        pass
    assert path.read_text() == "mine"
    with pytest.raises(OutputError, match="short path"), unix_socket(folder / ("s" * 200)):
        pass
