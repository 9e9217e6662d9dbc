"""How far the rows of a batch are from their counts of tokens, which mlx_lm carries along as one more of its caches.

So what it does with the rows of its caches, it does with these, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_mm.generation.request import LayerCache, SharedDecoder
from mlx_mm.generation.twins import Twin

if TYPE_CHECKING:
    from typing_extensions import Self


class Deltas:
    """One number for each row, see `SharedDecoder.delta`. twin: of the batch, where other ranks have one."""

    nbytes = 0
    state: tuple[mx.array, ...] = ()
    twin: Twin | None = None

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        """A batch of several."""
        return cls([row for cache in caches for row in cache.rows])

    def extend(self, other: Self) -> None:
        """Take in the rows of another batch."""
        self.rows = self.rows + other.rows

    def filter(self, keep: Sequence[int]) -> None:
        """Keep the rows at these places."""
        self.rows = [self.rows[index] for index in keep]

    def extract(self, index: int) -> Deltas:
        """A row, which stays."""
        return Deltas([self.rows[index]])

    def decode(self, model: SharedDecoder, input_ids: mx.array, layers: Sequence[LayerCache]) -> mx.array:
        """The last token of each row (B, 1) -> logits (B, 1, V)."""
        return model.decode(input_ids, layers, self.rows)
