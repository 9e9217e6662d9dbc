"""What the classifiers of all families do with their logits."""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.errors import InputError
from mlx_mm.layers.outputs import ImageClassifierOutput, TowerOutput


def classifier_output(logits: mx.array, labels: mx.array | None, tower: TowerOutput) -> ImageClassifierOutput:
    """Logits (B, labels) with their loss, where labels are given, and the states of the tower they come from."""
    loss = None if labels is None else classification_loss(logits, labels)
    return ImageClassifierOutput(loss, logits, tower.hidden_states, tower.attentions)


def class_scores(logits: mx.array, problem_type: str | None) -> mx.array:
    """Probabilities (B, labels) as transformers' pipeline: softmax, or sigmoid for independent labels."""
    if logits.shape[-1] == 1 or problem_type == "multi_label_classification":
        return mx.sigmoid(logits)
    return mx.softmax(logits, axis=-1)


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
