"""Losses that several families share."""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.errors import InputError


def classification_loss(logits: mx.array, labels: mx.array) -> mx.array:
    """The loss of transformers' sequence and image classifiers, chosen as there from the labels -> ().

    One output: mean squared error. Whole-number labels (B,): cross-entropy. Float labels (B, C): binary
    cross-entropy of each label.
    """
    if logits.shape[-1] == 1:
        return ((logits.squeeze(-1) - labels.reshape(-1)) ** 2).mean()
    if mx.issubdtype(labels.dtype, mx.integer):
        return nn.losses.cross_entropy(logits, labels.reshape(-1), reduction="mean")
    if labels.shape != logits.shape:
        raise InputError(
            f"labels have shape {labels.shape}; expected class ids of shape ({logits.shape[0]},), "
            f"or floats of shape {logits.shape}."
        )
    return nn.losses.binary_cross_entropy(logits, labels, with_logits=True, reduction="mean")
