"""What one trial comes to, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLEAN, ACCEPTED = "clean error", "accepted"
TRACEBACK, HANG, CRASH = "traceback", "hang", "crash"
NOT_FINITE, TOO_LARGE = "not finite", "over 1 GB"
BAD_OUTPUT, LEFT, REACHED_OUT = "bad output", "left behind", "reached out"
GOOD = (CLEAN, ACCEPTED)
FAULTS = (TRACEBACK, HANG, CRASH, NOT_FINITE, TOO_LARGE, BAD_OUTPUT, LEFT, REACHED_OUT)

MOST_MEMORY = 1 << 30  # bytes that one input may cost at its peak
MOST_MESSAGE = 5000  # characters of an error's text

Trial = Callable[[], object]


class NotFiniteError(Exception):
    """A trial was given NaN, infinity or a vector of length zero as a result."""


class BadOutputError(Exception):
    """A trial was given a result of another form than was promised."""


class CrashedError(Exception):
    """A process of its own that a trial started died of a signal."""


class HungError(Exception):
    """A process of its own that a trial started did not end."""


class ElsewhereError(Exception):
    """A traceback that another process printed. text: its last line; frame, trace: as of an `Outcome`."""

    def __init__(self, text: str, frame: str, trace: str) -> None:
        super().__init__(text)
        self.frame, self.trace = frame, trace


@dataclass(frozen=True)
class Outcome:
    """what: one of `GOOD` or of `FAULTS`. error: the exception's type and text, or what else was found. frame: the
    innermost place in mlx_mm, `file:line function`. trace: all of it. seconds, megabytes: what the input cost."""

    what: str
    error: str = ""
    frame: str = ""
    trace: str = ""
    seconds: float = 0.0
    megabytes: int = 0


def judge(trial: Trial, folder: Path | None = None) -> Outcome:
    """Run one trial, which may return one of `GOOD`.

    folder: it may write only in the subfolder `in` of it, and must leave no half-made file there.
    """
    before, start = _resident(), time.perf_counter()
    _forget_peak()
    watch = _Watch(folder)
    what, error, frame, trace = ACCEPTED, "", "", ""
    try:
        with warnings.catch_warnings(), watch:
            warnings.simplefilter("ignore")
            result = trial()
            what = result if isinstance(result, str) and result in GOOD else ACCEPTED
    except KeyboardInterrupt:
        raise
    except BaseException as caught:  # whatever gets out is what we look for
        what, error = _class_of(caught), _text(caught)
        if isinstance(caught, ElsewhereError):
            error, frame, trace = _line(str(caught)), caught.frame, caught.trace
        else:
            frame, trace = _frame(caught), "".join(traceback.format_exception(caught))
    seconds, grown = time.perf_counter() - start, max(0, _peak() - before)
    if what in GOOD and (found := watch.found()):
        what, error = found
    if what in (*GOOD, TRACEBACK) and grown > MOST_MEMORY:
        what, error = TOO_LARGE, f"{grown >> 20:,} MB; {error}"
    return Outcome(what, error, frame, trace, seconds, grown >> 20)


def _class_of(error: BaseException) -> str:
    from mlx_mm.errors import MlxMmError

    kinds: dict[type[BaseException], str] = {
        NotFiniteError: NOT_FINITE,
        BadOutputError: BAD_OUTPUT,
        CrashedError: CRASH,
        HungError: HANG,
        MemoryError: TOO_LARGE,
    }
    for kind, what in kinds.items():
        if isinstance(error, kind):
            return what
    if not isinstance(error, MlxMmError):
        return TRACEBACK
    return CLEAN if 0 < len(str(error)) <= MOST_MESSAGE else BAD_OUTPUT


def _text(error: BaseException) -> str:
    return _line(f"{type(error).__name__}: {error}")


def _line(text: str) -> str:
    """Of one line, and of characters that can be printed."""
    plain = text[:2000].encode("ascii", "backslashreplace").decode()
    return " ".join("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in plain).split())[:400]


def _frame(error: BaseException) -> str:
    """Of the exception itself or of what caused it, the innermost line in mlx_mm; else the innermost of all."""
    stack = traceback.extract_tb(error.__traceback__)
    for line in reversed(stack):
        if "/mlx_mm/" in line.filename:
            return f"mlx_mm/{line.filename.rpartition('/mlx_mm/')[2]}:{line.lineno} {line.name}"
    return f"{Path(stack[-1].filename).name}:{stack[-1].lineno} {stack[-1].name}" if stack else ""


# --- memory, Linux only: elsewhere the peak cannot be set back, and nothing is counted


def _forget_peak() -> None:
    for pid in _family():
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def _resident() -> int:
    """Bytes that this process and the ones it started hold."""
    return sum(kilobytes(pid, "VmRSS:") for pid in _family()) << 10


def _peak() -> int:
    """The sum of the most that each has held since the peak was forgotten."""
    return sum(kilobytes(pid, "VmHWM:") for pid in _family()) << 10


def _family() -> list[int]:
    """This process and those that it started, and those that they started."""
    found = [os.getpid()]
    for pid in found:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                found += map(int, path.read_text().split())
    return found


def kilobytes(pid: int, name: str) -> int:
    """A line of /proc/PID/status; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


