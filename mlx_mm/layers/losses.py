"""Losses over pairs: logits (N, N), the n-th row belongs to the n-th column."""

import mlx.core as mx
import mlx.nn as nn


def pairwise_sigmoid_loss(logits: mx.array) -> mx.array:
    """Mean over texts of −Σ log σ(±logit), + for the own picture (SigLIP, arXiv 2303.15343, algorithm 1)."""
    signs = 2 * mx.eye(logits.shape[0]) - 1
    return -nn.log_sigmoid(signs * logits).sum(axis=-1).mean()


def contrastive_loss(logits: mx.array) -> mx.array:
    """Mean of the cross-entropies of rows and of columns (CLIP, arXiv 2103.00020, figure 3)."""
    own = mx.arange(logits.shape[0])
    losses = (nn.losses.cross_entropy(x, own, reduction="mean") for x in (logits, logits.T))
    return sum(losses) / 2
