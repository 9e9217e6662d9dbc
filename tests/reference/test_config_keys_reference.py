"""Every key of config.json acts as in transformers: each is varied on a small random model, and the outputs compared.

What is refused though transformers runs it stands in `REFUSED`. Values that transformers does not run are passed over.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from beside import theirs
from glm_models import prompt
from safetensors.numpy import load_file
from tiny import hashed

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import mlx_mm  # noqa: E402
from mlx_mm.backend import blas  # noqa: E402
from mlx_mm.checkpoint.rows import Rows  # noqa: E402
from mlx_mm.errors import MlxMmError  # noqa: E402
from mlx_mm.models import find_family  # noqa: E402

CLOSE = 2e-4
Config = dict[str, Any]

CLIP_TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 1,
}
CLIP_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
SIGLIP_TEXT = CLIP_TEXT | {"eos_token_id": 49407}
CLAP_TEXT = CLIP_TEXT | {"max_position_embeddings": 20}
CLAP_AUDIO = {
    "depths": [2, 2],
    "hidden_size": 64,
    "num_attention_heads": [2, 4],
    "num_hidden_layers": 2,
    "patch_embeds_hidden_size": 32,
    "patch_size": 16,
    "patch_stride": [16, 16],
    "window_size": 4,
}
ROPE = {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
GLM_TEXT = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_parameters": ROPE,
    "pad_token_id": 0,
}
GLM_EXPERTS = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
GLM_VISION = {
    "depth": 2,
    "hidden_size": 48,
    "num_heads": 3,
    "image_size": 56,
    "patch_size": 14,
    "out_hidden_size": 64,
    "intermediate_size": 40,
}
IDS = {"image_token_id": 500, "video_token_id": 501, "image_start_token_id": 502, "image_end_token_id": 503}
IDS |= {"video_start_token_id": 504, "video_end_token_id": 505}
GLM = IDS | {"text_config": GLM_TEXT, "vision_config": GLM_VISION}
# Class of transformers without "Config" -> a config
BASES: dict[str, Config] = {
    "CLIP": {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION, "projection_dim": 24},
    "MetaClip2": {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION, "projection_dim": 24},
    "Siglip": {"text_config": SIGLIP_TEXT, "vision_config": CLIP_VISION},
    "Siglip2": {
        "text_config": SIGLIP_TEXT,
        "vision_config": {key: value for key, value in CLIP_VISION.items() if key != "image_size"}
        | {"num_patches": 16},
    },
    "Clap": {"text_config": CLAP_TEXT, "audio_config": CLAP_AUDIO, "projection_dim": 24},
    "Glm4v": GLM,
    "Glm46V": GLM | {"text_config": GLM_TEXT | {"model_type": "glm4v_text"}},
    "Glm4vMoe": GLM | {"text_config": GLM_TEXT | GLM_EXPERTS},
}
ACTIVATIONS = ["gelu", "quick_gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "silu"]
EPSILON = [1e-3, 0.3]
UNUSED = {
    "attention_dropout": [0.5],
    "initializer_range": [0.5],
    "initializer_factor": [3.0],
    "logit_scale_init_value": [1.0],
    "bos_token_id": [0, 5],
}
TEXT_KEYS: dict[str, list[Any]] = UNUSED | {
    "vocab_size": [61, 90],
    "intermediate_size": [16, 50],
    "num_hidden_layers": [1, 3],
    "num_attention_heads": [1, 8],
    "max_position_embeddings": [14],
    "hidden_act": ACTIVATIONS,
    "layer_norm_eps": EPSILON,
    "hidden_size": [64],
    "pad_token_id": [0, 3],
    "eos_token_id": [2, 3],
    "projection_dim": [7],
}
VISION_KEYS: dict[str, list[Any]] = UNUSED | {
    "intermediate_size": [16, 50],
    "num_hidden_layers": [1, 3],
    "num_attention_heads": [1, 8],
    "hidden_act": ACTIVATIONS,
    "layer_norm_eps": EPSILON,
    "patch_size": [5, 8],
    "image_size": [16],
    "num_channels": [1],
    "hidden_size": [64],
}
CLIP_KEYS = {"text_config": TEXT_KEYS, "vision_config": VISION_KEYS, "": {"projection_dim": [8], **UNUSED}}
GLM_TEXT_KEYS: dict[str, list[Any]] = {
    "vocab_size": [520],
    "intermediate_size": [16],
    "num_hidden_layers": [1, 3],
    "num_key_value_heads": [1, 4, None],
    "hidden_act": ["gelu"],
    "max_position_embeddings": [64],
    "rms_norm_eps": EPSILON,
    "attention_dropout": [0.5],
    "pad_token_id": [None, 3],
    "eos_token_id": [0, [0, 3]],
    "bos_token_id": [3],
    "tie_word_embeddings": [True, False],
    "head_dim": [16, 32, None],
    "use_cache": [False],
    "rope_parameters": [
        ROPE | {"rope_theta": 100.0},
        ROPE | {"mrope_section": [2, 1, 1]},
        ROPE | {"partial_rotary_factor": 1.0, "mrope_section": [2, 3, 3]},
    ],
}
GLM_VISION_KEYS: dict[str, list[Any]] = {
    "depth": [1, 3],
    "hidden_act": ["gelu", "relu"],
    "attention_bias": [True],
    "attention_dropout": [0.5],
    "num_heads": [1, 4],
    "in_channels": [1],
    "image_size": [42, 70],
    "rms_norm_eps": EPSILON,
    "intermediate_size": [16],
    "hidden_size": [24],
    "temporal_patch_size": [1],
    "rope_parameters": [{"rope_type": "axial", "rope_theta": 100.0}, {"rope_type": "default", "rope_theta": 5000.0}],
}
GLM_KEYS = {"text_config": GLM_TEXT_KEYS, "vision_config": GLM_VISION_KEYS, "": {"tie_word_embeddings": [True]}}
EXPERT_KEYS: dict[str, list[Any]] = {
    "moe_intermediate_size": [16],
    "n_routed_experts": [4],
    "num_experts_per_tok": [1, 8],
    "n_shared_experts": [2],
    "routed_scaling_factor": [2.5],
    "n_group": [2],
    "topk_group": [1],
    "first_k_dense_replace": [0, 2, 5],
    "norm_topk_prob": [False],
    "attention_bias": [True, False],
    "output_router_logits": [True],
    "router_aux_loss_coef": [0.5],
}
AUDIO_KEYS: dict[str, list[Any]] = {
    "num_mel_bins": [32],
    "spec_size": [128],
    "window_size": [2, 8],
    "hidden_act": ACTIVATIONS,
    "layer_norm_eps": EPSILON,
    "num_classes": [3],
    "projection_dim": [7],
    "depths": [[1, 1], [2, 3]],
    "num_attention_heads": [[1, 8]],
    "enable_fusion": [True],
    "hidden_dropout_prob": [0.5],
    "attention_probs_dropout_prob": [0.5],
    "drop_path_rate": [0.5],
    "flatten_patch_embeds": [False],
    "enable_patch_layer_norm": [False],
    "patch_embed_input_channels": [2],
    "qkv_bias": [False],
    "mlp_ratio": [1.5, 2],
    "aff_block_r": [2],
    "num_hidden_layers": [3],
    "projection_hidden_act": ["gelu"],
    "initializer_factor": [3.0],
    "hidden_size": [64],
    "chunk_size_feed_forward": [0],
}
SIGLIP_TEXT_KEYS = {key: values for key, values in TEXT_KEYS.items() if key != "hidden_size"} | {
    "projection_size": [32]
}
SIGLIP_VISION_KEYS = {key: values for key, values in VISION_KEYS.items() if key != "hidden_size"}
SIGLIP_VISION_KEYS |= {"vision_use_head": [True]}
# Class -> section, "" for the top -> key -> values
VARIED: dict[str, dict[str, dict[str, list[Any]]]] = {
    "CLIP": CLIP_KEYS,
    "MetaClip2": CLIP_KEYS,
    "Siglip": {"text_config": SIGLIP_TEXT_KEYS, "vision_config": SIGLIP_VISION_KEYS, "": UNUSED},
    "Siglip2": {
        "text_config": SIGLIP_TEXT_KEYS,
        "vision_config": SIGLIP_VISION_KEYS | {"num_patches": [9, 25], "patch_size": [4], "image_size": [32]},
        "": UNUSED,
    },
    "Clap": {
        "text_config": TEXT_KEYS
        | {"type_vocab_size": [2], "max_position_embeddings": [22], "projection_hidden_act": ["gelu"]}
        | {"hidden_dropout_prob": [0.5], "attention_probs_dropout_prob": [0.5]},
        "audio_config": AUDIO_KEYS,
        "": {"projection_dim": [8], "projection_hidden_act": ["gelu", "silu"], **UNUSED},
    },
    "Glm4v": GLM_KEYS,
    "Glm46V": GLM_KEYS,
    "Glm4vMoe": GLM_KEYS | {"text_config": GLM_TEXT_KEYS | EXPERT_KEYS},
}
# Beginning of a class, section, key: what transformers runs with another value, and no published checkpoint has
REFUSED = {
    ("Clap", "audio_config", "enable_patch_layer_norm"),
    ("Glm", "text_config", "hidden_act"),
    ("Glm", "vision_config", "attention_bias"),
}

CASES = [
    (name, section, key, value)
    for name, sections in VARIED.items()
    for section, keys in sections.items()
    for key, values in keys.items()
    for value in values
]


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> Iterator[None]:
    """The matrix library that `load` chooses, and of torch one thread: its many wait for each other in small models."""
    blas.use_fast_blas()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def varied(name: str, section: str, key: str, value: Any) -> Config:
    config = copy.deepcopy(BASES[name])
    (config[section] if section else config)[key] = value
    if key == "n_group" or key == "topk_group":
        config["text_config"] |= {"n_group": 2}
    return config


def their_model(name: str, config: Config) -> Any:
    """A random model of transformers, at sizes that keep the activations of the order of one."""
    own = getattr(transformers, f"{name}Config")(**copy.deepcopy(config))
    kind = "ForConditionalGeneration" if name.startswith("Glm") else "Model"
    model = getattr(transformers, name + kind)._from_config(own, attn_implementation="eager")
    torch.manual_seed(0)
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or "rotary" in path or "inv_freq" in path:
            continue
        noise = torch.randn_like(tensor)
        if path.startswith("logit_"):
            noise = torch.full_like(tensor, 2.3)
        elif path.endswith("running_var"):
            noise = 1 + 0.2 * noise.abs()
        elif tensor.ndim == 1:
            noise = noise * 0.1 + (1 if "norm" in path.lower() and path.endswith("weight") else 0)
        elif path.endswith(("experts.gate_up_proj", "experts.down_proj")):
            noise = noise / tensor.shape[-1] ** 0.5
        elif "embed_tokens" not in path:
            noise = noise / tensor[0].numel() ** 0.5 if "embedding" not in path or "patch" in path else noise * 0.5
        tensor.data.copy_(noise)
    return model.eval()


def batch_of(name: str, config: Config) -> dict[str, np.ndarray]:
    """Inputs in transformers' layout."""
    if name.startswith("Glm"):
        vision = config["vision_config"]
        batch = {key: np.array(value) for key, value in prompt(10, 11, (4, 6), 12, 13).items()}
        length = vision.get("in_channels", 3) * vision.get("temporal_patch_size", 2) * vision["patch_size"] ** 2
        batch["pixel_values"] = np.resize(batch["pixel_values"], (24, length))
        return batch
    ids = 4 + (np.abs(hashed((2, 10), 5)) * 50).astype(np.int64)
    ids[0, 9], ids[1, 4], ids[1, 5:] = 2, 2, 1
    ids[0, 3], ids[1, 2] = 3, 3
    batch = {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)}
    if name == "Clap":
        audio = config["audio_config"]
        fused = audio.get("enable_fusion", False)
        mels = audio.get("num_mel_bins", 64)
        sounds = np.tile(hashed((2, 4 if fused else 1, 201, mels), 7).astype(np.float32), 1)
        return batch | {"input_features": sounds, "is_longer": np.array([[fused], [False]])}
    vision = config["vision_config"]
    if name == "Siglip2":
        shapes = np.array([[3, 5], [4, 4]])
        mask = (np.arange(18)[None] < shapes.prod(1, keepdims=True)).astype(np.int64)
        width = vision["patch_size"] ** 2 * vision.get("num_channels", 3)
        pixels = hashed((2, 18, width), 6).astype(np.float32) * mask[..., None]
        images = {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes}
    else:
        size, channels = vision["image_size"], vision.get("num_channels", 3)
        images = {"pixel_values": hashed((2, channels, size, size), 6).astype(np.float32)}
    if name.startswith("Siglip"):
        del batch["attention_mask"]
    return batch | images