# --- files and network


class _Watch:
    """Notes, while it is entered, what is opened beyond the folder, and afterwards what is left in it."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else os.path.realpath(folder)
        self._before = self._listing()
        self._reached: list[str] = []

    def __enter__(self) -> None:
        if self.folder is not None:
            _install()
            _watching.append(self)

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            _watching.remove(self)

    def found(self) -> tuple[str, str] | None:
        """The class and the words of a fault."""
        if self._reached:
            return REACHED_OUT, "; ".join(self._reached[:3])
        left = sorted(self._listing() - self._before)
        return (LEFT, ", ".join(map(ascii, left[:5]))) if left else None

    def _listing(self) -> set[str]:
        """All beside `in`, and in it what starts with a dot, as half-made files do, or is called `ran`."""
        if self.folder is None:
            return set()
        top = {name for name in os.listdir(self.folder) if name != "in"}
        top |= {f"tmp/{name}" for name in os.listdir(Path(self.folder, "tmp"))}
        inside = os.path.join(self.folder, "in")
        for parent, folders, files in os.walk(inside):
            top |= {
                os.path.join(os.path.relpath(parent, self.folder), name)
                for name in [*folders, *files]
                if name.startswith(".") or name == "ran"
            }
        return top

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An event of `sys.audit`."""
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str | bytes | os.PathLike):
                self._check_path(event, os.fsdecode(path))
        elif event in ("os.remove", "os.rmdir", "shutil.rmtree", "os.mkdir"):
            self._check_path(event, os.fsdecode(arguments[0]))
        elif event == "os.rename":
            for path in arguments[:2]:
                self._check_path(event, os.fsdecode(path))
        elif event in ("os.system", "os.exec", "pty.spawn"):
            self._reached.append(f"{event} {ascii(arguments)[:100]}")

    def _check_path(self, event: str, name: str) -> None:
        path = os.path.realpath(name)
        if self.folder is not None and not path.startswith((self.folder, "/dev/", "/proc/self/")):
            self._reached.append(f"{event} {path}"[:200])


_watching: list[_Watch] = []
_allowed = threading.local()


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Inside, this thread may do what the harness itself has to."""
    before = getattr(_allowed, "all", False)
    _allowed.all = True
    try:
        yield
    finally:
        _allowed.all = before


def _install() -> None:
    """Hooks cannot be taken away again, so there is one, which does nothing outside trials."""
    if not getattr(sys, "mlx_mm_fuzz_hook", False):
        sys.mlx_mm_fuzz_hook = True  # type: ignore[attr-defined]
        sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or getattr(_allowed, "all", False):
        return
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = host[0] if isinstance(host, tuple) else host
        if not (isinstance(host, str | bytes) and _is_own(os.fsdecode(host))):
            raise OSError(f"no network in trials: {ascii(host)[:80]}")
    for watch in _watching:
        watch.note(event, arguments)


def _is_own(host: str) -> bool:
    """This machine: where the server of the trials listens."""
    return host in ("localhost", "::1") or host.startswith(("127.", "/"))
