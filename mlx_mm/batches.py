"""Prepared items in batches through a model: rows as they come, or all of them in order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mm.backend.border import to_mlx, to_numpy
from mlx_mm.backend.parts import run_in_parts, run_row_by_row
from mlx_mm.errors import InputError, MlxMmError, shown, whole_number
from mlx_mm.models.contracts import Features
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.chunks import by_size, windows
from mlx_mm.processing.fetching import short_name
from mlx_mm.processing.read_ahead import OnError, read_ahead
from mlx_mm.processing.vectors import Vectors, unusable, usable
from mlx_mm.progress import Progress, check_progress, progressing

Name: TypeAlias = Callable[[int], str]  # an item's index -> what a message calls it
Key = TypeVar("Key")

BATCHES_PER_WINDOW = 8  # that are prepared together where sizes differ, so that those of like size share a batch
MOST_AT_ONCE = 512  # items in memory, whatever batch_size says: more in a batch is no faster
MOST_IN_A_BATCH = 10**9  # above it is a slip


@dataclass(frozen=True)
class Running:
    """How items run, whatever they are: how many at a time, with a bar on stderr, what happens to those that have no
    vector, and how many numbers of each vector are kept. Raises InputError for what cannot be used."""

    batch_size: int
    progress: Progress = False
    on_error: OnError | None = None
    dim: int | None = None

    def __post_init__(self) -> None:
        if whole_number("batch_size", self.batch_size) > MOST_IN_A_BATCH:
            raise InputError(
                f"batch_size is {shown(self.batch_size)}; expected at most {MOST_IN_A_BATCH}. Leave it out."
            )
        if self.dim is not None:
            whole_number("dim", self.dim, advice="Leave it out to keep all numbers.")
        check_progress(self.progress)
        if self.on_error is not None and not callable(self.on_error):
            raise InputError(
                f"on_error is {shown(self.on_error)}; expected a function of (index, error). Leave it out to have "
                "errors raised."
            )

    @property
    def at_once(self) -> int:
        """Items in a batch."""
        return min(self.batch_size, MOST_AT_ONCE)

    @property
    def window(self) -> int:
        """Items that are prepared before batches are made of them."""
        return min(self.batch_size * BATCHES_PER_WINDOW, MOST_AT_ONCE)


def rows_of(
    features: Features,
    weights: Sequence[nn.Module | None],
    chunks: Iterable[Sequence[tuple[Key, Batch]]],
    collate: Callable[[Sequence[Batch]], Batch],
    dim: int | None = None,
    row_by_row: bool = False,
) -> Iterator[tuple[list[Key], Vectors]]:
    """The rows (n, D) of each chunk of prepared items, one chunk behind: a GPU computes while they are copied.

    weights: what `features` computes with; of a lazily loaded model nothing else is read. dim: what is above the length
    of the rows is an InputError at the first. row_by_row: on a CPU a row is the same to the last bit, whatever else is
    in its chunk.
    """

    def results() -> Iterator[tuple[list[Key], mx.array]]:
        run = run_row_by_row if row_by_row else run_in_parts
        for chunk in chunks:
            vectors = run(in_float32(features), to_mlx(collate([batch for _, batch in chunk])), list(weights))
            check_dim(dim, vectors.shape[1])
            yield [key for key, _ in chunk], vectors

    return to_numpy(results())


def run_items(
    features: Features,
    weights: Sequence[nn.Module | None],
    count: int,
    prepare: Callable[[int], Batch],
    collate: Callable[[Sequence[Batch]], Batch],
    running: Running,
    name: Name,
    *,
    scores: bool = False,
) -> Vectors:
    """Prepare `count` items in threads, run them in batches of like size, return the rows in input order, (N, D).

    scores: the rows are not vectors, and may be 0. Other arguments as of `rows_of`.
    """
    rows: dict[int, Vectors] = {}

    def skip(index: int, error: MlxMmError) -> None:
        if running.on_error is not None:
            running.on_error(index, error)
        advance(1)

    with (
        progressing(running.progress, count, "embedding", "item") as advance,
        contextlib.closing(
            read_ahead(
                count,
                lambda index: iter([prepare(index)]),
                inputs_ahead=running.window,
                on_error=None if running.on_error is None else skip,
            )
        ) as ready,
    ):
        chunks = (
            chunk
            for items in windows(ready, running.window, running.at_once)
            for chunk in by_size(items, running.at_once)
        )
        for indices, vectors in rows_of(features, weights, chunks, collate, running.dim):
            rows.update(checked(indices, cut(vectors, running.dim), running, name, scores=scores))
            advance(len(indices))
    return stack([rows[index] for index in sorted(rows)])


def checked(
    indices: Sequence[int], vectors: Vectors, running: Running, name: Name, *, scores: bool = False
) -> list[tuple[int, Vectors]]:
    """Those rows of (N, D) that are vectors, each with its item's index; of others the error is raised or handed on."""
    good = usable(vectors, scores=scores)
    if not good.all():
        for place in sorted(np.flatnonzero(~good).tolist(), key=indices.__getitem__):
            error = unusable(
                f"{'scores' if scores else 'vector'} of {name(indices[place])} {'have' if scores else 'has'}",
                vectors[place],
            )
            if running.on_error is None:
                raise error
            running.on_error(indices[place], error)
    return [(index, row) for index, row, fine in zip(indices, vectors, good.tolist(), strict=True) if fine]


def named(kind: str, items: Sequence[object]) -> Name:
    """What messages call an image or a sound: its number, and its path or address where it has one."""

    def name(index: int) -> str:
        item = items[index]
        named = isinstance(item, str | os.PathLike)
        return f"{kind} number {index}" + (f" ({short_name(os.fsdecode(cast(str, item)))})" if named else "")

    return name


def in_float32(features: Features) -> Features:
    """The numbers as they are copied out: turning them then would wait for what was submitted meanwhile."""
    return lambda **batch: features(**batch).astype(mx.float32)


def check_dim(dim: int | None, count: int) -> None:
    """Raise InputError where vectors have a `count` of numbers below `dim`."""
    if dim is not None and dim > count:
        raise InputError(
            f"dim is {shown(dim)}; the vectors have {count} numbers, so expected 1 to {count}. Leave it out to keep "
            "them all."
        )


def cut(vectors: Vectors, dim: int | None) -> Vectors:
    """The first `dim` numbers of each of (N, D), copied, so that the others do not stay in memory."""
    return vectors if dim is None else vectors[:, :dim].copy()


def stack(rows: list[Vectors]) -> Vectors:
    """(N, D) of N rows; of none (0, 0)."""
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)
