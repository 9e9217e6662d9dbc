"""What the models of towers share: classes by name, what they tell `convert` and `load`, errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import mlx.core as mx
import pytest
from clap_tiny import tiny_clap_config
from comparing import LONG, build, close, empty
from jina_tiny import tiny_jina_config
from metaclip_tiny import CLASSES, tiny_clip_config, tiny_clip_weights
from mlx.utils import tree_flatten
from tiny import classification_shapes, golden_weights, tiny_batch, tiny_config, tiny_weights

from mlx_mm.errors import ConfigError, ModalityError
from mlx_mm.models import find_family

CONFIGS: dict[str, dict[str, Any]] = {
    "siglip": tiny_config("siglip"),
    "siglip2": tiny_config("siglip2"),
    "metaclip_2": tiny_clip_config("metaclip_2"),
    "clip": tiny_clip_config("clip"),
    "clap": tiny_clap_config(),
    "jina_clip": tiny_jina_config(),
}
TOWER_FIELDS = ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]


def siglip_tower(family: str, tower: str, **changes: Any) -> Any:
    """The model of one tower out of a joint checkpoint."""
    weights = {name: w for name, w in tiny_weights(tiny_config(family)).items() if name.startswith(f"{tower}_model.")}
    if changes.get("vision_use_head") is False:
        weights = {name: w for name, w in weights.items() if ".head." not in name}
    name = f"{family.capitalize()}{tower.capitalize()}Model"
    return build(tiny_config(family)[f"{tower}_config"] | {"architectures": [name], **changes}, weights)


def batches(family: str) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
    """Of texts, and of images."""
    images = {name: mx.array(value) for name, value in tiny_batch(family).items()}
    return {"input_ids": images.pop("input_ids")}, images


# --- one tower ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_one_tower_returns_its_states(family: str) -> None:
    joint = build(tiny_config(family), tiny_weights(tiny_config(family)))
    for tower, batch in zip(("text", "vision"), batches(family), strict=True):
        out = siglip_tower(family, tower)(**batch, output_hidden_states=True, output_attentions=True)
        right = getattr(joint, f"{tower}_model")(**batch)
        assert [field.name for field in dataclasses.fields(out)] == TOWER_FIELDS
        assert close(out.last_hidden_state, right.last_hidden_state, 0.0)
        assert close(out.pooler_output, right.pooler_output, 0.0)
        assert (len(out.hidden_states), len(out.attentions)) == (3, 2)
        assert not close(out.hidden_states[-1], out.last_hidden_state, 1e-2)  # raw, before the last norm


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_a_tower_without_head_gives_its_states(family: str) -> None:
    """Only what needs a vector is refused."""
    model = siglip_tower(family, "vision", vision_use_head=False)
    _, batch = batches(family)
    out = model(**batch)
    assert out.pooler_output is None
    assert close(out.last_hidden_state, siglip_tower(family, "vision")(**batch).last_hidden_state, 0.0)
    with pytest.raises(ModalityError, match="no pooling head"):
        model.get_image_features(**batch)


@pytest.mark.parametrize("name", ["SiglipTextModel", "SiglipVisionModel"])
def test_one_tower_out_of_a_joint_checkpoint(name: str) -> None:
    """A class of one tower that is named over a joint file takes its own tensors."""
    model = build(tiny_config("siglip") | {"architectures": [name]}, tiny_weights(tiny_config("siglip")))
    tower = "text" if "Text" in name else "vision"
    batch = batches("siglip")[tower == "vision"]
    assert close(model(**batch).pooler_output, siglip_tower("siglip", tower)(**batch).pooler_output, 0.0)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("model_type", CLASSES)
def test_one_clip_tower_out_of_a_joint_checkpoint(model_type: str, projected: bool) -> None:
    config, weights = tiny_clip_config(model_type), tiny_clip_weights(tiny_clip_config(model_type))
    name = f"{CLASSES[model_type]}VisionModel{'WithProjection' * projected}"
    model, joint = build(config | {"architectures": [name]}, weights), build(config, weights)
    pixels = mx.random.normal((2, 32, 32, 3), key=mx.random.key(0))
    vectors = joint.vision_model(pixels).pooler_output
    right = joint.get_image_features(pixels) if projected else vectors
    assert close(model.get_image_features(pixels), right, 0.0)
    assert hasattr(model(pixels), "image_embeds") == projected


def test_a_classifier_needs_a_vision_tower() -> None:
    text = tiny_config("siglip")["text_config"]
    with pytest.raises(ConfigError, match="no vision_config"):
        empty(text | {"architectures": ["SiglipForImageClassification"]})


def test_a_classifier_gives_probabilities() -> None:
    config = tiny_config("siglip2") | {"architectures": ["Siglip2ForImageClassification"], "num_labels": 3}
    model = build(config, golden_weights(classification_shapes(config, 3)))
    _, batch = batches("siglip2")
    assert close(model.class_scores(**batch), mx.softmax(model(**batch).logits, axis=-1), 1e-6)


@LONG[0]
@LONG[1]
def test_many_tokens_of_float16_have_a_mean() -> None:
    """Their sum, 60 · 1296, is above the largest number of float16."""
    config = tiny_config("siglip") | {"architectures": ["SiglipForImageClassification"], "num_labels": 3}
    model = build(config, golden_weights(classification_shapes(config, 3)))
    model.vision_model.post_layernorm.bias = mx.full((128,), 60.0)
    pixels = mx.random.normal((1, 288, 288, 3), key=mx.random.key(0))
    right = model(pixels, interpolate_pos_encoding=True).logits
    model.set_dtype(mx.float16)
    assert close(model(pixels, interpolate_pos_encoding=True).logits / right, 1.0, 1e-2)


# --- what else a vision tower takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Siglip2Model", "Siglip2VisionModel"])
def test_inputs_of_the_tower_in_its_order(name: str) -> None:
    """As transformers' Siglip2VisionModel and get_image_features take them."""
    model = build(tiny_config("siglip2") | {"architectures": [name]}, tiny_weights(tiny_config("siglip2")))
    _, images = batches("siglip2")
    order = [images[key] for key in ("pixel_values", "pixel_attention_mask", "spatial_shapes")]
    right = model.get_image_features(**images)
    assert close(model.get_image_features(*order), right, 0.0)
    if name == "Siglip2VisionModel":
        assert close(model(*order).pooler_output, right, 0.0)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_inputs_of_a_joint_model_in_the_order_of_transformers(family: str) -> None:
    """(input_ids, pixel_values, [pixel_attention_mask, spatial_shapes,] attention_mask, position_ids)"""
    model = build(tiny_config(family), tiny_weights(tiny_config(family)))
    texts, images = batches(family)
    ids = texts["input_ids"]
    named = {"attention_mask": (ids != 0).astype(mx.int32), "position_ids": mx.arange(16)[::-1]}
    right = model(**texts, **images, **named)
    others = [images[key] for key in ("pixel_attention_mask", "spatial_shapes") if key in images]
    order = [ids, images["pixel_values"], *others, *named.values()]
    for count in range(2, len(order) + 1):
        rest = dict(list({**images, **named}.items())[count - 1 :])
        got = model(*order[:count], **rest)
        assert close(got.logits_per_image, right.logits_per_image, 0.0)
    assert not close(model(**texts, **images).logits_per_image, right.logits_per_image, 1e-3)
    with pytest.raises(TypeError, match="each input once"):
        model(*order, True)
    with pytest.raises(TypeError, match="each input once"):
        model(*order, attention_mask=named["attention_mask"])


