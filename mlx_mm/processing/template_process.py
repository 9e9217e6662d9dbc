"""A process in which chat templates run, because they are programs of strangers: what they take has hard limits.

A template can ask Jinja for gigabytes, or for a step that takes hours, in more ways than a sandbox can know. Here the
system bounds its memory (`MAX_BYTES`), and this side its time, by ending the process; the next template gets a new one.
It is started once, serves all templates and threads in turn, and ends with this process, whatever ends that.

Where no Python can be started, as within an application that embeds it, templates run in this process, and only the
limits of `sandbox` hold. macOS may not enforce limits of memory; there, too, time is bounded.
"""

import atexit
import contextlib
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.processing import sandbox
from mlx_mm.processing.template_worker import FULL, MAX_BYTES, READY, REFUSED, REPLY, REQUEST, TEXT

SECONDS_TO_START = 30.0  # on a busy machine; a tenth of a second elsewhere
SECONDS_TO_STOP = 1.0  # that a template has beyond its time to say itself that it is too long
PIECE = 1 << 20  # bytes read at a time
MAX_REPLY = 4 * sandbox.MAX_CHARACTERS

_ENDED = f"its process was ended, as the system does for more than {MAX_BYTES >> 20} MB of memory"
_PACKAGES = ("jinja2", "markupsafe", "mlx_mm")  # that the other process needs
_CODE = "import sys; sys.path += sys.argv[1:]; from mlx_mm.processing.template_worker import serve; serve()"
# Of the environment only where libraries lie and what time it is; the rest is none of a template's business.
_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "TZ", "TZDIR")


class _Shared:
    """lock: held while the process works. process: None before the first and after one that ended. possible: False
    once none could be started."""

    lock = threading.Lock()
    process: "_Process | None" = None
    possible = True


def start() -> None:
    """Begin to start the process, where there is none, and do not wait for it."""
    with _Shared.lock:
        _current()


def render(source: str, values: Mapping[str, object] | None, *, name: str) -> str:
    """What a template writes; "" where there are no values, which only compiles it.

    values: those of JSON. name: what errors call the template. Raises ConfigError for one that cannot be compiled,
    fails on these values, or takes more time or memory than it may have, and InputError where it refuses them.
    """
    seconds = sandbox.MAX_SECONDS
    with _Shared.lock:
        process = _current()
        if process is not None and process.begun():
            found, advice = sandbox.UNREADABLE if values is None else sandbox.FAILING
            request = {"source": source, "values": values, "name": name, "seconds": seconds}
            try:
                return process.ask(request, seconds + SECONDS_TO_STOP)
            except TimeoutError as error:
                raise ConfigError(f"{name} {found} (it ran longer than {seconds} seconds); {advice}") from error
            except EOFError as error:
                raise ConfigError(f"{name} {found} ({error}); {advice}") from error
    return sandbox.render(source, values, name=name, seconds=seconds)


def _current() -> "_Process | None":
    """The process, begun anew where it has ended; None where none can be. To be called with the lock."""
    if _Shared.process is not None and not _Shared.process.lives():
        _Shared.process.end()
        _Shared.process = None
    if _Shared.process is None and _Shared.possible:
        _Shared.process = _started()
        _Shared.possible = _Shared.process is not None
    return _Shared.process


def _started() -> "_Process | None":
    executable = sys.executable or ""
    if getattr(sys, "frozen", False) or not re.match("python|pypy", Path(executable).name, re.IGNORECASE):
        return None  # an application: starting it again would open a second window, or worse
    # Python's own library comes first, so that no file beside one of these can stand in for a part of it.
    roots = (Path(os.path.abspath(sys.modules[name].__path__[0])).parent for name in _PACKAGES)
    try:
        return _Process([executable, "-I", "-S", "-c", _CODE, *map(str, dict.fromkeys(roots))])
    except OSError:
        return None


class _Process:
    """The other process, and the two pipes to it. What it says is not trusted: lengths are checked."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
            start_new_session=True,  # Ctrl-C in a terminal is meant for this process alone
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipes = (self._process.stdin, self._process.stdout)
        self._requests, self._replies = (pipe.fileno() for pipe in self._pipes)
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)
        self._begun = False

    def lives(self) -> bool:
        return self._process.poll() is None

    def begun(self) -> bool:
        """Whether it is ready, for which this waits the first time; if not, it is ended and none is started again."""
        if not self._begun:
            try:
                self._begun = self._exchange(b"", SECONDS_TO_START) == (READY, "")
            except (TimeoutError, EOFError):
                self._begun = False
            _Shared.possible = self._begun
        return self._begun

    def ask(self, request: Mapping[str, object], seconds: float) -> str:
        """The text that a request gives. Raises what it was refused for, TimeoutError, and EOFError for its end."""
        data = json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")
        kind, text = self._exchange(REQUEST.pack(len(data)) + data, seconds)
        if kind == TEXT:
            return text
        if kind == FULL:
            self.end()
        raise (InputError if kind == REFUSED else ConfigError)(text)

    def _exchange(self, data: bytes, seconds: float) -> tuple[int, str]:
        """The reply to some bytes. The process is ended where none comes, or the wait for it is interrupted."""
        last = time.monotonic() + seconds
        with contextlib.ExitStack() as unfinished:
            unfinished.callback(self.end)  # after an interruption, too: the next would get the reply to this
            self._write(data, last)
            kind, size = REPLY.unpack(self._read(REPLY.size, last))
            if size > MAX_REPLY:
                raise EOFError(f"it writes more than {MAX_REPLY >> 20} MB")
            try:
                text = self._read(size, last).decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise EOFError("it writes no text") from error
            unfinished.pop_all()
        return kind, text

    def _write(self, data: bytes, last: float) -> None:
        rest = memoryview(data)
        while rest:
            _wait(self._requests, select.POLLOUT, last)
            try:
                rest = rest[os.write(self._requests, rest) :]
            except BrokenPipeError:
                raise EOFError(_ENDED) from None

    def _read(self, size: int, last: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            _wait(self._replies, select.POLLIN, last)
            if not (piece := os.read(self._replies, min(PIECE, size - len(data)))):
                raise EOFError(_ENDED)
            data += piece
        return bytes(data)

    def end(self) -> None:
        """Kill it, and leave nothing of it."""
        self._process.kill()
        self._process.wait()
        self._close()

    def forget(self) -> None:
        """In a process that was forked from this one: leave the other to its parent."""
        self._process.returncode = 0
        self._close()

    def _close(self) -> None:
        for pipe in self._pipes:
            pipe.close()


def _wait(pipe: int, event: int, last: float) -> None:
    """Wait until a pipe can be used; TimeoutError where it cannot in time."""
    waiting = select.poll()
    waiting.register(pipe, event)
    if not waiting.poll(max(0.0, last - time.monotonic()) * 1000):
        raise TimeoutError


def _end() -> None:
    """At exit: threads that still wait for a text are not waited for."""
    if _Shared.process is not None:
        _Shared.process.end()


def _after_fork() -> None:
    if _Shared.process is not None:
        _Shared.process.forget()
    _Shared.process, _Shared.lock = None, threading.Lock()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
