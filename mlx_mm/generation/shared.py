"""A stream that several threads may take from and close: each waits until another has the piece it asked for.

One that closes it need not wait for its turn among those that take: locks here are not fair, so it might never come.
"""

import threading
from collections.abc import Generator
from types import TracebackType
from typing import TypeVar

Piece = TypeVar("Piece")


class Shared(Generator[Piece, None, None]):
    """The pieces of a generator, each of which one thread gets."""

    def __init__(self, pieces: Generator[Piece, None, None]) -> None:
        self._pieces = pieces
        self._taking = threading.RLock()  # which a function of the caller may hold already
        self._closed = False

    def send(self, value: None, /) -> Piece:
        with self._taking:
            if self._closed:
                self._pieces.close()
            return self._pieces.send(value)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: object = None,
        trace: TracebackType | None = None,
        /,
    ) -> Piece:
        with self._taking:
            return self._pieces.throw(kind if isinstance(kind, BaseException) else kind(value))

    def close(self) -> None:
        self._closed = True
        with self._taking:
            self._pieces.close()
