"""Tensors that a family makes from many others, piece by piece, so that none of them has to be whole in memory."""

import math
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Rows:
    """Blocks of rows that belong below each other, alike in dtype and in every axis but the first."""

    blocks: tuple[mx.array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(block.shape[0] for block in self.blocks), *self.blocks[0].shape[1:])

    @property
    def ndim(self) -> int:
        return self.blocks[0].ndim

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> mx.Dtype:
        return self.blocks[0].dtype

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.size

    def join(self) -> mx.array:
        """The tensor itself."""
        return mx.concatenate(list(self.blocks))


def whole(tensor: mx.array | Rows) -> mx.array:
    """A tensor in one piece."""
    return tensor.join() if isinstance(tensor, Rows) else tensor
