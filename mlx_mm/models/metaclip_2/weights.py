"""Names and layout of the tensors of MetaCLIP 2 and CLIP."""

import functools

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.checkpoint.rows import whole
from mlx_mm.layers.embeddings import kernel_matrix, matrix_kernel
from mlx_mm.models.metaclip_2.config import ModelConfig
from mlx_mm.models.weights import IMAGE_PARTS, TEXT_PARTS, Tensors, WeightRules, Weights, complete_names, not_in_texts

PATCH_KERNEL = "vision_model.embeddings.patch_embedding.weight"
KNOWN = (*TEXT_PARTS, *IMAGE_PARTS, "classifier.", "logit_scale")
KEPT_EXACT = ("position_embedding", "patch_embedding", "classifier")


def rules(config: ModelConfig) -> WeightRules:
    """What is done with the tensors of the model of this config."""
    sanitizes, restores = functools.partial(sanitize, config), functools.partial(restore, config)
    return WeightRules(sanitizes, restores, is_quantizable, not_in_texts)


def sanitize(config: ModelConfig, weights: Weights) -> Tensors:
    """Hugging Face's tensors under our names; the patch kernel (D, C, p, p) becomes the matrix (D, p·p·C)."""
    parts = 1 if config.projection_dim is None else 2
    own = None
    if config.vision_config is None:
        own = TEXT_PARTS[:parts]
    elif config.text_config is None:
        own = (*IMAGE_PARTS[:parts], "classifier.")
    result: Tensors = {**complete_names(weights, own, KNOWN)}
    kernel = result.get(PATCH_KERNEL)
    if isinstance(kernel, mx.array) and kernel.ndim == 4:
        result[PATCH_KERNEL] = kernel_matrix(kernel)
    return result


def restore(config: ModelConfig, weights: Tensors) -> Tensors:
    """The other way."""
    vision = config.vision_config
    if vision is None:
        return weights
    kernel = matrix_kernel(whole(weights[PATCH_KERNEL]), vision.num_channels, vision.patch_size)
    return weights | {PATCH_KERNEL: kernel}


def is_quantizable(path: str, _module: nn.Module) -> bool:
    """Positions, the patch kernel and a classifier's last layer stay as they are: they are small and weigh much."""
    return not path.endswith(KEPT_EXACT)
