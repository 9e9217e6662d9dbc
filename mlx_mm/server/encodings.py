"""Vectors and scores on their way: prepared items of all requests, a few of one kind through a model in each turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic

import mlx.nn as nn
import numpy as np

from mlx_mm.batches import rows_of
from mlx_mm.errors import MlxMmError, foreign
from mlx_mm.models.contracts import Features
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.chunks import by_size
from mlx_mm.processing.vectors import Vectors
from mlx_mm.server.tickets import Broken, Done, Failed, Result, Ticket


@dataclass(frozen=True)
class Tower:
    """What gives rows of one kind. key: two of the same key are the same. most: items of it at once. exact: an item's
    row is the same to the last bit, whatever is beside it."""

    key: tuple[str, str]
    features: Features
    weights: Sequence[nn.Module | None]
    collate: Callable[[Sequence[Batch]], Batch]
    most: int
    exact: bool = False


@dataclass(frozen=True)
class Portion:
    """A prepared item, or a window of one. item: its number in its request. weight: of a window in the mean."""

    tower: Tower
    item: int
    batch: Batch
    weight: float = 1.0


Rows = dict[int, list[tuple[float, Vectors]]]  # of each item, by weight


@dataclass(eq=False)
class Encoding(Generic[Result]):
    """A request. finish: all rows -> the result."""

    ticket: Ticket[Result]
    portions: list[Portion]
    finish: Callable[[Rows], Done[Result]]
    rows: Rows = field(default_factory=dict)
    left: int = 0


Waiting = tuple["Encoding[object]", Portion]


class Encodings:
    """Those of all models. Only the engine's thread calls it."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], deque[Waiting]] = {}
        self.encoded = 0

    def add(self, encoding: Encoding[Result]) -> None:
        """Have it encoded in its turn."""
        encoding.left = len(encoding.portions)
        if not encoding.left:
            self._finish(encoding)
        for portion in encoding.portions:
            self._waiting.setdefault(portion.tower.key, deque()).append((encoding, portion))  # type: ignore[arg-type]
        encoding.portions = []

    def turn(self) -> bool:
        """Run a few items of the kind whose turn it is; whether there were any."""
        if not self._waiting:
            return False
        key = next(iter(self._waiting))
        queue = self._waiting.pop(key)
        taken: list[Waiting] = []
        while queue and len(taken) < queue[0][1].tower.most:
            encoding, portion = queue.popleft()
            if encoding.ticket.cancelled or encoding.ticket.ended:
                encoding.ticket.leave()
            else:
                taken.append((encoding, portion))
        if queue:
            self._waiting[key] = queue  # at the end, after other kinds
        if taken:
            self._run(taken)
        return True

    def _run(self, taken: Sequence[Waiting]) -> None:
        """Where items of several requests fail together, each request runs again by itself."""
        try:
            with foreign(Broken, "The items cannot be computed", "expected some that the machine can run."):
                rows = _rows(taken)
        except MlxMmError as error:
            encodings = list(dict.fromkeys(encoding for encoding, _ in taken))
            if len(encodings) == 1:
                encodings[0].ticket.send(Failed(error))
                return
            for encoding in encodings:
                self._run([one for one in taken if one[0] is encoding])
            return
        self.encoded += len(taken)
        for (encoding, portion), row in zip(taken, rows, strict=True):
            encoding.rows.setdefault(portion.item, []).append((portion.weight, row))
            encoding.left -= 1
            if not encoding.left:
                self._finish(encoding)

    def _finish(self, encoding: Encoding[Result]) -> None:
        try:
            with foreign(Broken, "The result cannot be computed", "expected items that the machine can run."):
                done = encoding.finish(encoding.rows)
        except MlxMmError as error:
            encoding.ticket.send(Failed(error))
            return
        encoding.ticket.send(done)


def _rows(taken: Sequence[Waiting]) -> list[Vectors]:
    """A row of each, in order."""
    tower = taken[0][1].tower
    chunks = by_size([(index, portion.batch) for index, (_, portion) in enumerate(taken)], tower.most)
    found: dict[int, Vectors] = {}
    for keys, rows in rows_of(tower.features, tower.weights, chunks, tower.collate, row_by_row=tower.exact):
        found.update(zip(keys, np.array(rows), strict=True))
    return [found[index] for index in range(len(taken))]
