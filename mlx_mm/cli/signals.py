"""Signals that end a run from outside: they unwind it as Ctrl-C does, so that nothing half-written is left."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

ENDING = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Terminated(BaseException):
    """A signal of `ENDING` came. status: of the process, as shells report it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.status = 128 + number


@contextlib.contextmanager
def unwinding(*, last: bool) -> Iterator[None]:
    """Inside, the signals of `ENDING` raise `Terminated`, unless they are ignored already, as under `nohup`.

    The first one counts: from then on these and Ctrl-C are ignored, so that nothing interrupts what unwinds. last: the
    process ends with the block, so that they are ignored after it, too; else all is as before.
    Python hands signals to the main thread; in another, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    for number in ENDING:
        if before[number] == signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        yield
    finally:
        if last:
            ignore()
        else:
            for number, handler in before.items():
                signal.signal(number, handler)


def ignore() -> None:
    """From now on the process ends by itself."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *ENDING):
            signal.signal(number, signal.SIG_IGN)


def _end(number: int, _frame: FrameType | None) -> None:
    ignore()
    raise Terminated(number)
