"""Ranks: processes, on one machine or several, that each have a part of one model. MLX's distributed engine joins them.

Every rank must ask for the same things in the same order: a sum waits until all ranks have asked for it.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

import mlx.core as mx
import numpy as np

from mlx_mm.backend.meeting import meet
from mlx_mm.backend.native.views import is_view, view
from mlx_mm.backend.streams import computing
from mlx_mm.errors import InputError, RanksError, foreign, reason, shown

Group: TypeAlias = mx.distributed.Group
# What those who start several ranks tell each: mlx.launch, Open MPI, and others of MPI
LAUNCHERS = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
HOW_TO_LAUNCH = "Start each rank with mlx.launch, such as: mlx.launch -n 2 -- mlx_mm generate …"
WORD = 4  # bytes of an int32


def is_launched() -> bool:
    """Whether this process was started as one of several ranks."""
    return any(os.environ.get(name) for name in LAUNCHERS)


def join(seconds: float) -> Group:
    """The group of all ranks. Raises InputError in a process that was started alone, and RanksError where the others
    do not come within so many seconds, a limit that only the main thread can set."""
    if not is_launched():
        raise InputError(f"This process was started alone; expected one of several ranks. {HOW_TO_LAUNCH}")
    advice = f"expected all to start together. {HOW_TO_LAUNCH}"
    with foreign(RanksError, "The ranks cannot find each other", advice):
        meet(seconds)
        with _interrupted(seconds):
            group = mx.distributed.init(strict=True)
    return checked(group)


@contextlib.contextmanager
def _interrupted(seconds: float) -> Iterator[None]:
    """Inside, a call of the system that waits for others fails in the end: MLX waits with the interpreter's lock, so
    that no thread of Python could end it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # and again, should it come just before the call
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def checked(group: object) -> Group:
    """A group of two ranks or more; InputError for anything else."""
    if not isinstance(group, Group):
        raise InputError(f"group is {shown(group)}; expected that of mlx.core.distributed.init(). Leave it out.")
    if group.size() < 2:
        raise InputError(f"group has one rank, this process; expected two or more. {HOW_TO_LAUNCH}")
    return group


@contextlib.contextmanager
def in_touch() -> Iterator[None]:
    """Inside, what MLX raises where a connection to another rank ends is a RanksError."""
    try:
        yield
    except RuntimeError as error:
        raise RanksError(
            f"The ranks do not compute together any more ({reason(error)}); expected all to the end. See what each "
            "rank said, and start all again."
        ) from error


def summed(x: mx.array, group: Group) -> mx.array:
    """The sum of what the ranks have, which all get; an array, or a view within `run`."""
    if is_view(x):
        total = mx.distributed.all_sum(mx.array(x), group=group)
        mx.eval(total)
        return cast(mx.array, view(total))
    return mx.distributed.all_sum(x, group=group)


def from_first(x: mx.array, group: Group) -> mx.array:
    """What rank 0 has, for all ranks; the others give an array of the same shape and dtype."""
    return mx.distributed.all_sum(x if group.rank() == 0 else mx.zeros_like(x), group=group)


def joined(x: mx.array, sizes: Sequence[int], group: Group) -> mx.array:
    """What the ranks have of a last axis, one after the other: (…, own size) -> (…, sum of sizes)."""
    missing = max(sizes) - x.shape[-1]
    padded = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x
    parts = mx.distributed.all_gather(padded[None], group=group)
    return mx.concatenate([parts[rank, ..., :size] for rank, size in enumerate(sizes)], axis=-1)


def give(x: mx.array, rank: int, group: Group) -> None:
    """Give numbers to a neighbour of this rank, the first and the last being neighbours too; it calls `take`."""
    mx.eval(mx.distributed.send(x, rank, group=group))


def take(like: mx.array, rank: int, group: Group) -> mx.array:
    """Numbers that a neighbour gives, of a shape and dtype that both know."""
    taken = mx.distributed.recv_like(like, rank, group=group)
    mx.eval(taken)  # at once: MLX does not know that it comes after what this rank gave
    return taken


def gathered(numbers: Sequence[int], group: Group) -> list[list[int]]:
    """The int32 numbers of each rank, equally many of each."""
    with computing():
        return cast(list[list[int]], mx.distributed.all_gather(mx.array([numbers], mx.int32), group=group).tolist())


def tell(numbers: Sequence[int], group: Group) -> None:
    """Give int32 numbers of rank 0, this one, to the others, who ask for them by `told`. It is not waited for."""
    with computing():
        mx.async_eval(from_first(mx.array(list(numbers), mx.int32), group))


def told(count: int, group: Group) -> list[int]:
    """So many numbers that rank 0 tells."""
    with computing():
        return cast(list[int], from_first(mx.zeros(count, mx.int32), group).tolist())


def tell_bytes(data: bytes, group: Group) -> None:
    """Give bytes of rank 0, this one, to the others, who ask for them by `told_bytes`."""
    padded = data.ljust(_words(len(data)) * WORD, b"\0")
    with computing():
        mx.async_eval(from_first(mx.array(np.frombuffer(padded, np.int32)), group))


def told_bytes(size: int, group: Group) -> bytes:
    """So many bytes that rank 0 tells."""
    with computing():
        total = from_first(mx.zeros(_words(size), mx.int32), group)
        mx.eval(total)
    return np.asarray(total).tobytes()[:size]


def _words(size: int) -> int:
    return -(-size // WORD)
