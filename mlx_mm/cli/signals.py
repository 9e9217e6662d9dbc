"""Signals that end a run: each unwinds it as Ctrl-C does, so that nothing half-written is left."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from functools import partial
from types import FrameType

from mlx_mm.checkpoint.undisturbed import Section, disturb

ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Raised:
    """number: of the signal that was raised last. A C library that is just being imported may make an ImportError of
    it, as NumPy does."""

    number: int | None = None


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
    before = {number: signal.getsignal(number) for number in ENDING}
    Section.held = True
    for number, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _handle)
    try:
        yield
    finally:
        Section.held = True
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)
        Section.held, Section.waiting, Raised.number = False, None, None


def _handle(number: int, _frame: FrameType | None) -> None:
    disturb(partial(_raise, number))


def _raise(number: int) -> None:
    Raised.number = number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number)
