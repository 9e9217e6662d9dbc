"""Small checkpoints in Hugging Face's own format, made from a formula: no network, no torch, milliseconds.

`golden_weights` follows the rule written in `golden/siglip2_golden_forward.json`; the checkpoints written by
`write_checkpoint` have the tensor names, the config keys and the side files of the ones on the hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / "golden"
Shapes = list[tuple[str, tuple[int, ...]]]


def golden(name: str) -> dict[str, Any]:
    """The JSON file of that name in `tests/golden`."""
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


def hashed(shape: tuple[int, ...], k: int) -> np.ndarray:
    """Float64 numbers in [-1, 1) of the golden files' integer hash."""
    count = int(np.prod(shape, dtype=np.int64))
    x = ((np.arange(count, dtype=np.uint64) + 1) * 2654435761 + (k + 1) * 2246822519) & 0xFFFFFFFF
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 73244475) & 0xFFFFFFFF
    x ^= x >> 16
    return (x / 2.0**32 * 2 - 1).reshape(shape)


def golden_weights(tensors: Shapes, special: dict[str, float] | None = None) -> dict[str, np.ndarray]:
    """Float32 tensors in PyTorch layout for (name, shape) pairs, by the rule of the golden files."""
    weights = {}
    for k, (name, shape) in enumerate(sorted(tensors, key=lambda pair: pair[0])):
        u = hashed(tuple(shape), k)
        if special and name in special:
            value = np.full(shape, special[name])
        elif len(shape) >= 2:
            value = 0.2 * u
        elif name.endswith("weight"):
            value = 1 + 0.1 * u
        else:
            value = 0.1 * u
        weights[name] = value.astype(np.float32)
    return weights


