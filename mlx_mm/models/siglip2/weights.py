"""Names and layout of the tensors of SigLIP 1 and 2, which are the same in both."""

import functools

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.checkpoint.rows import Rows
from mlx_mm.layers.embeddings import kernel_matrix
from mlx_mm.models.siglip2.config import ModelConfig
from mlx_mm.models.weights import WeightRules, Weights, complete_names, not_in_texts

PATCH_KERNEL = "vision_model.embeddings.patch_embedding.weight"
PACKED = "vision_model.head.attention.in_proj_"  # rows of q, then k, then v
KNOWN = ("text_model.", "vision_model.", "classifier.", "logit_scale", "logit_bias")
KEPT_EXACT = ("position_embedding", "classifier")


def rules(config: ModelConfig) -> WeightRules:
    """What is done with the tensors of the model of this config."""
    return WeightRules(functools.partial(sanitize, config), is_quantizable, not_in_texts)


def sanitize(config: ModelConfig, weights: Weights) -> dict[str, mx.array | Rows]:
    """Hugging Face's tensors under our names and in our layout.

    The pooling head's packed projection becomes q, k and v; a FixRes patch kernel (D, C, p, p) becomes the matrix
    (D, p·p·C).
    """
    own: tuple[str, ...] | None = None
    if config.vision_config is None:
        own = ("text_model.",)
    elif config.text_config is None:
        own = ("vision_model.", "classifier.")
    result: dict[str, mx.array | Rows] = {}
    for name, weight in complete_names(weights, own, KNOWN).items():
        if name == PATCH_KERNEL and weight.ndim == 4:
            result[name] = kernel_matrix(weight)
        elif name.startswith(PACKED) and weight.ndim and weight.shape[0] % 3 == 0:
            part = name[len(PACKED) :]
            for letter, rows in zip("qkv", mx.split(weight, 3), strict=True):
                result[f"vision_model.head.attention.{letter}_proj.{part}"] = rows
        else:
            result[name] = weight
    return result


def is_quantizable(path: str, _module: nn.Module) -> bool:
    """Position tables stay as they are: they are resized, small, and added to every token. So does a classifier's
    last layer, which is small too and decides alone."""
    return not path.endswith(KEPT_EXACT)
