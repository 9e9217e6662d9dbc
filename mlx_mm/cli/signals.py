"""Signals that end a run: each unwinds it as Ctrl-C does, so that nothing half-written is left."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from types import FrameType

from mlx_mm.checkpoint.undisturbed import Section, disturb

ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


KEPT = "nothing half-written was kept"


class Raised:
    """number: of the signal that was raised last. outcome: what is said then of the results."""

    number: int | None = None
    outcome = KEPT


class Terminated(BaseException):
    """SIGTERM or SIGHUP came. status: of the process, as shells report it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.status = 128 + number


@contextlib.contextmanager
def unwinding(*, last: bool) -> Iterator[None]:
    """Inside, SIGINT raises KeyboardInterrupt, and SIGTERM and SIGHUP raise `Terminated`, outside of held sections.

    It begins and ends with one: nothing is raised before `undisturbed.end()`, nor after `Section.held = True`.
    A signal that is ignored already, as by `nohup`, stays so. last: the process ends with the block, and signals do
    nothing more; else all is as before. Python hands signals to the main thread; in another, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = {number: signal.getsignal(number) for number in ENDING}, sys.unraisablehook
    Section.held, Raised.outcome = True, KEPT
    # A signal in the middle of an object's making leaves one that cannot be unmade, which is no news then.
    sys.unraisablehook = lambda what: hook(what) if Raised.number is None else None
    for number, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _handle)
    try:
        yield
    finally:
        Section.held = True
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)
        Section.held, Section.waiting = False, None
        if not last:
            sys.unraisablehook, Raised.number = hook, None


@contextlib.contextmanager
def as_itself() -> Iterator[None]:
    """Inside, what a library makes of a signal's exception is that exception again: NumPy, while it is imported, an
    ImportError; an archive that is closed in the middle of a file, a ValueError."""
    try:
        yield
    except Exception as error:
        if Raised.number is None:
            raise
        raise _exception(Raised.number) from error


def _handle(number: int, _frame: FrameType | None) -> None:
    disturb(partial(_raise, number))


def _raise(number: int) -> None:
    Raised.number = number
    raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
