"""Resizing of a square position table, as one small matrix for the rows and one for the columns."""

import math
from collections.abc import Callable

import mlx.core as mx

BICUBIC_A = -0.75  # torch.nn.functional.interpolate; Pillow's images use -0.5


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


def _cubic(z: float) -> float:
    a = BICUBIC_A
    if z <= 1.0:
        return ((a + 2.0) * z - (a + 3.0)) * z * z + 1.0
    return ((a * z - 5.0 * a) * z + 8.0 * a) * z - 4.0 * a if z < 2.0 else 0.0


def resize_table(table: mx.array, size: tuple[int, int], matrix: Callable[[int, int], mx.array]) -> mx.array:
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
