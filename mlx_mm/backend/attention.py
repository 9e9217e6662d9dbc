"""Attention: MLX's fused kernel on a GPU, and on a CPU products of matrices in blocks of queries."""

import mlx.core as mx

from mlx_mm.backend import device
from mlx_mm.backend.elementwise import exp_of_minus

# Scores that attention computes at a time: 16 MB. A quarter leaves products of few rows, 25 to 70 % slower; twice as
# many are up to 15 % faster and take twice the memory: MLX allocates ahead, so twenty blocks or so are held at once.
SCORES = 1 << 22

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
    if q.dtype != mx.float32 or not device.on_cpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    batch, heads, length, _ = q.shape
    keys = k.shape[2]
    rows = max(1, SCORES // (batch * heads * keys))
    if rows < length:
        k, v = mx.contiguous(k), mx.contiguous(v)  # otherwise each block's product would copy them
    blocks: list[mx.array] = []
    for start in range(0, length, rows):
        end = min(start + rows, length)
        block = q[:, :, start:end]
        if blocks:
            block = mx.depends([block], blocks[-1:])[0]  # one after the other: MLX would begin many at a time
        blocks.append(_attend(block, k, v, scale, _mask_rows(mask, start, end, length, keys)))
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def _mask_rows(mask: mx.array | str | None, start: int, end: int, length: int, keys: int) -> mx.array | None:
    """The mask of the queries from `start` to `end`, out of `length`."""
    if mask is None:
        return None
    if isinstance(mask, str):
        return mx.arange(keys) <= mx.arange(keys - length + start, keys - length + end)[:, None]
    return mask if mask.ndim < 2 or mask.shape[-2] == 1 else mask[..., start:end, :]


def _attend(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
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