OUTPUTS = ("logits_per_text", "text_embeds", "image_embeds", "audio_embeds", "logits")


def run_theirs(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs = {key: value.long() if not value.is_floating_point() else value for key, value in theirs(batch).items()}
    if "is_longer" in inputs:
        inputs["is_longer"] = inputs["is_longer"].bool()
    with torch.no_grad():
        out = model(**inputs)
    return {key: out[key].numpy() for key in OUTPUTS if out.get(key) is not None}


def run_ours(folder: Path, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """From the files, without those of a processor."""
    values = json.loads((folder / "config.json").read_text("utf-8"))
    family = find_family(values["model_type"])
    model = family.architecture(values["architectures"])(family.config.from_dict(values))
    found = model.sanitize({key: mx.array(value) for key, value in load_file(folder / "model.safetensors").items()})
    arrays = [(key, value.join() if isinstance(value, Rows) else value) for key, value in found.items()]
    model.load_weights(arrays, strict=True)
    model.eval()
    if "pixel_values" in batch and batch["pixel_values"].ndim == 4:
        batch = batch | {"pixel_values": batch["pixel_values"].transpose(0, 2, 3, 1)}
    out = model(**mlx_mm.to_mlx(batch))
    return {key: np.array(getattr(out, key)) for key in OUTPUTS if getattr(out, key, None) is not None}


@pytest.mark.parametrize(("name", "section", "key", "value"), CASES)
def test_key(name: str, section: str, key: str, value: Any, tmp_path: Path) -> None:
    config = varied(name, section, key, value)
    batch = batch_of(name, config)
    try:
        model = their_model(name, config)
        right = run_theirs(model, batch)
        model.save_pretrained(tmp_path)
    except Exception as error:
        pytest.skip(f"not in transformers: {error!r}"[:300])
    if any(name.startswith(start) and (section, key) == (part, its_key) for start, part, its_key in REFUSED):
        with pytest.raises(MlxMmError):
            run_ours(tmp_path, batch)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        got = run_ours(tmp_path, batch)
    assert got.keys() == right.keys()
    for field, numbers in right.items():
        assert np.abs(got[field] - numbers).max() < CLOSE, field
