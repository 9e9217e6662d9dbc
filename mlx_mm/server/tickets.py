"""What the engine promises for a request: its events as they come, its result, and its end when nobody waits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeAlias, TypeVar

from mlx_mm.errors import MlxMmError
from mlx_mm.generation.answer import Generation

Result = TypeVar("Result")


class Refused(MlxMmError):  # noqa: N818
    """A request that the engine does not take."""


class QueueFull(Refused):
    """Too many requests wait. retry_after: seconds after which it may be tried again."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooLong(Refused):
    """A request that cannot fit, however long it waits."""


class EngineDead(Refused):
    """The engine has ended, or a bug has ended it."""


class Broken(Refused):
    """What the machine, or this package, could not do, and no other request would have changed."""


class UnknownModel(Refused):
    """A model that is not served."""


@dataclass(frozen=True)
class Reading:
    """So many tokens of a prompt have run, out of `total`."""

    done: int
    total: int


@dataclass(frozen=True)
class Piece:
    """What a token adds to an answer."""

    value: Generation


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The end of what succeeded.

    result: all of it; of a chat the whole answer. prompt_tokens: of the texts or the prompt, those of pictures and
    frames among them. media_tokens: these. cut: numbers of the texts that were longer than the model reads.
    reasoning_tokens: of the answer, those that added to its reasoning.
    """

    result: Result
    prompt_tokens: int = 0
    media_tokens: int = 0
    cut: tuple[int, ...] = ()
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Failed:
    """The end of what did not."""

    error: MlxMmError


Event: TypeAlias = "Reading | Piece | Done[Result] | Failed"


class Ticket(Generic[Result]):
    """One request. Any thread may use it."""

    def __init__(self, wake: Callable[[], None] = lambda: None, left: Callable[[], None] = lambda: None) -> None:
        """wake: called after `cancel`. left: called once, when the engine has no more to do with it."""
        self._wake = wake
        self._left: Callable[[], None] | None = left
        self._lock = threading.RLock()
        self._events: list[Event[Result]] = []
        self._callback: Callable[[Event[Result]], None] | None = None
        self._ended = threading.Event()
        self.cancelled = False

    def on_event(self, callback: Callable[[Event[Result]], None]) -> None:
        """Have `callback` called with each event, those that came already first; by the engine's threads from then on.

        It must return at once. The last event is Done or Failed; after `cancel` there are none, nor after an error of
        `callback`, which is reported as that of a thread.
        """
        with self._lock:
            self._callback = callback
            events, self._events = self._events, []
            for event in events:
                callback(event)

    def cancel(self) -> None:
        """Nobody waits for it any more: it leaves the engine within a step. After its end nothing happens."""
        with self._lock:
            self.cancelled = True
            self._callback = None
        self._wake()

    @property
    def ended(self) -> bool:
        """Whether its last event has come."""
        return self._ended.is_set()

    def send(self, event: Event[Result]) -> None:
        """Hand on an event. The engine calls it."""
        last = isinstance(event, Done | Failed)
        if last:
            self.leave()
        with self._lock:
            if self.cancelled or self.ended:
                return
            if self._callback is None:
                self._events.append(event)
            else:
                self._call(self._callback, event)
            if last:
                self._ended.set()

    def _call(self, callback: Callable[[Event[Result]], None], event: Event[Result]) -> None:
        with contextlib.ExitStack() as raised:
            raised.push(self._report)
            callback(event)

    def _report(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """A callback's bug is that of one request: the engine goes on as if nobody waited for it."""
        if kind is None or not isinstance(error, Exception):
            return False
        self.cancel()
        threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
        return True

    def leave(self) -> None:
        """The engine has no more to do with it."""
        with self._lock:
            left, self._left = self._left, None
        if left is not None:
            left()

    def done(self, timeout: float | None = None) -> Done[Result]:
        """Wait for the end, before `on_event` is called. Raises the error of Failed, and TimeoutError after `timeout`
        seconds."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"there is no result after {timeout} s")
        last = self._events[-1]
        if isinstance(last, Failed):
            raise last.error
        assert isinstance(last, Done)
        return last

    def events(self) -> list[Event[Result]]:
        """Those that no callback has had."""
        with self._lock:
            return list(self._events)
