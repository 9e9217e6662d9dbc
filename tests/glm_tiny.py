"""Recipes for small GLM models, as `tiny` has them for SigLIP: those of `golden/glm46v_examples.json`."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from tiny import Shapes, golden, linear_shapes

REFERENCE = golden("glm46v_examples")["tiny_reference"]
MODELS = list(REFERENCE["models"])  # dense_glm46v, moe_glm4v_moe, moe_grouped
DENSE, MOE, GROUPED = MODELS
VISUAL, LANGUAGE = "model.visual.", "model.language_model."


def glm_config(name: str = DENSE) -> dict[str, Any]:
    """config.json of one of `MODELS`, as transformers 5.23 saves it; a copy of its own."""
    config: dict[str, Any] = copy.deepcopy(REFERENCE["models"][name]["config"])
    return config


def glm_cases(name: str = DENSE) -> dict[str, dict[str, Any]]:
    """The golden cases of a model: text, two_images, image_8x10, video, with ids, grids and what comes out."""
    cases: dict[str, dict[str, Any]] = REFERENCE["models"][name]["cases"]
    return cases


def glm_shapes(config: dict[str, Any]) -> Shapes:
    """Names and PyTorch shapes of every tensor on disk, experts one by one."""
    return _vision_shapes(config["vision_config"]) + _text_shapes(config["text_config"])


def glm_weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Float32 weights in PyTorch layout, under their names on disk, by the recipe of the golden file."""
    return {name: _drawn(n, name, shape) for n, (name, shape) in enumerate(sorted(glm_shapes(config)))}


def glm_pixels(patches: int, seed: int = 7) -> np.ndarray:
    """Flat patches (patches, 1176); with the default seed those of the golden cases."""
    return np.random.RandomState(seed).standard_normal((patches, 1176)).astype(np.float32)


def _drawn(n: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.RandomState(1000 + n).standard_normal(shape).astype(np.float32)
    if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
        return 1 + 0.1 * noise
    if name.endswith("bias"):
        return 0.1 * noise
    if "position_embedding" in name:
        return 0.5 * noise
    return noise if "embed_tokens" in name else noise / np.float32(np.sqrt(np.prod(shape[1:])))


def _vision_shapes(vision: dict[str, Any]) -> Shapes:
    wide, out, inner = vision["hidden_size"], vision["out_hidden_size"], vision["intermediate_size"]
    p, merge = vision["patch_size"], vision["spatial_merge_size"]
    shapes: Shapes = [
        ("patch_embed.proj.weight", (wide, vision["in_channels"], vision["temporal_patch_size"], p, p)),
        ("patch_embed.proj.bias", (wide,)),
        ("post_conv_layernorm.weight", (wide,)),
        ("embeddings.position_embedding.weight", ((vision["image_size"] // p) ** 2, wide)),
        ("post_layernorm.weight", (wide,)),
        ("downsample.weight", (out, wide, merge, merge)),
        ("downsample.bias", (out,)),
        ("merger.proj.weight", (out, out)),
        ("merger.post_projection_norm.weight", (out,)),
        ("merger.post_projection_norm.bias", (out,)),
        *_mlp_shapes("merger", out, inner),
    ]
    for i in range(vision["depth"]):
        block = f"blocks.{i}"
        shapes += [(f"{block}.{norm}.weight", (wide,)) for norm in ("norm1", "norm2")]
        shapes += [(f"{block}.attn.qkv.weight", (3 * wide, wide)), (f"{block}.attn.proj.weight", (wide, wide))]
        shapes += _mlp_shapes(f"{block}.mlp", wide, out)
    return [(VISUAL + name, shape) for name, shape in shapes]


def _text_shapes(text: dict[str, Any]) -> Shapes:
    wide, moe = text["hidden_size"], "n_routed_experts" in text
    width = text.get("head_dim") or wide // text["num_attention_heads"]
    heads, kv = text["num_attention_heads"] * width, text["num_key_value_heads"] * width
    shapes: Shapes = [
        (f"{LANGUAGE}embed_tokens.weight", (text["vocab_size"], wide)),
        (f"{LANGUAGE}norm.weight", (wide,)),
        ("lm_head.weight", (text["vocab_size"], wide)),
    ]
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += [] if moe else ["post_self_attn_layernorm", "post_mlp_layernorm"]
    for i in range(text["num_hidden_layers"]):
        layer = f"{LANGUAGE}layers.{i}"
        shapes += [(f"{layer}.{norm}.weight", (wide,)) for norm in norms]
        shapes += linear_shapes(f"{layer}.self_attn.q_proj", heads, wide)
        shapes += linear_shapes(f"{layer}.self_attn.k_proj", kv, wide)
        shapes += linear_shapes(f"{layer}.self_attn.v_proj", kv, wide)
        shapes += [(f"{layer}.self_attn.o_proj.weight", (wide, heads))]
        if not moe:
            shapes += [(f"{layer}.mlp.gate_up_proj.weight", (2 * text["intermediate_size"], wide))]
            shapes += [(f"{layer}.mlp.down_proj.weight", (wide, text["intermediate_size"]))]
        elif i < text["first_k_dense_replace"]:
            shapes += _mlp_shapes(f"{layer}.mlp", wide, text["intermediate_size"])
        else:
            shapes += _expert_shapes(f"{layer}.mlp", text)
    return shapes


def _expert_shapes(mlp: str, text: dict[str, Any]) -> Shapes:
    wide, inner, experts = text["hidden_size"], text["moe_intermediate_size"], text["n_routed_experts"]
    shapes: Shapes = [(f"{mlp}.gate.weight", (experts, wide)), (f"{mlp}.gate.e_score_correction_bias", (experts,))]
    for expert in range(experts):
        shapes += _mlp_shapes(f"{mlp}.experts.{expert}", wide, inner)
    return shapes + _mlp_shapes(f"{mlp}.shared_experts", wide, inner * text["n_shared_experts"])


def _mlp_shapes(name: str, wide: int, inner: int) -> Shapes:
    """A gated MLP without biases."""
    gates: Shapes = [(f"{name}.{gate}_proj.weight", (inner, wide)) for gate in ("gate", "up")]
    return [*gates, (f"{name}.down_proj.weight", (wide, inner))]
