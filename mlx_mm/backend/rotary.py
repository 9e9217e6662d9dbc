"""Turning queries and keys by angles, pair by pair of a head's numbers."""

from functools import cached_property
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_mm.backend.elementwise import turn
from mlx_mm.backend.native import calls
from mlx_mm.backend.native.calls import Floats
from mlx_mm.backend.native.library import kernels
from mlx_mm.backend.native.views import floats, is_view, run, serves, view


class Rotary:
    """Turns the first numbers of heads (B, H, L, d) by tables (L, n/2) or (B, 1, L, n/2) of cosines and sines; the
    others pass. neighbours: the pairs are 2j and 2j + 1, else j and j + n/2."""

    def __init__(self, cos: mx.array, sin: mx.array, *, neighbours: bool) -> None:
        self.cos, self.sin, self.neighbours = cos, sin, neighbours

    def __call__(self, x: mx.array) -> mx.array:
        """Keeps shape and dtype."""
        if is_view(x):
            return cast(mx.array, calls.rotate(kernels(), view(x), *self._tables, neighbours=self.neighbours))
        if serves(x):
            return run(self, x)
        dims = 2 * self.cos.shape[-1]
        if dims < x.shape[-1]:
            return mx.concatenate([self(x[..., :dims]), x[..., dims:]], axis=-1)
        cos, sin = self.cos.astype(x.dtype), self.sin.astype(x.dtype)
        if self.neighbours:
            return mx.stack([*turn(x[..., 0::2], x[..., 1::2], cos, sin)], axis=-1).flatten(-2)
        return mx.concatenate([*turn(x[..., : dims // 2], x[..., dims // 2 :], cos, sin)], axis=-1)

    @cached_property
    def _tables(self) -> tuple[Floats, Floats]:
        return floats(self.cos), floats(self.sin)


class TextRotary:
    """Turns heads (B, H, L, d) by the places offset, offset + 1, … times `frequencies` (n/2,), by MLX's own kernel.

    offset: a number, or one for each row (B,).
    """

    def __init__(
        self, offset: mx.array | int, frequencies: mx.array, wavelengths: mx.array, *, neighbours: bool
    ) -> None:
        self.offset, self.frequencies, self.wavelengths, self.neighbours = offset, frequencies, wavelengths, neighbours
        self._tables: tuple[int, Floats, Floats] | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """Keeps shape and dtype."""
        if is_view(x):
            tables = self._of_length(x.shape[2])
            return cast(mx.array, calls.rotate(kernels(), view(x), *tables, neighbours=self.neighbours))
        if serves(x):
            return run(self, x)
        return mx.fast.rope(
            x,
            2 * self.frequencies.size,
            traditional=self.neighbours,
            base=None,
            scale=1.0,
            offset=self.offset,
            freqs=self.wavelengths,
        )

    def _of_length(self, length: int) -> tuple[Floats, Floats]:
        """Cosines and sines of so many places, the same for all layers."""
        if self._tables is None or self._tables[0] != length:
            offset = floats(self.offset)[:, None, None] if isinstance(self.offset, mx.array) else self.offset
            places = (np.arange(length, dtype=np.float32) + np.float32(offset))[..., None]
            angles = places * floats(self.frequencies)
            self._tables = length, np.cos(angles), np.sin(angles)
        return self._tables[1], self._tables[2]
