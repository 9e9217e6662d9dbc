"""Recipes for a small Jina CLIP v2, as `tiny` has them for SigLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny import Shapes, golden, golden_weights, hashed, linear_shapes, norm_shapes, token_rows, write_json

ROBERTA = "text_model.transformer.roberta."
RANK = 4
QUERY = "Represent the query for retrieving evidence documents: "


def jina_shapes(config: dict[str, Any]) -> Shapes:
    """Names and PyTorch shapes of every tensor, with the low-rank matrices of one adapter."""
    text, vision = config["text_config"]["hf_model_config_kwargs"], config["vision_config"]
    shapes: Shapes = [("logit_scale", ())]
    return shapes + _text_shapes(text) + _vision_shapes(vision)


def _text_shapes(text: dict[str, Any]) -> Shapes:
    wide, inner = text["hidden_size"], text["intermediate_size"]
    shapes = norm_shapes(f"{ROBERTA}emb_ln", wide)
    for name, rows in (("word_embeddings", text["vocab_size"]), ("token_type_embeddings", 1)):
        shapes += _adapted(f"{ROBERTA}embeddings.{name}", rows, wide, ((rows, RANK), (RANK, wide)))
    for i in range(text["num_hidden_layers"]):
        layer = f"{ROBERTA}encoder.layers.{i}"
        shapes += norm_shapes(f"{layer}.norm1", wide) + norm_shapes(f"{layer}.norm2", wide)
        for name, rows, columns in (
            ("mixer.Wqkv", 3 * wide, wide),
            ("mixer.out_proj", wide, wide),
            ("mlp.fc1", inner, wide),
            ("mlp.fc2", wide, inner),
        ):
            shapes += _adapted(f"{layer}.{name}", rows, columns, ((RANK, columns), (rows, RANK)))
            shapes += [(f"{layer}.{name}.bias", (rows,))]
    return shapes


def _adapted(name: str, rows: int, columns: int, factors: tuple[tuple[int, int], tuple[int, int]]) -> Shapes:
    weight = f"{name}.parametrizations.weight"
    return [
        (f"{weight}.original", (rows, columns)),
        (f"{weight}.0.lora_A", (1, *factors[0])),
        (f"{weight}.0.lora_B", (1, *factors[1])),
    ]


def _vision_shapes(vision: dict[str, Any]) -> Shapes:
    wide, p = vision["width"], vision["patch_size"]
    inner = int(wide * vision["mlp_ratio"])
    shapes: Shapes = [
        ("vision_model.cls_token", (1, 1, wide)),
        ("vision_model.pos_embed", (1, (vision["image_size"] // p) ** 2 + 1, wide)),
        ("vision_model.patch_embed.proj.weight", (wide, 3, p, p)),
        ("vision_model.patch_embed.proj.bias", (wide,)),
    ]
    for i in range(vision["layers"]):
        block = f"vision_model.blocks.{i}"
        shapes += norm_shapes(f"{block}.norm1", wide) + norm_shapes(f"{block}.norm2", wide)
        shapes += norm_shapes(f"{block}.attn.inner_attn_ln", wide) + norm_shapes(f"{block}.mlp.ffn_ln", inner)
        shapes += [(f"{block}.attn.{name}_proj.weight", (wide, wide)) for name in "qkv"]
        shapes += [(f"{block}.attn.{name}_bias", (wide,)) for name in "qv"]
        shapes += linear_shapes(f"{block}.attn.proj", wide, wide) + linear_shapes(f"{block}.mlp.w1", inner, wide)
        shapes += linear_shapes(f"{block}.mlp.w2", inner, wide) + linear_shapes(f"{block}.mlp.w3", wide, inner)
    return shapes + norm_shapes("vision_model.norm", wide)


def jina_config(text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """The published config.json, with other sizes: `text` in place of jina-embeddings-v3's, `vision` of its own."""
    return {
        "add_projections": False,
        "architectures": ["JinaCLIPModel"],
        "auto_map": {"AutoModel": "jinaai/jina-clip-implementation--modeling_clip.JinaCLIPModel"},
        "logit_scale_init_value": 2.6592,
        "matryoshka_dimensions": [32, 64, 128, 256, 512, 768, 1024],
        "model_type": "jina_clip",
        "projection_dim": vision["width"],
        "text_config": {
            "default_instruction_task": None,
            "default_lora_task": "retrieval.query",
            "embed_dim": vision["width"],
            "hf_model_config_kwargs": {
                "load_trained_adapters": False,
                "lora_adaptations": ["retrieval.query"],
                "lora_alpha": 4,
                "lora_dropout_p": 0.0,
                "lora_main_params_trainable": False,
                "lora_rank": RANK,
                "task_instructions": {"retrieval.query": QUERY},
                "use_flash_attn": True,
            }
            | text,
            "hf_model_name_or_path": "jinaai/jina-embeddings-v3",
            "model_type": "jina_clip_text",
            "pooler_type": "mean_pooler",
            "proj_bias": False,
            "proj_type": None,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.47.0",
        "truncate_dim": None,
        "use_text_flash_attn": None,
        "use_vision_xformers": None,
        "vision_config": {
            "embed_dim": vision["width"],
            "fused_layer_norm": False,
            "intp_freq": True,
            "ls_init_value": None,
            "mlp_ratio": 2.6667,
            "model_type": "jina_clip_vision",
            "naive_swiglu": True,
            "patch_dropout": 0.1,
            "patch_size": 14,
            "post_norm": False,
            "proj_type": None,
            "pt_hw_seq_len": 16,
            "qkv_bias": True,
            "rope_embeddings": True,
            "subln": True,
            "x_attention": True,
        }
        | vision,
    }


def tiny_jina_config() -> dict[str, Any]:
    """config.json of a tiny model: a picture has 2 pixels left over, no group divides its MLP's 170 units."""
    text = {
        "vocab_size": 60,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    return jina_config(text, {"image_size": 44, "width": 64, "layers": 2, "head_width": 16})


def jina_weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights for a config, by the rule of the golden files."""
    return golden_weights(jina_shapes(config), {"logit_scale": 2.6592})


def jina_batch(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Three texts (full; padded; padded) and three pictures (B, H, W, 3)."""
    text, vision = config["text_config"]["hf_model_config_kwargs"], config["vision_config"]
    ids = token_rows((16, 5, 9), 16, text["vocab_size"])
    size = vision["image_size"]
    pixels = hashed((3, size, size, 3), 80).astype(np.float32)
    return {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int32), "pixel_values": pixels}


def jina_preprocessor_config(size: int) -> dict[str, Any]:
    """`preprocessor_config.json` of the published checkpoint, for another size."""
    return {
        "auto_map": {"AutoImageProcessor": "jinaai/jina-clip-implementation--processing_clip.JinaCLIPImageProcessor"},
        "fill_color": 0,
        "image_processor_type": "JinaCLIPImageProcessor",
        "interpolation": "bicubic",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "processor_class": "JinaCLIPProcessor",
        "resize_mode": "shortest",
        "size": size,
        "std": [0.26862954, 0.26130258, 0.27577711],
    }


JINA_TOKENIZER_CONFIG = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
    "model_max_length": 8194,
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "tokenizer_class": "XLMRobertaTokenizer",
    "unk_token": "<unk>",
}


def write_jina_side_files(folder: Path, config: dict[str, Any]) -> None:
    """Processor and tokenizer files; as in the published tokenizer.json, that file cuts and pads to 77 by itself."""
    write_json(folder / "preprocessor_config.json", jina_preprocessor_config(config["vision_config"]["image_size"]))
    tokenizer = golden("metaclip2_tokenizer_cases")["tokenizer_json"]
    truncation = {"direction": "Right", "max_length": 77, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 77},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    write_json(folder / "tokenizer.json", {**tokenizer, "truncation": truncation, "padding": padding})
    write_json(folder / "tokenizer_config.json", JINA_TOKENIZER_CONFIG)
