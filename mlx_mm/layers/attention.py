"""Multi-head attention: the functions every tower shares, and the block most of them use.

A mask is boolean, True = keep, broadcastable to (B, 1, L, S), or the word "causal" (the last query sees the last
key), or a float array that is added to the scores, broadcastable to (B, H, L, S).
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.attention import scaled_dot_product_attention
from mlx_mm.backend.linear import linear

Mask = mx.array | str | None
Rotation = Callable[[mx.array], mx.array]


def split_heads(x: mx.array, num_heads: int) -> mx.array:
    """(B, L, D) -> (B, H, L, D / H)."""
    batch, length, dims = x.shape
    return x.reshape(batch, length, num_heads, dims // num_heads).transpose(0, 2, 1, 3)


def merge_heads(x: mx.array) -> mx.array:
    """(B, H, L, d) -> (B, L, H·d)."""
    batch, heads, length, dims = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * dims)


def attend(q: mx.array, k: mx.array, v: mx.array, mask: Mask = None) -> mx.array:
    """softmax(q·kᵀ / √d)·v for q (B, H, L, d) and k, v (B, H or fewer, S, d) -> (B, H, L, d)."""
    return scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


def attention_weights(q: mx.array, k: mx.array, mask: Mask = None) -> mx.array:
    """The weights `attend` multiplies v with, (B, H, L, S); for inspection, it materialises them all."""
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)
    if isinstance(mask, str):
        length, keys = q.shape[-2], k.shape[-2]
        mask = mx.tri(length, keys, keys - length, dtype=mx.bool_)
    if mask is not None:
        scores = mx.where(mask, scores, mx.finfo(scores.dtype).min) if mask.dtype == mx.bool_ else scores + mask
    return mx.softmax(scores, axis=-1, precise=True)


def key_mask(attention_mask: mx.array | None) -> mx.array | None:
    """A Hugging Face padding mask (B, S), non-zero = real, as a mask of keys (B, 1, 1, S)."""
    if attention_mask is None:
        return None
    return (attention_mask != 0)[:, None, None, :]


class Attention(nn.Module):
    """Multi-head attention with Hugging Face CLIP's names: {q,k,v,out}_proj."""

    def __init__(self, dims: int, num_heads: int, bias: bool = True):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dims, dims, bias=bias)
        self.k_proj = nn.Linear(dims, dims, bias=bias)
        self.v_proj = nn.Linear(dims, dims, bias=bias)
        self.out_proj = nn.Linear(dims, dims, bias=bias)

    def __call__(
        self,
        x: mx.array,
        mask: Mask = None,
        rope: Rotation | None = None,
        context: mx.array | None = None,
        residual: mx.array | None = None,
    ) -> mx.array:
        """x (B, L, D) attends to `context` (B, S, D), by default to itself -> (B, L, D), plus the residual."""
        q, k = self._queries_and_keys(x, rope, context)
        v = split_heads(linear(self.v_proj, x if context is None else context), self.num_heads)
        return linear(self.out_proj, merge_heads(attend(q, k, v, mask)), residual=residual)

    def weights(self, x: mx.array, mask: Mask = None, rope: Rotation | None = None) -> mx.array:
        """The softmax weights of self-attention over x (B, L, D) -> (B, H, L, L)."""
        return attention_weights(*self._queries_and_keys(x, rope, None), mask)

    def _queries_and_keys(
        self, x: mx.array, rope: Rotation | None, context: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        q = split_heads(linear(self.q_proj, x), self.num_heads)
        k = split_heads(linear(self.k_proj, x if context is None else context), self.num_heads)
        return (q, k) if rope is None else (rope(q), rope(k))
