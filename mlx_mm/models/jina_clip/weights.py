"""Names and layout of the tensors of Jina CLIP v2, and the merging of its low-rank matrices."""

import functools

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.checkpoint.rows import Rows, whole
from mlx_mm.errors import WeightsError
from mlx_mm.layers.embeddings import kernel_matrix, matrix_kernel
from mlx_mm.models.jina_clip.config import ModelConfig
from mlx_mm.models.weights import MLP_AXES, Renames, Tensors, WeightRules, Weights, not_a_scale, rename, rename_back

# An adapted weight of the file has three tensors: the weight, and the factors of what all adapters add, (adapters, …)
ORIGINAL, LORA_A, LORA_B = (f".parametrizations.weight.{part}" for part in ("original", "0.lora_A", "0.lora_B"))
# The file's names -> ours, in this order
BOTH: Renames = ((".norm1.", ".layer_norm1."), (".norm2.", ".layer_norm2."))
TEXT_RENAMES: Renames = (
    ("text_model.transformer.roberta.", "text_model."),
    ("text_model.emb_ln.", "text_model.embeddings.layer_norm."),
    (".word_embeddings.", ".token_embedding."),
    (".token_type_embeddings.", ".token_type_embedding."),
    (".mixer.", ".self_attn."),
    *BOTH,
)
VISION_RENAMES: Renames = (
    ("vision_model.cls_token", "vision_model.embeddings.class_embedding"),
    ("vision_model.pos_embed", "vision_model.embeddings.position_embedding"),
    ("vision_model.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("vision_model.norm.", "vision_model.post_layernorm."),
    ("vision_model.blocks.", "vision_model.layers."),
    (".attn.", ".self_attn."),
    (".self_attn.inner_attn_ln.", ".self_attn.layer_norm."),
    (".self_attn.q_bias", ".self_attn.q_proj.bias"),
    (".self_attn.v_bias", ".self_attn.v_proj.bias"),
    (".self_attn.proj.", ".self_attn.out_proj."),
    *BOTH,
    (".mlp.w1.", ".mlp.gate_proj."),
    (".mlp.w2.", ".mlp.up_proj."),
    (".mlp.w3.", ".mlp.down_proj."),
    (".mlp.ffn_ln.", ".mlp.layer_norm."),
)
PATCH_KERNEL = "vision_model.embeddings.patch_embedding.weight"
TABLES = ("class_embedding", "position_embedding")  # with axes of length 1 in front of them in the file
PACKED = ".self_attn.Wqkv."  # rows of q, then k, then v
PACKED_PARTS = tuple(f".mixer.{letter}_proj.{part}" for letter in "kv" for part in ("weight", "bias"))
DROPPED = (".rope.", ".rotary_emb.")  # tables that follow from the config
BLOCK_ROWS = 16384  # of a table that are merged at a time
KEPT_EXACT = ("token_type_embedding", "patch_embedding")
# Of the gated MLP only the last matrix is wider than the norm before it
PADDED_AXES = (*MLP_AXES, (".mlp.down_proj.weight", 1))


def rules(config: ModelConfig) -> WeightRules:
    """What is done with the tensors of the model of this config."""
    sanitizes, restores = functools.partial(sanitize, config), functools.partial(restore, config)
    return WeightRules(sanitizes, restores, is_quantizable, not_a_scale, PADDED_AXES)


def sanitize(config: ModelConfig, weights: Weights) -> Tensors:
    """The published file's tensors under our names, adapters merged, in float32 where they were.

    Raises WeightsError for adapters that are not those of the config.
    """
    result: Tensors = {}
    for name, weight in _merge_adapters(config, weights).items():
        if any(part in name for part in DROPPED):
            continue
        name = rename(name, _renames(name))
        if PACKED in name and isinstance(weight, mx.array) and weight.ndim and len(weight) % 3 == 0:
            for part, rows in zip("qkv", mx.split(weight, 3), strict=True):
                result[name.replace("Wqkv", f"{part}_proj")] = rows
        else:
            result[name] = _reshape(name, weight)
    return result


def restore(config: ModelConfig, weights: Tensors) -> Tensors:
    """The other way. Adapters, which are merged for good, come back as zeros: every task has what was merged."""
    result: Tensors = {}
    for name, weight in weights.items():
        theirs = rename_back(name, _renames(name))
        if name == PATCH_KERNEL:
            result[theirs] = matrix_kernel(whole(weight), 3, config.vision_config.patch_size)
        elif name.endswith(TABLES):
            result[theirs] = whole(weight).reshape(1, -1, weight.shape[-1])
        elif ".mixer.q_proj." in theirs:
            parts = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            result[theirs.replace("q_proj", "Wqkv")] = mx.concatenate([whole(part) for part in parts])
        elif not theirs.endswith(PACKED_PARTS):
            result[theirs] = weight
    return _with_adapters(config, result)


def _with_adapters(config: ModelConfig, weights: Tensors) -> Tensors:
    """Each matrix of the text tower as the one that adapters change, and those without an effect."""
    if config.lora is None:
        return weights
    result = dict(weights)
    rank, count = config.lora.lora_rank, config.adapters
    for name, weight in weights.items():
        if name.startswith("text_model.") and name.endswith(".weight") and weight.ndim == 2:
            layer = name.removesuffix(".weight")
            del result[name]
            rows, width = weight.shape
            shapes = ((rows, rank), (rank, width)) if ".embeddings." in name else ((rank, width), (rows, rank))
            result[layer + ORIGINAL] = weight
            for part, shape in zip((LORA_A, LORA_B), shapes, strict=True):
                result[layer + part] = mx.zeros((count, *shape), weight.dtype)
    return result


def _renames(name: str) -> Renames:
    return TEXT_RENAMES if name.startswith("text_model.") else VISION_RENAMES


def is_quantizable(path: str, _module: nn.Module) -> bool:
    """Token types and the patch kernel stay as they are: they are small and weigh much."""
    return not path.endswith(KEPT_EXACT)


def _merge_adapters(config: ModelConfig, weights: Weights) -> Tensors:
    """original + alpha / rank · product of the factors, of the adapter that the config names."""
    lora, adapter = config.lora, config.adapter
    if lora is None:
        return dict(weights)
    result: Tensors = dict(weights)
    problems = []
    for name in [name for name in weights if name.endswith(ORIGINAL)]:
        layer = name.removesuffix(ORIGINAL)
        original = weights[name]
        factors = [weights.get(layer + part, mx.zeros((0,))) for part in (LORA_A, LORA_B)]
        for part in (ORIGINAL, LORA_A, LORA_B):
            result.pop(layer + part, None)
        # A Linear adds B·A, (out, rank) by (rank, in); a table A·B, (rows, rank) by (rank, width)
        table = ".embeddings." in layer
        left, right = factors if table else reversed(factors)
        expected = (*original.shape[:1], lora.lora_rank), (lora.lora_rank, *original.shape[1:])
        fits = (left.shape[1:], right.shape[1:]) == expected and min(len(left), len(right)) > adapter
        if not fits or f"{layer}.weight" in weights:
            shapes = [str(factor.shape) if factor.size else "none" for factor in factors]
            problems.append(f"{layer} with {' and '.join(shapes)}")
            continue
        merge = _merge_table if table else _merge
        result[f"{layer}.weight"] = merge(original, left[adapter], right[adapter], lora.scale)
    if problems:
        raise WeightsError(
            f"Layers without low-rank factors, or with some of another rank: {len(problems)}. lora_A and lora_B of "
            f"{', '.join(problems[:10])}{', …' if len(problems) > 10 else ''}. Expected both of rank "
            f"{lora.lora_rank} in each, an adapter of number {adapter}, as config.json says, and no merged weight "
            "beside them. Use the config.json and the weights of one and the same checkpoint."
        )
    return result


def _merge(original: mx.array, left: mx.array, right: mx.array, scale: float) -> mx.array:
    """original + scale · left·right, (n, d) + (n, rank) by (rank, d), in float32."""
    original, left, right = (array.astype(mx.float32) for array in (original, left, right))
    return mx.addmm(original, left, right, alpha=scale)


def _merge_table(table: mx.array, left: mx.array, right: mx.array, scale: float) -> Rows:
    """The same in blocks, because the token table is a third of the model."""
    starts = range(0, len(table), BLOCK_ROWS)
    return Rows(tuple(_merge(table[i : i + BLOCK_ROWS], left[i : i + BLOCK_ROWS], right, scale) for i in starts))


def _reshape(name: str, weight: mx.array | Rows) -> mx.array | Rows:
    """The patch kernel as a matrix over patches; tables without the axes of length 1 in front of them."""
    if isinstance(weight, Rows):
        return weight
    if weight.ndim == 4:
        return kernel_matrix(weight)
    if name.endswith(TABLES):
        return weight.squeeze([axis for axis in range(weight.ndim - 1) if weight.shape[axis] == 1])
    return weight
