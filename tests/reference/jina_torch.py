"""The towers of Jina CLIP v2 in torch: transformers' JinaEmbeddingsV3Model, and timm's Eva.

Neither has the low-rank matrices: they are merged with torch first. The benchmarks use this file too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from jina_tiny import ROBERTA

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# What timm imports of it; nothing of that is used here.
TORCHVISION = (
    "",
    ".ops",
    ".ops.misc",
    ".models",
    ".models.feature_extraction",
    ".transforms",
    ".transforms.functional",
)


def import_eva() -> Any:
    """timm's class, while empty modules stand in for torchvision, see conftest.py."""
    names = [f"torchvision{part}" for part in (*TORCHVISION, ".datasets")]
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update({name: MagicMock() for name in names})
    try:
        return pytest.importorskip("timm.models.eva").Eva
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)


WEIGHT = ".parametrizations.weight."
Weights = dict[str, np.ndarray]
Config = dict[str, Any]


@dataclass
class Reference:
    """Both towers, and the scale."""

    text: Any
    vision: Any
    scale: float


def merge(weights: Weights, scale: float) -> dict[str, Any]:
    """Plain names, added up by torch in float32."""
    tensors = {name: torch.from_numpy(x).float() for name, x in weights.items()}
    for name in weights:
        if name.endswith(f"{WEIGHT}original"):
            layer = name.removesuffix(f"{WEIGHT}original")
            a, b = (tensors.pop(f"{layer}{WEIGHT}0.lora_{part}")[0] for part in "AB")
            product = a @ b if ".embeddings." in layer else b @ a
            tensors[f"{layer}.weight"] = tensors.pop(name) + scale * product
    return tensors


TEXT_NAMES = (
    ("encoder.layers.", "layers."),
    ("emb_ln.", "embeddings.LayerNorm."),
    (".norm1.", ".post_attention_layernorm."),
    (".norm2.", ".post_mlp_layernorm."),
    (".mixer.out_proj.", ".self_attn.o_proj."),
)
VISION_NAMES = (
    (".attn.q_bias", ".attn.q_proj.bias"),
    (".attn.v_bias", ".attn.v_proj.bias"),
    (".attn.inner_attn_ln.", ".attn.norm."),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.ffn_ln.", ".mlp.norm."),
    (".mlp.w3.", ".mlp.fc2."),
)


def state_of(tensors: dict[str, Any], prefix: str, renames: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    state = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        for ours, theirs in renames:
            name = name.replace(ours, theirs)
        if ".mixer.Wqkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                state[name.replace("mixer.Wqkv", f"self_attn.{part}_proj")] = rows
        else:
            state[name] = tensor
    return state


def make_reference(config: Config, weights: Weights, visible: bool = True) -> Reference:
    """Both towers with the weights of a file under their hub names; visible: attentions can be read."""
    sizes, part = config["text_config"]["hf_model_config_kwargs"], config["vision_config"]
    tensors = merge(weights, sizes["lora_alpha"] / sizes["lora_rank"])
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text_config = transformers.JinaEmbeddingsV3Config(
        **{name: sizes[name] for name in names},
        type_vocab_size=1,
        pad_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
        attn_implementation="eager" if visible else "sdpa",
    )
    text = transformers.JinaEmbeddingsV3Model(text_config, add_pooling_layer=False).eval()
    text.load_state_dict(state_of(tensors, ROBERTA, TEXT_NAMES))
    vision = import_eva()(
        img_size=part["image_size"],
        patch_size=part["patch_size"],
        embed_dim=part["width"],
        depth=part["layers"],
        num_heads=part["width"] // part["head_width"],
        mlp_ratio=part["mlp_ratio"],
        qkv_bias=True,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_abs_pos_emb=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        global_pool="token",
        num_classes=0,
    ).eval()
    vision.load_state_dict(state_of(tensors, "vision_model.", VISION_NAMES))
    for block in vision.blocks:
        block.attn.fused_attn = not visible
    return Reference(text, vision, float(weights["logit_scale"]))
