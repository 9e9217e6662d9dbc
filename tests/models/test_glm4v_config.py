"""The configurations of the published checkpoints, in both styles, and those that cannot be honoured."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from glm_tiny import MODELS, glm_config

from mlx_mm import convert
from mlx_mm.errors import ConfigError
from mlx_mm.models.glm4v.config import ModelConfig

Config = dict[str, Any]
END = [151329, 151336, 151338]
SECTION = [8, 12, 12]

DENSE_TEXT = {
    "attention_bias": True,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 131072,
    "model_type": "glm4v_text",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "pad_token_id": 151329,
    "rms_norm_eps": 1e-05,
    "vocab_size": 151552,
}
MOE_TEXT = DENSE_TEXT | {
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "intermediate_size": 10944,
    "model_type": "glm4v_moe_text",
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 96,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 46,
    "num_key_value_heads": 8,
    "routed_scaling_factor": 1.0,
    "router_aux_loss_coef": 0.0001,
    "topk_group": 1,
    "use_qk_norm": False,
}
VISION = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "depth": 24,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "image_size": 336,
    "in_channels": 3,
    "intermediate_size": 13696,
    "model_type": "glm4v_vision",
    "num_heads": 12,
    "out_hidden_size": 4096,
    "patch_size": 14,
    "rms_norm_eps": 1e-05,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def old(theta: float) -> Config:
    """Keys of transformers 4."""
    return {
        "rope_theta": theta,
        "partial_rotary_factor": 0.5,
        "rope_scaling": {"type": "default", "mrope_section": SECTION},
    }


def new(theta: float) -> Config:
    """Keys of transformers 5."""
    nested = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5, "mrope_section": SECTION}
    return {"rope_parameters": nested}


def published(model_type: str, text: Config, vision: Config, image: int, **more: Any) -> Config:
    return {
        "model_type": model_type,
        "text_config": text,
        "vision_config": VISION | vision,
        "image_token_id": image,
        "video_token_id": image + 1,
        "tie_word_embeddings": False,
        **more,
    }


MOE_VISION = {"intermediate_size": 10944, "model_type": "glm4v_moe_vision"}
FLASH = published(
    "glm4v", DENSE_TEXT | new(500000.0), {"rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}}, 151363
)
GLM_46V = published("glm4v_moe", MOE_TEXT | new(500000), MOE_VISION, 151363)
GLM_45V = published("glm4v_moe", MOE_TEXT | old(10000.0) | {"max_position_embeddings": 65536}, MOE_VISION, 151363)
GLM_41V = published(
    "glm4v",
    DENSE_TEXT | old(10000.0) | {"max_position_embeddings": 65536, "eos_token_id": [*END, 151348]},
    {"model_type": "glm4v"},
    151343,
)


def changed(config: Config, text: Config | None = None, vision: Config | None = None, **top: Any) -> Config:
    """A copy with other values; those that are `...` are removed."""
    result = copy.deepcopy(config) | top
    result["text_config"] |= text or {}
    result["vision_config"] |= vision or {}
    for section in (result, result["text_config"], result["vision_config"]):
        for key in [key for key, value in section.items() if value is ...]:
            del section[key]
    return result


@pytest.mark.parametrize(
    ("values", "theta", "places", "end", "image"),
    [
        (FLASH, 500000, 131072, END, 151363),
        (GLM_46V, 500000, 131072, END, 151363),
        (GLM_45V, 10000, 65536, END, 151363),
        (GLM_41V, 10000, 65536, [*END, 151348], 151343),
    ],
)
def test_published(values: Config, theta: float, places: int, end: list[int], image: int) -> None:
    config = ModelConfig.from_dict(values)
    moe = values["model_type"] == "glm4v_moe"
    text, vision = config.text_config, config.vision_config
    assert (text.hidden_size, text.vocab_size, text.head_dim, text.rms_norm_eps) == (4096, 151552, 128, 1e-5)
    assert text.max_position_embeddings == places
    assert (text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads, text.intermediate_size) == (
        (46, 96, 8, 10944) if moe else (40, 32, 2, 13696)
    )
    assert (config.rope.rope_theta, config.rope.mrope_section) == (theta, (8, 12, 12))
    assert config.rope.partial_rotary_factor == 0.5
    assert (config.image_token_id, config.video_token_id) == (image, image + 1)
    assert config.eos_token_ids == tuple(end)
    assert config.pad_token_id == 151329
    assert not config.tie_word_embeddings
    assert (vision.depth, vision.hidden_size, vision.num_heads, vision.out_hidden_size) == (24, 1536, 12, 4096)
    assert vision.intermediate_size == (10944 if moe else 13696)
    assert (vision.patch_dims, vision.table_side, vision.rms_norm_eps, vision.rope_theta) == (1176, 24, 1e-5, 10000)
    if not moe:
        assert config.moe is None
        return
    experts = config.moe
    assert experts is not None
    assert (experts.n_routed_experts, experts.num_experts_per_tok, experts.moe_intermediate_size) == (128, 8, 1408)
    assert (experts.n_shared_experts, experts.first_k_dense_replace, experts.n_group, experts.topk_group) == (
        1,
        1,
        1,
        1,
    )
    assert (experts.norm_topk_prob, experts.routed_scaling_factor) == (True, 1.0)


@pytest.mark.parametrize("top", ["glm46v", "glm4v", "glm4v_moe"])
@pytest.mark.parametrize("tower", ["glm4v", "glm4v_vision", "glm4v_moe", "glm4v_moe_vision"])
def test_names_do_not_matter(top: str, tower: str) -> None:
    """A peer refuses some of them; experts are those of the text section."""
    for values in (FLASH, GLM_46V):
        other = changed(values, vision={"model_type": tower}, model_type=top)
        assert ModelConfig.from_dict(other) == ModelConfig.from_dict(values)


@pytest.mark.parametrize("name", MODELS)
def test_tiny(name: str) -> None:
    config = ModelConfig.from_dict(glm_config(name))
    assert (config.rope.rope_theta, config.rope.mrope_section) == (500000, (2, 3, 3))
    assert config.text_config.head_dim == 32
    assert (config.moe is None) == (name == MODELS[0])
    if config.moe:
        grouped = name == MODELS[2]
        assert (config.moe.n_group, config.moe.topk_group) == ((4, 2) if grouped else (1, 1))
        assert config.moe.routed_scaling_factor == (1.5 if grouped else 1.0)
    assert config.vision_config.table_side == 6


# --- rotary keys ------------------------------------------------------------------------------------------------

BARE = changed(FLASH, {"rope_parameters": ...})
NESTED = FLASH["text_config"]["rope_parameters"]


@pytest.mark.parametrize(
    "keys",
    [
        old(500000.0),
        new(500000.0),
        old(500000.0) | new(500000.0),  # as our own converter writes them
        new(500000.0) | {"rope_theta": 10000.0},  # what is nested counts
        new(500000.0) | {"rope_scaling": None, "partial_rotary_factor": None},
        old(500000.0) | {"rope_parameters": None},
        old(500000.0) | {"rope_scaling": {"rope_type": "default", "mrope_section": SECTION}},
        old(500000.0) | {"partial_rotary_factor": ...},  # 0.5 in every checkpoint
        {"rope_parameters": {**NESTED, "partial_rotary_factor": None}},
        {"rope_parameters": {**NESTED, "partial_rotary_factor": None}, "partial_rotary_factor": 0.5},
    ],
)
def test_rotary_keys(keys: Config) -> None:
    assert ModelConfig.from_dict(changed(BARE, keys)) == ModelConfig.from_dict(FLASH)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "lacks rope_theta, mrope_section"),
        ({"rope_theta": 1e4}, "lacks mrope_section"),
        ({"rope_scaling": {"mrope_section": SECTION}}, "lacks rope_theta"),  # and is not 10,000
        ({"rope_parameters": {**NESTED, "rope_type": "yarn"}}, "rope_type 'yarn'"),
        ({"rope_parameters": {**NESTED, "mrope_section": [16, 16]}}, "three numbers"),
        ({"rope_parameters": {**NESTED, "mrope_section": [8, 12, 13]}}, "add up to the 32 turned pairs"),
        ({"rope_parameters": {**NESTED, "partial_rotary_factor": 1.0}}, "add up to the 64 turned pairs"),
    ],
)
def test_rotary_keys_that_do_not_fit(keys: Config, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(changed(BARE, keys))


def test_rotary_base_of_the_tower() -> None:
    """Nested in new files. What stands beside the other keys never had an effect."""
    for vision, base in (
        ({"rope_parameters": {"rope_type": "axial", "rope_theta": 500.0}}, 500.0),
        ({"rope_theta": 500.0}, 10000.0),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, 500.0),
        ({"rope_parameters": None}, 10000.0),
    ):
        assert ModelConfig.from_dict(changed(FLASH, vision=vision)).vision_config.rope_theta == base


# --- the rest ---------------------------------------------------------------------------------------------------


def test_ids() -> None:
    assert ModelConfig.from_dict(changed(FLASH, {"eos_token_id": 7})).eos_token_ids == (7,)
    beside = changed(FLASH, {"eos_token_id": ..., "pad_token_id": ...}, eos_token_id=[8, 9], pad_token_id=3)
    config = ModelConfig.from_dict(beside)
    assert (config.eos_token_ids, config.pad_token_id) == ((8, 9), 3)
    null = changed(FLASH, {"eos_token_id": None, "pad_token_id": None}, eos_token_id=[8, 9], pad_token_id=3)
    assert ModelConfig.from_dict(null) == config
    neither = ModelConfig.from_dict(changed(FLASH, {"eos_token_id": ..., "pad_token_id": ...}))
    assert (neither.eos_token_ids, neither.pad_token_id) == ((), None)


def test_tied_embeddings() -> None:
    assert ModelConfig.from_dict(changed(FLASH, tie_word_embeddings=True)).tie_word_embeddings
    assert ModelConfig.from_dict(
        changed(FLASH, {"tie_word_embeddings": True}, tie_word_embeddings=...)
    ).tie_word_embeddings
    assert not ModelConfig.from_dict(changed(FLASH, tie_word_embeddings=...)).tie_word_embeddings


def test_head_dim() -> None:
    """Given in the models with experts, where it is not hidden_size / heads."""
    assert ModelConfig.from_dict(changed(FLASH, {"head_dim": None})).text_config.head_dim == 128
    with pytest.raises(ConfigError, match="head_dim 42"):
        ModelConfig.from_dict(changed(GLM_46V, {"head_dim": ...}))


@pytest.mark.parametrize(
    ("text", "vision", "top", "message"),
    [
        ({}, {}, {"text_config": ...}, "lacks text_config"),
        ({}, {}, {"image_token_id": None, "video_token_id": ...}, "lacks image_token_id, video_token_id"),
        ({"vocab_size": ..., "rms_norm_eps": ...}, {}, {}, "lacks vocab_size, rms_norm_eps"),
        ({"hidden_size": ...}, {}, {}, "lacks hidden_size, head_dim"),
        ({"use_qk_norm": True}, {}, {}, "use_qk_norm True"),
        ({"hidden_act": "gelu"}, {}, {}, "hidden_act 'gelu'"),
        ({"num_key_value_heads": 5}, {}, {}, "32 heads and 5 for keys"),
        ({"num_hidden_layers": 2.5}, {}, {}, "num_hidden_layers = 2.5"),
        ({}, {"depth": ..., "image_size": ...}, {}, "lacks depth, image_size"),
        ({}, {"num_heads": 7}, {}, "num_heads 7"),
        ({}, {"num_heads": 256}, {}, "whose own size 4 divides"),
        ({}, {"attention_bias": True}, {}, "attention_bias True"),
        ({}, {"out_hidden_size": 2048}, {}, "out_hidden_size 2048 and hidden_size 4096"),
        ({}, {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, {}, "rope_type 'yarn'"),
    ],
)
def test_what_cannot_be_honoured(text: Config, vision: Config, top: Config, message: str) -> None:
    if "text_config" in top:
        values = {key: value for key, value in FLASH.items() if key != "text_config"}
    else:
        values = changed(FLASH, text, vision, **top)
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"n_group": 3}, "128 experts in 3 groups"),
        ({"n_group": 2, "topk_group": 3}, "topk_group 3"),
        ({"n_group": 32, "topk_group": 1}, "num_experts_per_tok 8"),
        ({"moe_intermediate_size": ...}, "lacks moe_intermediate_size"),
    ],
)
def test_experts_that_do_not_fit(text: Config, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(changed(GLM_46V, text))


# --- what the converter adds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [FLASH, GLM_46V, GLM_45V, GLM_41V, *map(glm_config, MODELS)])
def test_complete(values: Config) -> None:
    """What counts stands where mlx-vlm looks for it, and nothing that was there is lost."""
    before = copy.deepcopy(values)
    complete = ModelConfig.complete(values)
    assert values == before
    config = ModelConfig.from_dict(complete)
    assert config == ModelConfig.from_dict(values)
    assert ModelConfig.complete(complete) == complete
    text = complete["text_config"]
    assert complete | {"text_config": None} == values | {"text_config": None}
    assert all(text[key] == value for key, value in values["text_config"].items() if key != "rope_scaling")
    assert text["rope_theta"] == config.rope.rope_theta
    assert text["partial_rotary_factor"] == 0.5
    assert text["rope_scaling"]["mrope_section"] == list(config.rope.mrope_section)
    assert text["rope_scaling"]["rope_type"] == "default"
    if config.moe:
        assert (text["use_qk_norm"], text["attention_bias"], text["norm_topk_prob"]) == (False, True, True)


def test_complete_where_keys_disagree_or_are_null() -> None:
    """What is nested counts, for mlx-vlm as well."""
    values = changed(FLASH, {"rope_theta": 10000.0, "partial_rotary_factor": None, "rope_scaling": None})
    text = ModelConfig.complete(values)["text_config"]
    assert (text["rope_theta"], text["partial_rotary_factor"]) == (500000, 0.5)
    text = ModelConfig.complete(changed(GLM_46V, {"use_qk_norm": None, "attention_bias": ..., "n_group": ...}))[
        "text_config"
    ]
    assert (text["use_qk_norm"], text["attention_bias"], text["n_group"]) == (False, True, 1)


def test_convert_completes(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("glm4v_moe")
    convert(folder, tmp_path / "out", bits=None)
    source, out = (json.loads((path / "config.json").read_text("utf-8")) for path in (folder, tmp_path / "out"))
    assert "rope_theta" not in source["text_config"]
    assert out == ModelConfig.complete(source)
