"""Names and layout of CLAP's tensors."""

import functools

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.checkpoint.rows import whole
from mlx_mm.layers.embeddings import kernel_matrix, matrix_kernel
from mlx_mm.models.clap.audio import LONG_KERNEL
from mlx_mm.models.clap.config import ModelConfig
from mlx_mm.models.weights import (
    AUDIO_PARTS,
    TEXT_PARTS,
    Renames,
    Tensors,
    WeightRules,
    Weights,
    complete_names,
    not_a_scale,
    rename,
    rename_back,
)

KNOWN = (*TEXT_PARTS, *AUDIO_PARTS, "logit_scale_a", "logit_scale_t")
# Buffers that follow from the config, or count training steps; which of them a file has depends on its age
DROPPED = ("relative_position_index", "num_batches_tracked", "position_ids", "token_type_ids")
# transformers' names -> ours, in this order: attention.output holds "output" too
BOTH: Renames = (
    (".attention.self.query.", ".self_attn.q_proj."),
    (".attention.self.key.", ".self_attn.k_proj."),
    (".attention.self.value.", ".self_attn.v_proj."),
    (".attention.output.dense.", ".self_attn.out_proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)
TEXT_RENAMES: Renames = (
    ("text_model.encoder.layer.", "text_model.encoder.layers."),
    (".embeddings.word_embeddings.", ".embeddings.token_embedding."),
    (".embeddings.position_embeddings.", ".embeddings.position_embedding."),
    (".embeddings.token_type_embeddings.", ".embeddings.token_type_embedding."),
    (".embeddings.LayerNorm.", ".embeddings.layer_norm."),
    (".pooler.dense.", ".pooler."),
    *BOTH,
    (".attention.output.LayerNorm.", ".layer_norm1."),
    (".output.LayerNorm.", ".layer_norm2."),
)
AUDIO_RENAMES: Renames = (
    ("audio_model.audio_encoder.", "audio_model."),
    *BOTH,
    (".attention.self.relative_position_bias_table", ".self_attn.relative_position_bias_table"),
    (".layernorm_before.", ".layer_norm1."),
    (".layernorm_after.", ".layer_norm2."),
    # Places in a list of modules; global_att has its pooling in the first
    (".local_att.0.", ".local_att.conv1."),
    (".local_att.1.", ".local_att.norm1."),
    (".local_att.3.", ".local_att.conv2."),
    (".local_att.4.", ".local_att.norm2."),
    (".global_att.1.", ".global_att.conv1."),
    (".global_att.2.", ".global_att.norm1."),
    (".global_att.4.", ".global_att.conv2."),
    (".global_att.5.", ".global_att.norm2."),
)
# The kernels: of patches, of the three parts of a long clip, and those of 1×1
PATCHES, LONG, FUSION = (f".patch_embed.{name}" for name in ("proj.weight", "mel_conv2d.weight", "fusion_model."))
KEPT_EXACT = (".position_embedding", ".token_type_embedding")


def rules(config: ModelConfig) -> WeightRules:
    """What is done with the tensors of the model of this config."""
    # float16 moves a text by 2.3e-6 and a sound by 5.7e-7 (1 - cosine, full size, random weights)
    sanitizes, restores = functools.partial(sanitize, config), functools.partial(restore, config)
    return WeightRules(sanitizes, restores, is_quantizable, not_a_scale)


def sanitize(config: ModelConfig, weights: Weights) -> Tensors:
    """Hugging Face's tensors under our names, convolutions as matrices over patches.

    One tower takes its own out of a joint checkpoint. A name that is not known stays, for the strict match to find.
    """
    parts = 1 if config.projection is None else 2
    own = None
    if config.audio_config is None:
        own = TEXT_PARTS[:parts]
    elif config.text_config is None:
        own = AUDIO_PARTS[:parts]
    result: Tensors = {}
    for name, weight in complete_names(weights, own, KNOWN).items():
        if name.endswith(DROPPED):
            continue
        name = rename(name, _renames(name))
        result[name] = _as_matrix(name, weight) if weight.ndim == 4 else weight
    return result


def restore(config: ModelConfig, weights: Tensors) -> Tensors:
    """The other way."""
    result: Tensors = {}
    for name, weight in weights.items():
        if config.audio_config is not None and name.startswith("audio_model."):
            weight = _as_kernel(name, whole(weight), config.audio_config.patch_size)
        result[rename_back(name, _renames(name))] = weight
    return result


def _renames(name: str) -> Renames:
    return TEXT_RENAMES if name.startswith("text_model.") else AUDIO_RENAMES


def is_quantizable(path: str, _module: nn.Module) -> bool:
    """Positions, token types and convolutions stay as they are: they are small and weigh much."""
    return not path.endswith(KEPT_EXACT) and ".patch_embed." not in path


def _as_matrix(name: str, kernel: mx.array) -> mx.array:
    """A convolution (D, C, p, q) whose stride is its size, as a matrix (D, ·) over patches."""
    if name.endswith("mel_conv2d.weight") and kernel.size and kernel.shape[3] % LONG_KERNEL == 0:
        # over patches beside each other, so the columns are grouped by patch
        dims, channels, rows, cols = kernel.shape
        kernel = kernel.reshape(dims, channels, rows, LONG_KERNEL, cols // LONG_KERNEL)
        kernel = kernel.swapaxes(2, 3).reshape(dims, channels, -1, cols // LONG_KERNEL)
    return kernel_matrix(kernel)


def _as_kernel(name: str, weight: mx.array, patch: int) -> mx.array:
    """The convolution again; other weights as they are."""
    if name.endswith(PATCHES):
        return matrix_kernel(weight, 1, patch)
    if name.endswith(LONG):
        kernel = matrix_kernel(weight, 1, patch)
        return mx.unflatten(kernel, 2, (LONG_KERNEL, -1)).swapaxes(2, 3).flatten(3)
    return weight[..., None, None] if FUSION in name and weight.ndim == 2 else weight
