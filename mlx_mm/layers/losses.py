"""Losses over pairs: logits (N, N), the n-th row belongs to the n-th column."""

import mlx.core as mx
import mlx.nn as nn


def pairwise_sigmoid_loss(logits: mx.array) -> mx.array:
    """Mean over texts of −Σ log σ(±logit), + for the own picture (SigLIP, arXiv 2303.15343, algorithm 1)."""
    signs = 2 * mx.eye(logits.shape[0]) - 1
    return -nn.log_sigmoid(signs * logits).sum(axis=-1).mean()


def own_column_loss(logits: mx.array) -> mx.array:
    """Mean cross-entropy of the rows, each of which belongs to its own column."""
    return nn.losses.cross_entropy(logits, mx.arange(logits.shape[0]), reduction="mean")


def contrastive_loss(logits: mx.array) -> mx.array:
    """Mean of the cross-entropies of rows and of columns (CLIP, arXiv 2103.00020, figure 3)."""
    return (own_column_loss(logits) + own_column_loss(logits.T)) / 2
