"""What the other ranks of a model in parts have for something of rank 0: a cache, or a request."""

import itertools
import weakref
from collections import deque

_numbers = itertools.count(1)
_forgotten: deque[int] = deque()


class Twin:
    """What the others know by a number. They may forget it when nothing here has this object any more."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        weakref.finalize(self, _forgotten.append, self.number).atexit = False


def forgotten() -> list[int]:
    """The numbers of those that nothing has any more, each of which is told once."""
    return [_forgotten.popleft() for _ in range(len(_forgotten))]
