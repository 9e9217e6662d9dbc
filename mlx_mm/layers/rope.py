"""Rotary positions (Su et al., arXiv 2104.09864): queries and keys are turned by angles that grow with their place.

A head's numbers are turned in pairs. Models differ in which numbers are a pair: j and j + d/2 ("halves", GPT-NeoX),
or 2j and 2j + 1 ("neighbours", the paper's form). Angles are float32 whatever the head's dtype: in bfloat16
neighbouring places from 256 on would coincide. `mx.fast.rope` is not used for towers: given the frequencies it has the
same bits on a CPU, but on Metal its kernel takes the fast cosines, which are off by 1e-4 and, at far places, by more.
"""

import mlx.core as mx

from mlx_mm.backend.native.views import is_view
from mlx_mm.backend.rotary import Rotary
from mlx_mm.backend.tables import made_once
from mlx_mm.layers.attention import Rotation


@made_once(32)
def inverse_frequencies(dims: int, base: float) -> mx.array:
    """base^(-2j/dims) for j = 0 … dims/2 - 1 (section 3.2.2), float32 (dims/2,).

    Rounded as where models are trained: the power to float32, then its reciprocal. At place 8,000 one bit less turns
    a pair by 5e-4.
    """
    return 1 / mx.array([base ** (2 * j / dims) for j in range(dims // 2)], mx.float32)


def rotate_halves(angles: mx.array, dtype: mx.Dtype = mx.float32) -> Rotation:
    """Turns x (B, H, L, d) by angles (L, n/2) or (B, 1, L, n/2): the pairs are j and j + n/2, and what is beyond n
    passes.

    dtype: that of x, where it is known; the cosines are then rounded to it once, for all layers.
    """
    return Rotary(mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype), neighbours=False)


def rotate_neighbours(angles: mx.array, dtype: mx.Dtype = mx.float32) -> Rotation:
    """Turns x (B, H, L, d) by angles (L, n/2) or (B, 1, L, n/2): the pairs are 2j and 2j + 1, and what is beyond n
    passes.

    dtype: that of x, where it is known; the cosines are then rounded to it once, for all layers.
    """
    return Rotary(mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype), neighbours=True)


def in_float32(rotation: Rotation) -> Rotation:
    """The same rotation, computed in float32 whatever the heads' dtype."""

    def rotate(x: mx.array) -> mx.array:
        return rotation(x) if is_view(x) else rotation(x.astype(mx.float32)).astype(x.dtype)

    return rotate


def line_angles(length: int, dims: int, base: float) -> mx.array:
    """Angles of the places 0 … length - 1 for heads of `dims` numbers, float32 (length, dims/2)."""
    return _power_of_two_angles(max(length - 1, 0).bit_length(), dims, base)[:length]


@made_once(16)
def _power_of_two_angles(power: int, dims: int, base: float) -> mx.array:
    """Of 2^power places: texts of many lengths share few tables."""
    return mx.arange(1 << power, dtype=mx.float32)[:, None] * inverse_frequencies(dims, base)


@made_once(16)
def grid_angles(rows: int, cols: int, head_dims: int, *, base: float = 10000.0, scale: float = 1.0) -> mx.array:
    """Angles of the cells of a grid, row by row, float32 (rows·cols, head_dims/2).

    The first half of a head's pairs turns by the row, the second by the column; `scale` is the distance of two cells.
    """
    frequencies = inverse_frequencies(head_dims // 2, base)
    by_row = (mx.arange(rows) * scale)[:, None, None] * frequencies
    by_col = (mx.arange(cols) * scale)[None, :, None] * frequencies
    shape = (rows, cols, head_dims // 4)
    both = mx.concatenate([mx.broadcast_to(by_row, shape), mx.broadcast_to(by_col, shape)], axis=-1)
    return both.reshape(rows * cols, head_dims // 2)
