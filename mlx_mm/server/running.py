"""A server's life: the socket it listens on, what says that it is ready, and the four ways in which it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from mlx_mm.errors import InputError, OutputError, reason

DIED = 70  # the exit status where the engine has ended by itself: EX_SOFTWARE of sysexits.h
GRACE_SECONDS = 3  # in which answers may come to an end, once the server does
LOOK_SECONDS = 0.5  # after which it is seen that the parent has gone
HEADER_BYTES = 16 << 10
CONNECTIONS = 128


@contextlib.contextmanager
def tcp_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Bound to an address. port: 0 for one that is free. Raises InputError for a name without an address, OutputError
    where somebody else listens there."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"host is {host!r} ({reason(error)}); expected an address of this machine. Change it."
        ) from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
        except OSError as error:
            raise OutputError(
                f"{host} port {port} cannot be listened on ({reason(error)}); expected one that is free. Choose "
                "another with --port, or 0 for any."
            ) from error
        yield bound


@contextlib.contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Bound to a file that its owner alone may use; it is removed at the end. One that nobody listens on any more is
    replaced. Raises OutputError for any other file, and where a server listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        try:
            _remove_left(path)
            bound.bind(str(path))
            path.chmod(0o600)  # nobody can have connected: it does not listen yet
            made = path.stat().st_ino
        except OSError as error:
            raise OutputError(
                f"{path} cannot be a socket ({reason(error)}); expected a short path in a folder of yours, where no "
                "server listens. Choose another with --uds."
            ) from error
        try:
            yield bound
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == made:
                    path.unlink()


def _remove_left(path: Path) -> None:
    """A socket that a server which was killed has left."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError("there is another file")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise FileExistsError("a server listens there")


class Life:
    """How long a server runs. `die` may be called from any thread, and before it runs."""

    def __init__(self, parent: int | None = None) -> None:
        """parent: the process with which it ends, None for none. Raises InputError where there is none of that
        number."""
        self._parent = parent
        self._child = parent is not None and os.getppid() == parent
        if parent is not None and self._parent_gone():
            raise InputError(f"There is no process {parent}; expected the one to end with. Give its own number.")
        self._died = threading.Event()
        self._stop: Callable[[], None] = lambda: None

    def die(self) -> None:
        """The engine has ended by itself."""
        self._died.set()
        self._stop()

    def run(self, app: ASGIApp, bound: socket.socket, on_ready: Callable[[], None], on_end: Callable[[], None]) -> int:
        """Serve until SIGINT, SIGTERM or SIGHUP, the end of the parent, or that of the engine; the exit status.

        on_ready: called once it listens. on_end: called when the end begins, so that streams without one stop.
        """
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=HEADER_BYTES,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        asyncio.run(self._run(_Server(config, on_ready), bound, on_end))
        return DIED if self._died.is_set() else 0

    async def _run(self, server: _Server, bound: socket.socket, on_end: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            server.force_exit = server.should_exit  # a second signal waits for nobody
            server.should_exit = True
            on_end()

        def stop_from_anywhere() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before
                loop.call_soon_threadsafe(stop)

        self._stop = stop_from_anywhere
        if self._died.is_set():
            return
        with _signals(loop, stop):
            watching = asyncio.create_task(self._watch(stop))
            try:
                await server.serve(sockets=[bound])
            finally:
                watching.cancel()

    async def _watch(self, stop: Callable[[], None]) -> None:
        while self._parent is not None:
            if self._parent_gone():
                stop()
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _parent_gone(self) -> bool:
        """A process whose child we are has gone when we are another's: so its number cannot be a newer one's."""
        assert self._parent is not None
        if self._child:
            return os.getppid() != self._parent
        try:
            os.kill(self._parent, 0)
        except PermissionError:
            return False
        except (ProcessLookupError, OverflowError):
            return True
        return False


class _Server(uvicorn.Server):
    """Leaves signals alone, and says when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """Inside, those that end a process call `stop`; in a thread that gets none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] != signal.SIG_IGN]  # as under nohup
    for number in taken:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])