def test_inputs_of_images_without_images() -> None:
    """Empty ones pass, as from a wrapper that hands on all; what would not act is refused."""
    model = build(tiny_config("siglip2"), tiny_weights(tiny_config("siglip2")))
    texts, images = batches("siglip2")
    alone = model(**texts, spatial_shapes=None, interpolate_pos_encoding=False)
    assert close(alone.text_embeds, model(**texts).text_embeds, 0.0)
    for idle in ({"spatial_shapes": images["spatial_shapes"]}, {"interpolate_pos_encoding": True}):
        with pytest.raises(TypeError, match=f"{min(idle)} was given without pixel_values"):
            model(**texts, **idle)


# --- what load and convert are told ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGS)
def test_towers_hold_every_layer(family: str) -> None:
    model = empty(CONFIGS[family])
    assert tuple(model.towers) == model.modalities
    prefixes = tuple(prefix for parts in model.towers.values() for prefix in parts)
    names = [name for name, _ in tree_flatten(model.parameters())]
    assert all(name.startswith((*prefixes, "logit_")) for name in names)
    for parts in model.towers.values():
        assert any(name.startswith(parts) for name in names)


@pytest.mark.parametrize("family", CONFIGS)
def test_float16_is_for_what_stays_accurate(family: str) -> None:
    model = empty(CONFIGS[family])
    names = [name for name, _ in tree_flatten(model.parameters())]
    exact = {name.split(".")[0] for name in names if not model.cast_predicate(name)}
    scales = {name for name in names if name.startswith("logit_")}
    texts = set() if family in ("clap", "jina_clip") else {"text_model", "text_projection"}
    assert scales
    assert exact == scales | (texts & {name.split(".")[0] for name in names})


@pytest.mark.parametrize("family", CONFIGS)
def test_only_padded_axes_grow_when_widened(family: str) -> None:
    config = CONFIGS[family]
    wide, record = find_family(family).config.widened(config, 128)
    assert find_family(family).config.widened(wide, 128)[1] == {}
    assert wide.keys() == config.keys()
    before, after = (dict(tree_flatten(empty(values).parameters())) for values in (config, wide))
    axes = empty(config).padded_axes
    grown = {name for name in before if before[name].shape != after[name].shape}
    assert bool(grown) == bool(record)
    for name in grown:
        (axis,) = {axis for suffix, axis in axes if name.endswith(suffix)}
        a, b = list(before[name].shape), list(after[name].shape)
        assert b.pop(axis) > a.pop(axis)
        assert a == b
    for old, new in record.values():
        assert new % 128 == 0
        assert old < new < old + 128
