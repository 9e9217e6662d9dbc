"""Vectors of two towers, compared."""

import mlx.core as mx


def unit_length(x: mx.array) -> mx.array:
    """(…, D) -> the same directions with Euclidean length 1."""
    return x / mx.linalg.norm(x, axis=-1, keepdims=True)
