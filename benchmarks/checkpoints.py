"""Checkpoints of published sizes with random weights, as they stand on the hub. Needs the repository's tests."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))

WORDS = 4096  # of a vocabulary: how many there are costs an encoder no time, and gigabytes of memory
GLM_WORDS = 512


def write_vit(folder: Path) -> None:
    """SigLIP's ViT-B/16 vision tower."""
    import encoders

    encoders.write_checkpoint(folder)


def write_clap(folder: Path) -> None:
    """laion/clap-htsat-unfused."""
    import sounds

    sounds.write_checkpoint(folder)


def write_jina(folder: Path, *, text_layers: int, vision_layers: int) -> None:
    """Jina CLIP v2; the tower that is not measured has one layer."""
    from jina_tiny import jina_config, jina_shapes, write_jina_side_files

    text = {"vocab_size": WORDS, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    text |= {"num_hidden_layers": text_layers, "max_position_embeddings": 8194}
    vision = {"image_size": 512, "width": 1024, "layers": vision_layers, "head_width": 64}
    config = jina_config(text, vision)
    _write(folder, config, jina_shapes(config))
    write_jina_side_files(folder, config)


def write_metaclip_huge(folder: Path) -> None:
    """The vision tower of facebook/metaclip-2-worldwide-huge-quickgelu, and one layer of text."""
    from metaclip_tiny import clip_shapes, tiny_clip_config, write_clip_side_files

    config = tiny_clip_config("metaclip_2", "quick_gelu")
    config["projection_dim"] = 1024
    config["vision_config"] |= {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
    config["vision_config"] |= {"num_attention_heads": 16, "image_size": 224, "patch_size": 14, "projection_dim": 1024}
    config["text_config"] |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 1}
    config["text_config"] |= {"num_attention_heads": 16, "vocab_size": WORDS, "projection_dim": 1024}
    _write(folder, config, clip_shapes(config))
    write_clip_side_files(folder, config)


def glm_config(*, layers: int, depth: int, experts: int = 0, words: int = GLM_WORDS) -> dict[str, Any]:
    """That of GLM-4.6V-Flash, or with experts that of GLM-4.6V, with fewer layers and words."""
    import glm

    config = copy.deepcopy(glm.CONFIG)
    config["text_config"] |= {"num_hidden_layers": layers, "vocab_size": words}
    config["text_config"] |= {"pad_token_id": 0, "eos_token_id": [0]}
    config["vision_config"]["depth"] = depth
    if experts:
        config |= {"model_type": "glm4v_moe", "architectures": ["Glm4vMoeForConditionalGeneration"]}
        text = config["text_config"]
        text |= {"model_type": "glm4v_moe_text", "intermediate_size": 10944, "moe_intermediate_size": 1408}
        text |= {"num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128, "attention_bias": True}
        text |= {"n_routed_experts": experts, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 1}
        text |= {"topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0, "first_k_dense_replace": 0}
    return config


def write_glm(folder: Path, config: dict[str, Any]) -> None:
    """In bfloat16 and shards."""
    import glm

    glm.write(folder, config)


def _write(folder: Path, config: dict[str, Any], shapes: list[tuple[str, tuple[int, ...]]]) -> None:
    """config.json and the tensors, float32: products stay of the order of one."""
    from safetensors.numpy import save_file

    random = np.random.default_rng(0)
    weights = {}
    for name, shape in sorted(shapes):
        noise = np.asarray(random.standard_normal(shape, dtype=np.float32))
        if len(shape) < 2:
            weights[name] = np.asarray(np.float32(name.endswith("weight")) + np.float32(0.1) * noise)
        else:
            embedding = "embed" in name and "patch" not in name
            weights[name] = noise * np.float32(0.5 if embedding else float(np.prod(shape[1:])) ** -0.5)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
