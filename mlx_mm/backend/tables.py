"""Arrays that are made once and used by many calls, also by those of other threads.

They are evaluated when they are made: what one thread began another cannot finish. The CPU makes them, for a GPU too,
which therefore neither waits for them nor is waited for.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import mlx.core as mx

from mlx_mm.backend import device

Shapes = ParamSpec("Shapes")
Table = TypeVar("Table", mx.array, tuple[mx.array, ...])


def evaluated(make: Callable[[], Table]) -> Table:
    """What `make` returns, ready for any thread."""
    with contextlib.nullcontext() if device.on_cpu() else mx.stream(mx.cpu):
        table = make()
        mx.eval(table)
    return table


def made_once(most: int) -> Callable[[Callable[Shapes, Table]], Callable[Shapes, Table]]:
    """A function of numbers alone, such as sizes, whose results for the last `most` of them are kept.

    Numbers that are equal, as 1 and 1.0, have one result. Nobody may write into it.
    """

    def decorate(make: Callable[Shapes, Table]) -> Callable[Shapes, Table]:
        @functools.wraps(make)
        def make_now(*sizes: Shapes.args, **options: Shapes.kwargs) -> Table:
            return evaluated(lambda: make(*sizes, **options))

        return cast(Callable[Shapes, Table], functools.lru_cache(most)(make_now))

    return decorate
