"""Attention: MLX's fused kernel on a GPU, and on a CPU products of matrices in blocks of queries."""

import re
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_mm.backend import device
from mlx_mm.backend.elementwise import exp_of_minus
from mlx_mm.backend.native import calls
from mlx_mm.backend.native.library import kernels
from mlx_mm.backend.native.views import is_view, run, serves, view

# Scores that attention computes at a time: 16 MB. A quarter leaves products of few rows, 25 to 70 % slower; twice as
# many are up to 15 % faster and take twice the memory: MLX allocates ahead, so twenty blocks or so are held at once.
MAX_SCORES_PER_BLOCK = 1 << 22

_MLX_VERSION = tuple(int(part) for part in re.findall(r"\d+", mx.__version__)[:3])  # type: ignore[attr-defined]

# Sizes of a head for which Metal has a fused kernel: those of every version we run with, and what came with 0.32.4.
# Larger ones, 192 and 256, are faster without it, by MLX's own choice.
FUSED_HEAD_SIZES = (64, 72, 80, 96, 128) if _MLX_VERSION >= (0, 32, 4) else (64, 80, 128)
# Up to so many queries have a kernel of another kind, and padding the keys for it costs more than it saves.
FEW_QUERIES = 8

# A masked score: finite, so that a row without any key gives a mean and not NaN.
MASKED = -1e30


def scaled_dot_product_attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None = None
) -> mx.array:
    """softmax(q kᵀ scale + mask) v of shape (B, H, L, D).

    q is (B, H, L, D); k and v are (B, H or a divisor of H, S, D). mask is None, "causal" (the last query sees
    the last key), a boolean array (True = keep) or a float array to be added, either broadcastable to
    (B, H, L, S). A masked key weighs exactly zero; every query needs at least one key that is not masked.
    On a CPU the queries are computed in blocks, so that memory grows with S and not with L times S.
    """
    if is_view(q):
        hidden = view(mask) if isinstance(mask, mx.array) else mask
        return cast(mx.array, calls.attention(kernels(), view(q), view(k), view(v), scale=scale, mask=hidden))
    if serves(q):
        return run(lambda q: scaled_dot_product_attention(q, k, v, scale=scale, mask=mask), q)
    if not device.on_cpu():
        return _fused(q, k, v, scale, mask)
    if q.dtype != mx.float32:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    batch, heads, length, _ = q.shape
    keys = k.shape[2]
    rows = max(1, MAX_SCORES_PER_BLOCK // (batch * heads * keys))
    if rows < length:
        k, v = mx.contiguous(k), mx.contiguous(v)  # otherwise each block's product would copy them
    blocks: list[mx.array] = []
    for start in range(0, length, rows):
        end = min(start + rows, length)
        block = q[:, :, start:end]
        if blocks:
            block = mx.depends([block], blocks[-1:])[0]  # one after the other: MLX would begin many at a time
        blocks.append(attend_block(block, k, v, scale, rows_of_mask(mask, start, end, length, keys)))
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def attend_windows(q: mx.array, k: mx.array, v: mx.array, bias: mx.array, *, scale: float) -> mx.array:
    """softmax(q kᵀ scale + bias) v for windows (B·windows, H, L, D), one after the other, of B pictures.

    bias: (1, H, L, L) for all windows, or (windows, H, L, L), the same for each picture.
    """
    windows = len(bias)
    if windows == 1:
        return scaled_dot_product_attention(q, k, v, scale=scale, mask=bias)
    if is_view(q):
        parts = [view(x) for x in (q, k, v)]
        attended = np.empty((len(q), q.shape[2], q.shape[1], v.shape[3]), np.float32).swapaxes(1, 2)
        for first in range(0, len(q), windows):
            own = slice(first, first + windows)
            picture = (x[own] for x in parts)
            calls.attention(kernels(), *picture, scale=scale, mask=view(bias), out=attended[own])
        return cast(mx.array, attended)
    if serves(q):
        return run(lambda q: attend_windows(q, k, v, bias, scale=scale), q)
    # Windows count as heads, so that one bias serves all pictures.
    q, k, v = (x.reshape(-1, windows * x.shape[1], *x.shape[2:]) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, scale=scale, mask=bias.flatten(0, 1))
    return out.reshape(-1, bias.shape[1], *out.shape[2:])


def _fused(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None) -> mx.array:
    """MLX's own; heads that its kernel has no size for get zeros at their end, which change no product and are cut."""
    width, values = q.shape[-1], v.shape[-1]
    size = next((size for size in FUSED_HEAD_SIZES if size >= max(width, values)), width)
    if q.shape[-2] <= FEW_QUERIES or size == width == values:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    q, k, v = (mx.pad(x, [(0, 0)] * 3 + [(0, size - x.shape[-1])]) for x in (q, k, v))
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)[..., :values]


def rows_of_mask(mask: mx.array | str | None, start: int, end: int, length: int, keys: int) -> mx.array | None:
    """The mask of the queries from `start` to `end`, out of `length`."""
    if mask is None:
        return None
    if isinstance(mask, str):
        return mx.arange(keys) <= mx.arange(keys - length + start, keys - length + end)[:, None]
    return mask if mask.ndim < 2 or mask.shape[-2] == 1 else mask[..., start:end, :]


def attend_block(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """softmax(q kᵀ scale + mask) v in one piece, which holds scores of shape (B, H, L, S)."""
    batch, heads, length, width = q.shape
    groups, keys = k.shape[1], k.shape[2]
    # Grouped heads: the queries that share a head of k are rows of one product.
    q = (q * scale).reshape(batch, groups, -1, width)
    scores = (q @ k.swapaxes(-1, -2)).reshape(batch, heads, length, keys)
    if mask is not None:
        scores = mx.where(mask, scores, MASKED) if mask.dtype == mx.bool_ else scores + mask
    weights = exp_of_minus(scores.max(axis=-1, keepdims=True) - scores)
    weights = weights.reshape(batch, groups, -1, keys)
    # Dividing after the product touches (L, D) numbers and not (L, S).
    return ((weights @ v) / weights.sum(axis=-1, keepdims=True)).reshape(batch, heads, length, -1)
