"""Rearranging numbers: what MLX does on its own arrays, and a copy in NumPy on views."""

from typing import cast

import mlx.core as mx
import numpy as np

from mlx_mm.backend.native import calls
from mlx_mm.backend.native.library import kernels
from mlx_mm.backend.native.views import is_view, view


def extract_patches(pixel_values: mx.array, size: int) -> mx.array:
    """(B, H, W, C) -> (B, rows·cols, size·size·C), row-major, channel fastest; leftover pixels are dropped."""
    if is_view(pixel_values):
        return cast(mx.array, calls.patches(kernels(), view(pixel_values), size))
    batch, height, width, channels = pixel_values.shape
    rows, cols = height // size, width // size
    x = pixel_values[:, : rows * size, : cols * size]
    x = x.reshape(batch, rows, size, cols, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * cols, size * size * channels)


def pad_last(x: mx.array, count: int) -> mx.array:
    """(…, D) -> (…, D + count), zeros at the end."""
    if count == 0:
        return x
    widths = [(0, 0)] * (x.ndim - 1) + [(0, count)]
    return cast(mx.array, np.pad(view(x), widths)) if is_view(x) else mx.pad(x, widths)


def take_rows(x: mx.array, order: mx.array) -> mx.array:
    """(B, N, D) and the numbers of rows (M,) -> (B, M, D)."""
    return cast(mx.array, calls.take_rows(kernels(), view(x), view(order))) if is_view(x) else x[:, order]


def spread(x: mx.array, like: mx.array) -> mx.array:
    """(1, N, D) -> (B, N, D), the same for each of the B in `like`."""
    if is_view(like):
        return cast(mx.array, np.broadcast_to(view(x), (like.shape[0], *x.shape[1:])))
    return mx.broadcast_to(x, (like.shape[0], *x.shape[1:]))
