"""Recipes for small CLIP-shaped checkpoints (MetaCLIP 2, CLIP), as `tiny` has them for SigLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny import (
    Shapes,
    classifier_of,
    golden,
    golden_weights,
    hashed,
    layer_shapes,
    norm_shapes,
    token_rows,
    write_json,
)

CLASSES = {"metaclip_2": "MetaClip2", "clip": "CLIP"}  # `model_type` -> how transformers' class names begin


def clip_shapes(config: dict[str, Any]) -> Shapes:
    """Names and PyTorch shapes of every tensor of a full model."""
    text, vision, joint = config["text_config"], config["vision_config"], config["projection_dim"]
    wide, p = vision["hidden_size"], vision["patch_size"]
    shapes: Shapes = [
        ("logit_scale", ()),
        ("text_projection.weight", (joint, text["hidden_size"])),
        ("visual_projection.weight", (joint, wide)),
        ("text_model.embeddings.token_embedding.weight", (text["vocab_size"], text["hidden_size"])),
        ("text_model.embeddings.position_embedding.weight", (text["max_position_embeddings"], text["hidden_size"])),
        ("vision_model.embeddings.class_embedding", (wide,)),
        ("vision_model.embeddings.patch_embedding.weight", (wide, 3, p, p)),
        ("vision_model.embeddings.position_embedding.weight", ((vision["image_size"] // p) ** 2 + 1, wide)),
    ]
    for tower, part in (("text_model", text), ("vision_model", vision)):
        for i in range(part["num_hidden_layers"]):
            shapes += layer_shapes(f"{tower}.encoder.layers.{i}", part["hidden_size"], part["intermediate_size"])
    shapes += norm_shapes("text_model.final_layer_norm", text["hidden_size"])
    return shapes + norm_shapes("vision_model.pre_layrnorm", wide) + norm_shapes("vision_model.post_layernorm", wide)


def clip_classification_shapes(config: dict[str, Any], num_labels: int) -> Shapes:
    """The same for `…ForImageClassification`."""
    return classifier_of(clip_shapes(config), config, num_labels)


def tiny_clip_config(model_type: str = "metaclip_2", hidden_act: str = "gelu") -> dict[str, Any]:
    """`config.json` of a tiny model, "metaclip_2" or "clip"; its towers differ in every size.

    Every input width is divisible by 64, as in all checkpoints. The tokenizer of the golden files has 25 words.
    """
    both = {"attention_dropout": 0.0, "hidden_act": hidden_act, "layer_norm_eps": 1e-5, "projection_dim": 96}
    text = {
        "model_type": f"{model_type}_text_model",
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": None,
        "vocab_size": 60,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
    }
    vision = {
        "model_type": f"{model_type}_vision_model",
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_channels": 3,
        "image_size": 32,
        "patch_size": 8,
    }
    return {
        "architectures": [f"{CLASSES[model_type]}Model"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": model_type,
        "projection_dim": 96,
        "text_config": text | both,
        "vision_config": vision | both,
        "torch_dtype": "float32",
        "transformers_version": "4.56.0",
    }


def tiny_clip_weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights for a full-model config; scaled so that every layer changes its input visibly."""
    return golden_weights(clip_shapes(config), {"logit_scale": 2.6592})


def tiny_clip_batch(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Three texts (padded; full; with an end in the middle) and three pictures (B, H, W, 3)."""
    text, vision = config["text_config"], config["vision_config"]
    length, eos = text["max_position_embeddings"], text["eos_token_id"]
    counts = (5, length, 9)
    ids = token_rows(counts, length, text["vocab_size"], end=eos)
    ids[2, 4] = eos
    mask = (np.arange(length) < np.array(counts)[:, None]).astype(np.int32)
    size = vision["image_size"]
    pixels = hashed((3, size, size, 3), 80).astype(np.float32)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def clip_preprocessor_config(config: dict[str, Any]) -> dict[str, Any]:
    """`preprocessor_config.json` as most of the hub's: both sides resized, and a crop that changes nothing."""
    size = config.get("vision_config", config)["image_size"]
    return {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": size, "width": size},
    }


CLIP_TOKENIZER_CONFIG = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
    "model_max_length": 1000000000000000019884624838656,
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "tokenizer_class": "XLMRobertaTokenizer",
    "unk_token": "<unk>",
}


def write_clip_side_files(folder: Path, config: dict[str, Any]) -> None:
    """Processor and tokenizer files beside the weights."""
    if "text_model" not in config["model_type"]:
        write_json(folder / "preprocessor_config.json", clip_preprocessor_config(config))
    if "vision_model" not in config["model_type"]:
        write_json(folder / "tokenizer.json", golden("metaclip2_tokenizer_cases")["tokenizer_json"])
        write_json(folder / "tokenizer_config.json", CLIP_TOKENIZER_CONFIG)