def siglip_shapes(config: dict[str, Any]) -> Shapes:
    """Names and PyTorch shapes of every tensor of a full SigLIP model (FixRes or NaFlex)."""
    text, vision = config["text_config"], config["vision_config"]
    wide, p = vision["hidden_size"], vision["patch_size"]
    if config["model_type"] == "siglip2":
        patch, rows = (wide, p * p * 3), vision["num_patches"]
    else:
        patch, rows = (wide, 3, p, p), (vision["image_size"] // p) ** 2
    shapes: Shapes = [("logit_scale", (1,)), ("logit_bias", (1,))]
    shapes += [
        ("text_model.embeddings.token_embedding.weight", (text["vocab_size"], text["hidden_size"])),
        ("text_model.embeddings.position_embedding.weight", (text["max_position_embeddings"], text["hidden_size"])),
        ("vision_model.embeddings.patch_embedding.weight", patch),
        ("vision_model.embeddings.patch_embedding.bias", (wide,)),
        ("vision_model.embeddings.position_embedding.weight", (rows, wide)),
    ]
    for tower, part in (("text_model", text), ("vision_model", vision)):
        for i in range(part["num_hidden_layers"]):
            shapes += layer_shapes(f"{tower}.encoder.layers.{i}", part["hidden_size"], part["intermediate_size"])
    shapes += norm_shapes("text_model.final_layer_norm", text["hidden_size"])
    shapes += linear_shapes("text_model.head", text.get("projection_size", text["hidden_size"]), text["hidden_size"])
    shapes += norm_shapes("vision_model.post_layernorm", wide)
    if vision.get("vision_use_head", True):
        head = "vision_model.head"
        shapes += [(f"{head}.probe", (1, 1, wide))]
        shapes += [(f"{head}.attention.in_proj_weight", (3 * wide, wide))]
        shapes += [(f"{head}.attention.in_proj_bias", (3 * wide,))]
        shapes += linear_shapes(f"{head}.attention.out_proj", wide, wide) + norm_shapes(f"{head}.layernorm", wide)
        shapes += linear_shapes(f"{head}.mlp.fc1", vision["intermediate_size"], wide)
        shapes += linear_shapes(f"{head}.mlp.fc2", wide, vision["intermediate_size"])
    return shapes


def classification_shapes(config: dict[str, Any], num_labels: int) -> Shapes:
    """The same for `…ForImageClassification`."""
    return classifier_of(siglip_shapes(config), config, num_labels)


def classifier_of(joint: Shapes, config: dict[str, Any], num_labels: int) -> Shapes:
    """Of a joint model's tensors the vision tower's, and a classifier."""
    vision = [(name, shape) for name, shape in joint if name.startswith("vision_model.")]
    return vision + linear_shapes("classifier", num_labels, config["vision_config"]["hidden_size"])


def norm_shapes(name: str, width: int) -> Shapes:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def linear_shapes(name: str, rows: int, columns: int) -> Shapes:
    return [(f"{name}.weight", (rows, columns)), (f"{name}.bias", (rows,))]


def layer_shapes(layer: str, width: int, inner: int) -> Shapes:
    shapes = norm_shapes(f"{layer}.layer_norm1", width) + norm_shapes(f"{layer}.layer_norm2", width)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes += linear_shapes(f"{layer}.self_attn.{name}", width, width)
    return shapes + linear_shapes(f"{layer}.mlp.fc1", inner, width) + linear_shapes(f"{layer}.mlp.fc2", width, inner)


def tiny_config(family: str) -> dict[str, Any]:
    """`config.json` of a tiny model; MLP widths divide by no group size, as so400m's 4304 does not.

    `family`: "siglip" (FixRes, image size not divisible by the patch, asymmetric towers) or "siglip2" (NaFlex).
    """
    text = {
        "model_type": f"{family}_text_model",
        "vocab_size": 384,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "projection_size": 128,
    }
    vision: dict[str, Any] = {
        "model_type": f"{family}_vision_model",
        "hidden_size": 128,
        "intermediate_size": 144,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_channels": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    }
    if family == "siglip2":
        vision |= {"patch_size": 4, "num_patches": 16}
    else:
        vision |= {"patch_size": 8, "image_size": 30}
    name = "Siglip2Model" if family == "siglip2" else "SiglipModel"
    return {
        "architectures": [name],
        "initializer_factor": 1.0,
        "model_type": family,
        "text_config": text,
        "vision_config": vision,
        "transformers_version": "4.49.0",
        "torch_dtype": "float32",
    }


def tiny_weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights for a full-model config; scaled so that every layer changes its input visibly."""
    return golden_weights(siglip_shapes(config), {"logit_scale": 2.5, "logit_bias": -3.0})


def preprocessor_config(config: dict[str, Any]) -> dict[str, Any]:
    """`preprocessor_config.json` with the values of the hub's files, sized for this model."""
    settings: dict[str, Any] = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 1 / 255,
    }
    vision = config.get("vision_config", config)
    if config["model_type"].startswith("siglip2"):
        settings |= {"image_processor_type": "Siglip2ImageProcessorFast", "processor_class": "Siglip2Processor"}
        settings |= {"patch_size": vision["patch_size"], "max_num_patches": 24}
    else:
        settings |= {"image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor"}
        settings |= {"size": {"height": vision["image_size"], "width": vision["image_size"]}}
    return settings


TOKENIZER_CONFIG = {
    "add_bos_token": False,
    "add_eos_token": True,
    "bos_token": "<bos>",
    "do_lower_case": True,
    "eos_token": "<eos>",
    "model_input_names": ["input_ids"],
    "model_max_length": 1000000000000000019884624838656,
    "pad_token": "<pad>",
    "padding_side": "right",
    "tokenizer_class": "GemmaTokenizer",
    "unk_token": "<unk>",
}


def write_side_files(folder: Path, config: dict[str, Any]) -> None:
    """SigLIP's processor and tokenizer files beside the weights."""
    if "text_model" not in config["model_type"]:
        write_json(folder / "preprocessor_config.json", preprocessor_config(config))
    write_json(folder / "tokenizer.json", golden("siglip2_tokenizer_cases")["tokenizer_json"])
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    weights: dict[str, np.ndarray],
    *,
    shards: int = 1,
    side_files: Callable[[Path, dict[str, Any]], None] = write_side_files,
) -> Path:
    """Write a Hugging Face folder; with `shards` > 1 also its index. side_files: writes those of the processor."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    side_files(folder, config)
    names = sorted(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    index = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(array.nbytes for array in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")


def layer_of(name: str) -> str:
    """The path of our layer that holds a Hugging Face tensor; of the packed projection, one of three."""
    return name.removesuffix(".weight").replace("attention.in_proj_weight", "attention.q_proj")


def requantised(array: np.ndarray, bits: int, group_size: int) -> np.ndarray:
    """A weight in PyTorch layout after mlx's quantisation, the last axis filled up with zeros to whole groups."""
    flat = array.transpose(0, 2, 3, 1).reshape(len(array), -1) if array.ndim == 4 else array
    width = -(-flat.shape[1] // group_size) * group_size
    parts = mx.quantize(mx.array(np.pad(flat, [(0, 0), (0, width - flat.shape[1])])), group_size, bits)
    full = np.array(mx.dequantize(*parts, group_size, bits))[:, : flat.shape[1]]
    if array.ndim == 4:
        full = full.reshape(len(array), *array.shape[2:], -1).transpose(0, 3, 1, 2)
    return full


def token_rows(
    counts: tuple[int, ...], length: int, vocab_size: int, *, first: int = 3, end: int = 2, seed: int = 70
) -> np.ndarray:
    """Texts of `counts` tokens from `first` on, between 0 and `end`, padded with 1 to `length`: int32 ids."""
    ids = np.full((len(counts), length), 1, dtype=np.int32)
    for row, count in enumerate(counts):
        ids[row, :count] = first + np.abs(hashed((count,), seed + row)) * (vocab_size - first)
        ids[row, 0], ids[row, count - 1] = 0, end
    return ids


def tiny_batch(family: str) -> dict[str, np.ndarray]:
    """A batch with three texts and three images for `tiny_config(family)`."""
    ids = np.full((3, 16), 0, dtype=np.int32)
    for row, length in enumerate((3, 16, 9)):
        ids[row, :length] = np.abs(hashed((length,), 50 + row)) * 380
        ids[row, length - 1] = 1
    if family == "siglip":
        return {"input_ids": ids, "pixel_values": hashed((3, 30, 30, 3), 60).astype(np.float32)}
    spatial = np.array([[3, 5], [4, 4], [1, 7]], dtype=np.int32)
    mask = (np.arange(18)[None] < spatial.prod(1, keepdims=True)).astype(np.int32)
    pixels = hashed((3, 18, 48), 61).astype(np.float32) * mask[..., None]
    return {"input_ids": ids, "pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": spatial}
