"""Names and layout of the tensors of SigLIP 1 and 2, which are the same in both."""

import functools

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.checkpoint.rows import whole
from mlx_mm.layers.embeddings import kernel_matrix, matrix_kernel
from mlx_mm.models.siglip2.config import ModelConfig, VisionConfig
from mlx_mm.models.weights import Tensors, WeightRules, Weights, complete_names, not_in_texts

PATCH_KERNEL = "vision_model.embeddings.patch_embedding.weight"
HEAD = "vision_model.head.attention."
PACKED = f"{HEAD}in_proj_"  # rows of q, then k, then v
KNOWN = ("text_model.", "vision_model.", "classifier.", "logit_scale", "logit_bias")
KEPT_EXACT = ("position_embedding", "classifier")


def rules(config: ModelConfig) -> WeightRules:
    """What is done with the tensors of the model of this config."""
    sanitizes, restores = functools.partial(sanitize, config), functools.partial(restore, config)
    return WeightRules(sanitizes, restores, is_quantizable, not_in_texts)


def sanitize(config: ModelConfig, weights: Weights) -> Tensors:
    """Hugging Face's tensors under our names and in our layout.

    The pooling head's packed projection becomes q, k and v; a FixRes patch kernel (D, C, p, p) becomes the matrix
    (D, p·p·C).
    """
    own: tuple[str, ...] | None = None
    if config.vision_config is None:
        own = ("text_model.",)
    elif config.text_config is None:
        own = ("vision_model.", "classifier.")
    result: Tensors = {}
    for name, weight in complete_names(weights, own, KNOWN).items():
        if name == PATCH_KERNEL and weight.ndim == 4:
            result[name] = kernel_matrix(weight)
        elif name.startswith(PACKED) and weight.ndim and weight.shape[0] % 3 == 0:
            part = name[len(PACKED) :]
            for letter, rows in zip("qkv", mx.split(weight, 3), strict=True):
                result[f"{HEAD}{letter}_proj.{part}"] = rows
        else:
            result[name] = weight
    return result


def restore(config: ModelConfig, weights: Tensors) -> Tensors:
    """The other way."""
    result, vision = dict(weights), config.vision_config
    if isinstance(vision, VisionConfig):
        result[PATCH_KERNEL] = matrix_kernel(whole(result[PATCH_KERNEL]), vision.num_channels, vision.patch_size)
    for part in ("weight", "bias"):
        names = [f"{HEAD}{letter}_proj.{part}" for letter in "qkv"]
        if names[0] in result:
            result[PACKED + part] = mx.concatenate([whole(result.pop(name)) for name in names])
    return result


def is_quantizable(path: str, _module: nn.Module) -> bool:
    """Position tables stay as they are: they are resized, small, and added to every token. So does a classifier's
    last layer, which is small too and decides alone."""
    return not path.endswith(KEPT_EXACT)
