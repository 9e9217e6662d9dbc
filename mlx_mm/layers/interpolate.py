"""Resizing: of a square position table, as one small matrix for rows and one for columns, and of a sequence."""

import math
from collections.abc import Callable
from typing import TypeVar

import mlx.core as mx

from mlx_mm.backend.tables import evaluated, made_once

Number = TypeVar("Number", float, mx.array)
Matrix = Callable[[int, int], mx.array]  # sizes before and after -> (after, before)

MAX_KEPT_BYTES = 64 << 20  # of the tables that one tower keeps; 53 grids of 256 patches, 1152 wide, in float32
BICUBIC_A = -0.75  # torch.nn.functional.interpolate; Pillow's images use -0.5


@made_once(256)
def bilinear_matrix(n_in: int, n_out: int) -> mx.array:
    """(n_out, n_in) float32: linear interpolation, support widened when shrinking (antialias=True).

    Same rule as torch.nn.functional.interpolate(mode="bilinear", antialias=True, align_corners=False).
    """
    ratio = n_in / n_out
    support = max(ratio, 1.0)
    rows = []
    for i in range(n_out):
        centre = ratio * (i + 0.5)
        low = max(math.floor(centre - support + 0.5), 0)
        high = min(math.floor(centre + support + 0.5), n_in)
        taps = {j: max(0.0, 1.0 - abs(j + 0.5 - centre) / support) for j in range(low, high)}
        total = sum(taps.values())
        rows.append([taps.get(j, 0.0) / total for j in range(n_in)])
    return mx.array(rows, dtype=mx.float32)


@made_once(256)
def bicubic_matrix(n_in: int, n_out: int) -> mx.array:
    """(n_out, n_in) float32: cubic convolution, a = -0.75, no antialias, border samples repeated.

    Same rule as torch.nn.functional.interpolate(mode="bicubic", align_corners=False); the kernel is
    Keys, "Cubic convolution interpolation for digital image processing" (1981), eq. 15.
    """
    rows = []
    for i in range(n_out):
        position = (i + 0.5) * n_in / n_out - 0.5
        first = math.floor(position)
        row = [0.0] * n_in
        for tap in range(first - 1, first + 3):
            row[min(max(tap, 0), n_in - 1)] += _cubic(abs(position - tap))
        rows.append(row)
    return mx.array(rows, dtype=mx.float32)


def stretch(x: mx.array, length: int) -> mx.array:
    """(…, T, F) -> (…, length, F): cubic convolution along T whose first and last samples stay, a = -0.75.

    Same rule as torch.nn.functional.interpolate(mode="bicubic", align_corners=True); border samples are repeated.
    """
    taps = stretch_taps(x.shape[-2], length)
    first, second, third, fourth = (x[..., place, :] * weight for place, weight in zip(taps[:4], taps[4:], strict=True))
    return first + second + third + fourth


@made_once(16)
def stretch_taps(n_in: int, n_out: int) -> tuple[mx.array, ...]:
    """For each sample that `stretch` makes: the places (n_out,) of the four it takes, then their weights (n_out, 1).

    Positions are fractions of whole numbers: in float32 they would be off by 1e-4 at the end of 1000 samples.
    """
    last = n_in - 1
    steps = mx.arange(n_out) * last
    first = steps // max(n_out - 1, 1)
    t = ((steps % max(n_out - 1, 1)).astype(mx.float32) / max(n_out - 1, 1))[:, None]
    places = (mx.clip(first + i - 1, 0, last) for i in range(4))
    return *places, _far(t + 1.0), _near(t), _near(1.0 - t), _far(2.0 - t)


def _cubic(z: float) -> float:
    return _near(z) if z <= 1.0 else _far(z) if z < 2.0 else 0.0


def _near(z: Number) -> Number:
    """The cubic kernel for 0 <= z <= 1, a number or an array."""
    return ((BICUBIC_A + 2.0) * z - (BICUBIC_A + 3.0)) * z * z + 1.0


def _far(z: Number) -> Number:
    """The cubic kernel for 1 <= z <= 2, a number or an array."""
    return BICUBIC_A * (z - 1.0) * (z - 2.0) * (z - 2.0)


def resize_table(table: mx.array, size: tuple[int, int], matrix: Matrix) -> mx.array:
    """Resize a table (S·S, D) of a square grid to `size` = (rows, cols) -> (rows·cols, D).

    Computed in float32 and returned in the table's dtype; both sides are row-major.
    """
    side = math.isqrt(table.shape[0])
    dims = table.shape[1]
    rows, cols = size
    x = table.astype(mx.float32).reshape(side, side * dims)
    x = (matrix(side, rows) @ x).reshape(rows, side, dims)
    x = matrix(side, cols) @ x
    return x.reshape(rows * cols, dims).astype(table.dtype)


class ResizedTables:
    """The position table of a tower, resized to the grids that were asked for, until the tower has another one.

    They are kept for an array, not for its numbers: writing into it, `table[0] = 1`, goes unnoticed; loading, updating
    and replacing weights do not. A copy of the tower starts with none.
    """

    def __init__(self) -> None:
        self._kept: tuple[mx.array | None, dict[tuple[int, int], mx.array]] = None, {}

    def resize(
        self, table: mx.array, size: tuple[int, int], matrix: Matrix, *, first: int = 0, keep: bool = True
    ) -> mx.array:
        """`resize_table` for the rows of `table` (first + S·S, D) that belong to the grid, by always the same rule.

        keep: not while training, when the table is another one each time, and may be one that cannot be evaluated.
        """
        if not keep:
            return resize_table(table[first:], size, matrix)
        source, made = self._kept
        if source is not table:  # as one: another thread may be here for the same table
            made = {}
            self._kept = table, made
        resized = made.get(size)
        if resized is None:
            resized = evaluated(lambda: resize_table(table[first:], size, matrix))
            if sum(other.nbytes for other in list(made.values())) + resized.nbytes > MAX_KEPT_BYTES:
                made.clear()
            made[size] = resized
        return resized

    def __reduce__(self) -> tuple[type["ResizedTables"], tuple[()]]:
        return ResizedTables, ()
