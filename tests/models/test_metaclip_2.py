"""MetaCLIP 2, and CLIP through the same family, against golden numbers, and what must not change them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import comparing
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import towers_numpy as reading
from comparing import build, close, empty, same_direction, to_mx
from metaclip_tiny import (
    CLASSES,
    clip_classification_shapes,
    clip_shapes,
    tiny_clip_batch,
    tiny_clip_config,
    tiny_clip_weights,
    write_clip_side_files,
)
from mlx.utils import tree_flatten
from tiny import golden, golden_weights, hashed, layer_of, requantised, write_checkpoint

import mlx_mm
from mlx_mm.backend import blas, device
from mlx_mm.backend.linear import linear
from mlx_mm.checkpoint.matching import parameter_shapes
from mlx_mm.errors import ConfigError, InputError, MlxMmError, ModalityError, UnsupportedModelError
from mlx_mm.models import find_family

QUICK, ERF = "metaclip2_quick_gelu", "metaclip2_gelu"
SPECS = golden("metaclip2_golden_forward")
CHECKPOINTS = golden("metaclip2_checkpoints")["checkpoints"]
LABELS = np.array([0, 2, 1])

EMBEDDING, LOGIT, STATE, SHARE = 1e-5, 1e-4, 2e-5, 1e-6
TOLERANCE = {
    "text_embeds": EMBEDDING,
    "image_embeds": EMBEDDING,
    "projected_text_pooler": STATE,
    "projected_image_pooler": STATE,
    "interp_projected_image_pooler": STATE,
    "text_pooler_unprojected": STATE,
    "vision_pooler_unprojected": STATE,
    "text_last_hidden_state_row0": STATE,
    "vision_last_hidden_state_row0": STATE,
    "text_attention_layer0_sample0_head0": SHARE,
}

Weights = dict[str, np.ndarray]
Wrong = frozenset[str]
NOTHING: Wrong = frozenset()


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> None:
    """The matrix library that `load` chooses, whichever test runs first."""
    blas.use_fast_blas()


def wide(weights: Weights) -> Weights:
    return {name: value.astype(np.float64) for name, value in weights.items()}


def changed(config: dict[str, Any], text: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    return {**config, "text_config": {**config["text_config"], **(text or {})}, **top}


# --- the rules in plain NumPy float64; `wrong` names mistakes to make -------------------------------------------


def activation_of(config: dict[str, Any], wrong: Wrong) -> Wrong:
    """The name by which `towers_numpy` calls an activation; none of them is the tanh form."""
    if "tanh_gelu" in wrong:
        return NOTHING
    quick = (config["hidden_act"] == "quick_gelu") != ("other_activation" in wrong)
    return frozenset({"quick_gelu" if quick else "erf_gelu"})


def read_text(
    w: Weights,
    config: dict[str, Any],
    ids: np.ndarray,
    mask: np.ndarray | None = None,
    wrong: Wrong = NOTHING,
    positions: np.ndarray | None = None,
) -> dict[str, Any]:
    config = {"layer_norm_eps": 1e-5, **config["text_config"]}
    length = ids.shape[1]
    places = np.arange(length) if positions is None else positions
    x = w["text_model.embeddings.token_embedding.weight"][ids]
    x = x + w["text_model.embeddings.position_embedding.weight"][places]
    keep = np.tri(length, dtype=bool)[None, None]
    if "no_causal_mask" in wrong:
        keep = np.ones_like(keep)
    if mask is not None and "no_key_mask" not in wrong:
        keep = keep & (mask[:, None, None, :] != 0)
    bias = np.where(keep, 0.0, -1e30)
    states, attentions = reading.encoder(w, "text_model", config, x, bias, activation_of(config, wrong))
    last = reading.layer_norm(w, "text_model.final_layer_norm", states[-1], config["layer_norm_eps"])
    ends = ids == config["eos_token_id"]
    if "pool_highest_id" in wrong:
        place = ids.argmax(1)
    elif "pool_last_end" in wrong:
        place = length - 1 - ends[:, ::-1].argmax(1)
    elif "pool_last_position" in wrong:
        place = np.full(len(ids), length - 1)
    else:
        place = ends.argmax(1)
    pooled = (states[-1] if "no_final_layer_norm" in wrong else last)[np.arange(len(ids)), place]
    return {"last_hidden_state": last, "pooler_output": pooled, "hidden_states": states, "attentions": attentions}


def antialiased(n_in: int, n_out: int, _wrong: Wrong = NOTHING) -> np.ndarray:
    """Bicubic as for pictures: a = −0.5, support widened when shrinking, taps beyond the border left out."""
    ratio = n_in / n_out
    stretch = max(ratio, 1.0)
    z = np.abs(np.arange(n_in)[None] + 0.5 - ratio * (np.arange(n_out)[:, None] + 0.5)) / stretch
    near, far = (1.5 * z - 2.5) * z * z + 1, ((-0.5 * z + 2.5) * z - 4) * z + 2
    taps = np.where(z <= 1, near, np.where(z < 2, far, 0.0))
    return taps / taps.sum(1, keepdims=True)


def read_vision(
    w: Weights, config: dict[str, Any], pixels: np.ndarray, interpolate: bool = False, wrong: Wrong = NOTHING
) -> dict[str, Any]:
    config = {"layer_norm_eps": 1e-5, **config["vision_config"]}
    p, eps = config["patch_size"], config["layer_norm_eps"]
    if "kernel_rows_for_columns" in wrong:
        name = "vision_model.embeddings.patch_embedding.weight"
        w = {**w, name: w[name].transpose(0, 1, 3, 2)}
    x = reading.patch_embeddings(w, pixels, p, wrong | {"no_patch_bias"})
    first = np.broadcast_to(w["vision_model.embeddings.class_embedding"], (len(x), 1, x.shape[-1]))
    table = w["vision_model.embeddings.position_embedding.weight"]
    if interpolate:
        side = math.isqrt(len(table) - 1)
        rule = antialiased if "antialias" in wrong else reading.bilinear if "bilinear" in wrong else reading.bicubic
        size = pixels.shape[1] // p, pixels.shape[2] // p
        grid = reading.resize(table[1:].reshape(side, side, -1), *size, rule, wrong)
        table = np.concatenate([table[:1], grid])
    if "class_token_last" in wrong:
        x, table = np.concatenate([x, first], 1), np.concatenate([table[1:], table[:1]])
    else:
        x = np.concatenate([first, x], 1)
    x = x + table
    if "no_pre_layrnorm" not in wrong:
        x = reading.layer_norm(w, "vision_model.pre_layrnorm", x, eps)
    states, attentions = reading.encoder(w, "vision_model", config, x, None, activation_of(config, wrong))
    last = states[-1]
    normed = reading.layer_norm(w, "vision_model.post_layernorm", last, eps)
    pooled = (last if "no_post_layernorm" in wrong else normed)[:, 0]
    if "mean_of_tokens" in wrong:
        pooled = normed.mean(1)
    last = normed if "norm_all_tokens" in wrong else last
    return {"last_hidden_state": last, "pooler_output": pooled, "hidden_states": states, "attentions": attentions}


def read_joint(w: Weights, text: np.ndarray, image: np.ndarray, wrong: Wrong = NOTHING) -> dict[str, Any]:
    """Pooled vectors of both towers -> projections, unit vectors, logits, loss."""
    raw = text @ w["text_projection.weight"].T, image @ w["visual_projection.weight"].T
    t, v = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in raw)
    scale = w["logit_scale"] if "scale_not_exponentiated" in wrong else np.exp(w["logit_scale"])
    logits = t @ v.T * scale
    one, other = reading.cross_entropy(logits, np.arange(3)), reading.cross_entropy(logits.T, np.arange(3))
    return {
        "projected_text_pooler": raw[0],
        "projected_image_pooler": raw[1],
        "text_embeds": t,
        "image_embeds": v,
        "logits_per_text": logits,
        "logits_per_image": logits.T,
        "loss": one if "loss_of_texts_only" in wrong else (one + other) * (1 if "loss_not_halved" in wrong else 0.5),
    }


def read_classifier(w: Weights, vision: dict[str, Any], wrong: Wrong = NOTHING) -> np.ndarray:
    if "classifier_on_pooled" in wrong:
        return reading.linear(w, "classifier", vision["pooler_output"])
    tokens = vision["last_hidden_state"]
    return reading.linear(w, "classifier", tokens[:, 0 if "class_token_in_mean" in wrong else 1 :].mean(1))


# --- everything the golden file holds, taken from the model and from the reading --------------------------------


def golden_config(variant: str, **extra: Any) -> dict[str, Any]:
    return {"model_type": SPECS[variant]["model_type"], **SPECS[variant]["config"], **extra}


def weights_of(variant: str) -> Weights:
    spec = SPECS[variant]
    return golden_weights([(name, tuple(shape)) for name, shape in spec["tensors"]], spec["special"])


def inputs(variant: str) -> dict[str, np.ndarray]:
    given = SPECS[variant]["inputs"]
    pixels = hashed((3, 3, 12, 12), 3000).transpose(0, 2, 3, 1).astype(np.float32)
    ids, mask = np.array(given["input_ids"]), np.array(given["attention_mask"])
    return {"input_ids": ids, "pixel_values": pixels, "attention_mask": mask}


def interpolated_pixels() -> np.ndarray:
    return hashed((2, 3, 16, 20), 3001).transpose(0, 2, 3, 1).astype(np.float32)


def classifier_of(variant: str, num_labels: int = 3) -> tuple[dict[str, Any], Weights]:
    labels = {str(i): f"label {i}" for i in range(num_labels)}
    config = golden_config(variant, architectures=["MetaClip2ForImageClassification"], id2label=labels)
    return config, golden_weights(clip_classification_shapes(config, num_labels))


def observe(text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """What a tower gives, under the names of the golden file."""
    seen = {
        "text_pooler_unprojected": text["pooler_output"],
        "vision_pooler_unprojected": vision["pooler_output"],
        "text_last_hidden_state_row0": text["last_hidden_state"][0],
        "vision_last_hidden_state_row0": vision["last_hidden_state"][0],
        "text_attention_layer0_sample0_head0": text["attentions"][0][0, 0],
    }
    for i in range(3):
        seen[f"text_hidden_states.{i}"] = text["hidden_states"][i]
        seen[f"vision_hidden_states.{i}"] = vision["hidden_states"][i]
    return seen


def observe_model(variant: str) -> dict[str, Any]:
    model, batch = build(golden_config(variant), weights_of(variant)), to_mx(inputs(variant))
    everything = {"output_hidden_states": True, "output_attentions": True}
    out = model(**batch, return_loss=True)
    text = model.text_model(batch["input_ids"], batch["attention_mask"], **everything)
    vision = model.vision_model(batch["pixel_values"], **everything)
    seen = observe(vars(text), vars(vision))
    for name in ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        seen[name] = getattr(out, name)
    seen["projected_text_pooler"] = out.text_model_output.pooler_output
    seen["projected_image_pooler"] = out.vision_model_output.pooler_output
    seen["interp_projected_image_pooler"] = model.get_image_features(
        mx.array(interpolated_pixels()), interpolate_pos_encoding=True
    )
    out = build(*classifier_of(variant))(batch["pixel_values"], labels=mx.array(LABELS))
    return seen | {"classifier_logits": out.logits, "classifier_loss": out.loss}


def observe_reading(variant: str, *mistakes: str) -> dict[str, Any]:
    wrong, config, batch, w = frozenset(mistakes), golden_config(variant), inputs(variant), wide(weights_of(variant))
    text = read_text(w, config, batch["input_ids"], batch["attention_mask"], wrong)
    vision = read_vision(w, config, batch["pixel_values"], wrong=wrong)
    large = read_vision(w, config, interpolated_pixels(), interpolate=True, wrong=wrong)
    seen = observe(text, vision) | read_joint(w, text["pooler_output"], vision["pooler_output"], wrong)
    seen["interp_projected_image_pooler"] = large["pooler_output"] @ w["visual_projection.weight"].T
    config, classifier = classifier_of(variant)
    w = wide(classifier)
    logits = read_classifier(w, read_vision(w, config, batch["pixel_values"], wrong=wrong), wrong)
    return seen | {"classifier_logits": logits, "classifier_loss": reading.cross_entropy(logits, LABELS)}


def expected(variant: str) -> dict[str, Any]:
    """Every golden value under the names of `observe`; summaries stay dictionaries."""
    out: dict[str, Any] = {}
    for key, value in SPECS[variant].items():
        if key in ("model_type", "config", "special", "tensors", "inputs"):
            continue
        if key == "image_classification":
            out |= {"classifier_logits": value["logits"], "classifier_loss": value["loss_labels_0_2_1"]}
        elif isinstance(value, list) and isinstance(value[0], dict):
            out |= {f"{key}.{i}": summary for i, summary in enumerate(value)}
        else:
            out[key] = value
    return out


def excess(observed: dict[str, Any], variant: str) -> dict[str, float]:
    """For every golden value: the largest difference divided by its tolerance (so 1 is the limit)."""
    return comparing.excess(observed, expected(variant), TOLERANCE, state=STATE, rest=LOGIT)


def over_the_limit(observed: dict[str, Any], variant: str) -> dict[str, float]:
    return {name: x for name, x in excess(observed, variant).items() if x > 1}


@pytest.mark.parametrize("variant", [QUICK, ERF])
def test_formula_weights_have_the_checkpoints_names(variant: str) -> None:
    named = sorted((name, list(shape)) for name, shape in clip_shapes(golden_config(variant)))
    assert named == sorted((name, shape) for name, shape in SPECS[variant]["tensors"])
    count = SPECS[QUICK]["image_classification"]["n_tensors"]
    assert len(clip_classification_shapes(golden_config(variant), 3)) == count


@pytest.mark.parametrize("variant", [QUICK, ERF])
def test_model_gives_every_golden_number(variant: str) -> None:
    over = over_the_limit(observe_model(variant), variant)
    assert not over, f"difference as a multiple of the tolerance: {over}"


@pytest.mark.parametrize("variant", [QUICK, ERF])
def test_gpu_arithmetic_gives_every_golden_number(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU other functions compute attention and GELU; MLX runs them on a CPU as well."""
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    over = over_the_limit(observe_model(variant), variant)
    assert not over, f"difference as a multiple of the tolerance: {over}"


@pytest.mark.parametrize("variant", [QUICK, ERF])
def test_plain_reading_gives_every_golden_number(variant: str) -> None:
    assert max(excess(observe_reading(variant), variant).values()) <= 1


BOTH = [
    "other_activation",
    "tanh_gelu",
    "no_causal_mask",
    "pool_highest_id",
    "pool_last_end",
    "pool_last_position",
    "no_final_layer_norm",
    "no_pre_layrnorm",
    "no_post_layernorm",
    "mean_of_tokens",
    "class_token_last",
    "channel_first_patches",
    "kernel_rows_for_columns",
    "antialias",
    "align_corners",
    "bilinear",
    "bicubic_a_half",
    "zero_border",
    "swapped_axes",
    "scale_not_exponentiated",
    "loss_of_texts_only",
    "loss_not_halved",
]
# The other golden model has only pooled vectors and what follows from them.
ONLY_QUICK = ["no_key_mask", "norm_all_tokens", "class_token_in_mean", "classifier_on_pooled"]
MISTAKES = [(v, m) for v in (QUICK, ERF) for m in BOTH + (ONLY_QUICK if v == QUICK else [])]


@pytest.mark.parametrize(("variant", "mistake"), MISTAKES)
def test_known_mistake_misses_the_tolerance(variant: str, mistake: str) -> None:
    assert max(excess(observe_reading(variant, mistake), variant).values()) > 2


# --- what must not change a result, and what must ---------------------------------------------------------------

CONFIG = tiny_clip_config()
WEIGHTS = tiny_clip_weights(CONFIG)
BATCH = tiny_clip_batch(CONFIG)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return build(CONFIG, WEIGHTS)


@pytest.fixture
def batch() -> dict[str, mx.array]:
    """Three texts and three pictures; a fresh dictionary for each test."""
    return to_mx(BATCH)


def text_features(ids: np.ndarray, mask: np.ndarray | None = None, **extra: Any) -> np.ndarray:
    """What the reading makes of texts, projected."""
    w = wide(WEIGHTS)
    pooled = read_text(w, CONFIG, ids, mask, **extra)["pooler_output"]
    return pooled @ w["text_projection.weight"].T


def test_mask_of_right_padding_changes_nothing(tiny: Any, batch: dict[str, mx.array]) -> None:
    ids, mask = batch["input_ids"], batch["attention_mask"]
    plain = tiny.get_text_features(ids)
    for dtype in (mx.bool_, mx.int32, mx.int64, mx.uint8, mx.float32):
        assert same_direction(tiny.get_text_features(ids, mask.astype(dtype)), plain)


def test_mask_hides_a_token(tiny: Any) -> None:
    ids, mask = BATCH["input_ids"], BATCH["attention_mask"].copy()
    mask[:, 2] = 0
    got = tiny.get_text_features(mx.array(ids), mx.array(mask))
    assert close(got, text_features(ids, mask), STATE)
    assert not close(got, tiny.get_text_features(mx.array(ids)), 1e-3)


def test_longer_padding_changes_nothing(tiny: Any) -> None:
    ids = BATCH["input_ids"][[0, 2], :9]
    short = tiny.get_text_features(mx.array(ids))
    for length in (10, 16):
        padded = np.pad(ids, [(0, 0), (0, length - 9)], constant_values=1)
        assert same_direction(tiny.get_text_features(mx.array(padded)), short)


def test_first_end_of_text_wins(tiny: Any) -> None:
    """Whatever follows it, other ends among it, is not seen."""
    ids = BATCH["input_ids"][2:]
    other = ids.copy()
    other[:, 5:] = [[59, 2, 2, 44, 7, 58, 2, 3, 2, 41, 2]]
    cut = ids[:, :5]
    assert list(np.flatnonzero(ids[0] == 2)) == [4, 8]
    plain = tiny.get_text_features(mx.array(ids))
    assert close(plain, text_features(ids), STATE)
    for changed_ids in (other, cut):
        assert same_direction(tiny.get_text_features(mx.array(changed_ids)), plain)
    moved = ids.copy()
    moved[:, 4] = 30
    assert not close(tiny.get_text_features(mx.array(moved)), plain, 1e-2)


def test_text_without_an_end_is_refused(tiny: Any) -> None:
    ids = BATCH["input_ids"].copy()
    ids[1, -1] = 5
    with pytest.raises(InputError, match=r"(?i)text number 1 .*token"):
        tiny.get_text_features(mx.array(ids))
    with pytest.raises(InputError):
        tiny(input_ids=mx.array(ids))


def test_left_padding_is_refused(tiny: Any) -> None:
    ids = np.array([[1, 1, 0, 9, 2], [0, 7, 8, 9, 2]])
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with pytest.raises(InputError, match=r"(?i)left|right"):
        tiny.get_text_features(mx.array(ids), mx.array(mask))


def test_text_longer_than_the_table_is_refused(tiny: Any) -> None:
    with pytest.raises(InputError, match=r"17.*16"):
        tiny.get_text_features(mx.full((1, 17), 2))


def test_explicit_position_ids(tiny: Any) -> None:
    ids = BATCH["input_ids"]
    plain = tiny.get_text_features(mx.array(ids))
    assert close(tiny.get_text_features(mx.array(ids), position_ids=mx.arange(16)[None]), plain, 0.0)
    back = np.arange(16)[None, ::-1].copy()
    got = tiny.get_text_features(mx.array(ids), position_ids=mx.array(back))
    assert close(got, text_features(ids, positions=back), STATE)
    assert not close(got, plain, 1e-3)
    assert close(tiny(input_ids=mx.array(ids), position_ids=mx.array(back)).text_model_output.pooler_output, got, 0.0)


@pytest.mark.parametrize("size", [(32, 32), (36, 36), (24, 24), (16, 64), (40, 24), (24, 40), (8, 70), (64, 64)])
def test_interpolated_sizes(tiny: Any, size: tuple[int, int]) -> None:
    w = wide(WEIGHTS)
    pixels = hashed((2, *size, 3), 77).astype(np.float32)
    got = tiny.get_image_features(mx.array(pixels), interpolate_pos_encoding=True)
    right = read_vision(w, CONFIG, pixels, interpolate=True)["pooler_output"] @ w["visual_projection.weight"].T
    assert close(got, right, STATE)
    same = tiny(pixel_values=mx.array(pixels), interpolate_pos_encoding=True)
    assert close(same.vision_model_output.pooler_output, got, 0.0)


@pytest.mark.parametrize("shape", [(1, 40, 24, 3), (1, 32, 24, 3), (1, 64, 64, 3)])
def test_image_of_another_size_is_refused(tiny: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        tiny.get_image_features(mx.zeros(shape))
    assert all(part in str(caught.value) for part in (f"{shape[1]}×{shape[2]}", "32×32", "interpolate_pos_encoding"))


def test_channels_first_image_is_refused(tiny: Any) -> None:
    with pytest.raises(InputError):
        tiny.get_image_features(mx.zeros((1, 3, 32, 32)))


def test_image_smaller_than_a_patch_is_refused(tiny: Any) -> None:
    with pytest.raises(InputError, match="3×9"):
        tiny.get_image_features(mx.zeros((1, 3, 9, 3)), interpolate_pos_encoding=True)


# --- the surface ------------------------------------------------------------------------------------------------


def test_features_are_projected_and_not_normalised(tiny: Any, batch: dict[str, mx.array]) -> None:
    both = tiny(**batch)
    ids, mask, pixels = batch["input_ids"], batch["attention_mask"], batch["pixel_values"]
    text, image = tiny.get_text_features(ids, mask), tiny.get_image_features(pixels)
    assert close(text, both.text_model_output.pooler_output, 0.0)
    assert close(image, both.vision_model_output.pooler_output, 0.0)
    towers = tiny.text_model(ids, mask).pooler_output, tiny.vision_model(pixels).pooler_output
    assert [tower.shape for tower in towers] == [(3, 64), (3, 128)]
    assert close(linear(tiny.text_projection, towers[0]), text, 1e-6)
    assert close(linear(tiny.visual_projection, towers[1]), image, 1e-6)
    for raw, unit in ((text, both.text_embeds), (image, both.image_embeds)):
        norm = np.linalg.norm(np.array(raw), axis=-1, keepdims=True)
        assert raw.shape == (3, 96)
        assert close(np.array(raw) / norm, unit, 1e-6)
        assert np.abs(norm - 1).max() > 0.1


def test_states_and_attentions_only_when_asked(tiny: Any, batch: dict[str, mx.array]) -> None:
    plain, full = tiny(**batch), tiny(**batch, output_hidden_states=True, output_attentions=True)
    for tower in ("text_model_output", "vision_model_output"):
        before, after = getattr(plain, tower), getattr(full, tower)
        assert before.hidden_states is None
        assert before.attentions is None
        assert len(after.hidden_states) == 3
        assert len(after.attentions) == 2
        assert close(np.array(after.attentions[0]).sum(-1), np.ones(after.attentions[0].shape[:3]), 1e-5)
        assert close(before.last_hidden_state, after.last_hidden_state, 1e-5)
    text, vision = full.text_model_output, full.vision_model_output
    assert not np.triu(np.array(text.attentions[1]), 1).any()
    assert vision.attentions[0].shape == (3, 4, 17, 17)
    assert not close(text.hidden_states[-1], text.last_hidden_state, 1e-2)  # before and after the norm
    assert close(vision.hidden_states[-1], vision.last_hidden_state, 0.0)
    assert close(plain.image_embeds, full.image_embeds, 2e-6)


def test_scores_are_the_softmax_over_the_texts(tiny: Any, batch: dict[str, mx.array]) -> None:
    assert tiny.modalities == ("text", "image")
    assert tiny.prompt_template == "This is a photo of {}."
    batch["pixel_values"] = batch["pixel_values"][:2]
    out = tiny(**batch)
    assert out.logits_per_text.shape == (3, 2)
    assert close(out.logits_per_text.T, out.logits_per_image, 0.0)
    scores = tiny.score(out.image_embeds, out.text_embeds)
    assert scores.shape == (2, 3)
    assert close(np.array(scores).sum(-1), np.ones(2), 1e-6)
    assert close(scores, reading.softmax(np.array(out.logits_per_image, dtype=np.float64)), 1e-6)


# --- CLIP, whose legacy rule shares an id with MetaCLIP 2's end of text -----------------------------------------

RARE = np.array([[0, 5, 58, 7, 2, 58, 2, 1], [0, 59, 2, 8, 59, 9, 3, 2], [0, 4, 2, 2, 40, 1, 1, 1]])


@pytest.mark.parametrize("model_type", list(CLASSES))
def test_highest_id_ends_a_text_of_clip_only(model_type: str) -> None:
    config = tiny_clip_config(model_type)
    got = build(config, WEIGHTS).get_text_features(mx.array(RARE))
    ends, peaks = text_features(RARE), text_features(RARE, wrong=frozenset({"pool_highest_id"}))
    assert not close(ends, peaks, 1e-1)
    assert close(got, peaks if model_type == "clip" else ends, STATE)


@pytest.mark.parametrize("model_type", list(CLASSES))
@pytest.mark.parametrize("eos", [1, 3, 57])
def test_another_end_of_text_is_its_first_occurrence(model_type: str, eos: int) -> None:
    config = changed(tiny_clip_config(model_type), {"eos_token_id": eos})
    model = build(config, WEIGHTS)
    ids = np.array([[0, 59, eos, 8, eos, 9, 58, eos], [0, 30, 58, 40, 22, eos, 59, 2]])
    w = wide(WEIGHTS)
    right = read_text(w, config, ids)["pooler_output"] @ w["text_projection.weight"].T
    assert close(model.get_text_features(mx.array(ids)), right, STATE)
    with pytest.raises(InputError, match=str(eos)):
        model.get_text_features(mx.array([[0, 8, 2, 59, 2]]))


def test_clip_needs_no_end_in_the_legacy_rule() -> None:
    model = build(tiny_clip_config("clip"), WEIGHTS)
    ids = np.array([[0, 9, 40, 8, 7]])
    assert close(
        model.get_text_features(mx.array(ids)), text_features(ids, wrong=frozenset({"pool_highest_id"})), STATE
    )


@pytest.mark.parametrize("eos", [2, 1])
def test_end_that_is_also_the_padding(eos: int) -> None:
    """The mT5 checkpoints pad with their end of text."""
    config = changed(CONFIG, {"eos_token_id": eos})
    ids = tiny_clip_batch(config)["input_ids"]
    w = wide(WEIGHTS)
    right = read_text(w, config, ids)["pooler_output"] @ w["text_projection.weight"].T
    assert close(build(config, WEIGHTS).get_text_features(mx.array(ids)), right, STATE)


# --- a tower alone ----------------------------------------------------------------------------------------------

TOWERS = {"TextModel": "text_model", "VisionModel": "vision_model"}
TOWER_FIELDS = ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
PROJECTIONS = {"text_model": "text_projection", "vision_model": "visual_projection"}


def alone(model_type: str, kind: str, tower: str) -> tuple[dict[str, Any], Weights]:
    """config.json and tensors (4.x names) of one tower; kind ends with WithProjection or not."""
    config = tiny_clip_config(model_type)
    part = config["text_config" if tower == "text_model" else "vision_config"]
    keep = (f"{tower}.", PROJECTIONS[tower]) if kind.endswith("WithProjection") else (f"{tower}.",)
    weights = {name: value for name, value in WEIGHTS.items() if name.startswith(keep)}
    return {**part, "architectures": [CLASSES[model_type] + kind]}, weights


def features(model: Any, tower: str, batch: dict[str, mx.array]) -> mx.array:
    if tower == "text_model":
        return model.get_text_features(batch["input_ids"])
    return model.get_image_features(batch["pixel_values"])


@pytest.mark.parametrize("prefixed", [False, True], ids=["5.x names", "4.x names"])
@pytest.mark.parametrize("kind", list(TOWERS))
@pytest.mark.parametrize("model_type", list(CLASSES))
def test_tower_alone(model_type: str, kind: str, prefixed: bool, batch: dict[str, mx.array]) -> None:
    tower = TOWERS[kind]
    config, weights = alone(model_type, kind, tower)
    if not prefixed:
        weights = {name.removeprefix(f"{tower}."): value for name, value in weights.items()}
    model, joint = build(config, weights), build(tiny_clip_config(model_type), WEIGHTS)
    given = batch["input_ids" if tower == "text_model" else "pixel_values"]
    right = getattr(joint, tower)(given).pooler_output
    assert close(features(model, tower, batch), right, 0.0)
    assert close(getattr(model, tower)(given).pooler_output, right, 0.0)
    out = model(given, output_hidden_states=True)
    assert [field.name for field in dataclasses.fields(out)] == TOWER_FIELDS
    assert close(out.pooler_output, right, 0.0)
    assert len(out.hidden_states) == 3
    assert model.modalities == (("text",) if tower == "text_model" else ("image",))
    assert not any("projection" in path for path, _ in model.named_modules())


@pytest.mark.parametrize("kind", list(TOWERS))
@pytest.mark.parametrize("model_type", list(CLASSES))
def test_tower_with_projection(model_type: str, kind: str, batch: dict[str, mx.array]) -> None:
    tower = TOWERS[kind]
    model = build(*alone(model_type, f"{kind}WithProjection", tower))
    joint = build(tiny_clip_config(model_type), WEIGHTS)
    got = features(model, tower, batch)
    assert close(got, features(joint, tower, batch), 0.0)
    given = {"input_ids": batch["input_ids"]} if tower == "text_model" else {"pixel_values": batch["pixel_values"]}
    out = model(**given)
    embeds = "text_embeds" if tower == "text_model" else "image_embeds"
    assert [field.name for field in dataclasses.fields(out)] == [embeds, *TOWER_FIELDS[::2], "attentions"]
    assert close(getattr(out, embeds), got, 0.0)
    assert np.abs(np.linalg.norm(np.array(got), axis=-1) - 1).max() > 1e-2


@pytest.mark.parametrize("kind", ["Model", "ModelWithProjection"])
def test_missing_tower_is_refused(kind: str, batch: dict[str, mx.array]) -> None:
    text = build(*alone("metaclip_2", f"Text{kind}", "text_model"))
    vision = build(*alone("metaclip_2", f"Vision{kind}", "vision_model"))
    with pytest.raises(ModalityError, match="no vision tower; it takes text only"):
        text.get_image_features(batch["pixel_values"])
    with pytest.raises(ModalityError, match="no text tower; it takes images only"):
        vision.get_text_features(batch["input_ids"])
    for model in (text, vision):
        with pytest.raises(ModalityError, match="no second tower"):
            model.score(mx.ones((1, 96)), mx.ones((1, 96)))


# --- tensors ----------------------------------------------------------------------------------------------------


def test_position_buffers_of_old_files_are_dropped() -> None:
    old = dict(WEIGHTS)
    old["text_model.embeddings.position_ids"] = np.arange(16)[None]
    old["vision_model.embeddings.position_ids"] = np.arange(17)[None]
    assert "text_model.embeddings.position_embedding.weight" in build(CONFIG, old).sanitize(to_mx(old))
    for kind, tower in TOWERS.items():
        config, weights = alone("metaclip_2", kind, tower)
        for name in ("embeddings.position_ids", f"{tower}.embeddings.position_ids"):
            build(config, {**weights, name: np.arange(16)[None]})


def test_patch_kernel_becomes_a_matrix(tiny: Any) -> None:
    kernel = WEIGHTS["vision_model.embeddings.patch_embedding.weight"]
    held = np.array(tiny.vision_model.embeddings.patch_embedding.weight)
    assert close(held, kernel.transpose(0, 2, 3, 1).reshape(128, 8 * 8 * 3), 0.0)
    assert "bias" not in tiny.vision_model.embeddings.patch_embedding


def quantised_paths(model: Any) -> set[str]:
    """The layers that 4-bit rounding replaces, asked of MLX itself."""

    def predicate(path: str, module: nn.Module) -> bool:
        return hasattr(module, "to_quantized") and model.quant_predicate(path, module)

    nn.quantize(model, 32, 4, class_predicate=predicate)
    names = (name for name, _ in tree_flatten(model.parameters()))
    return {name.removesuffix(".scales") for name in names if name.endswith(".scales")}


def test_what_is_quantised() -> None:
    matrices = {name.removesuffix(".weight") for name, shape in clip_shapes(CONFIG) if len(shape) >= 2}
    stays = {path for path in matrices if path.endswith(("position_embedding", "patch_embedding"))}
    assert len(stays) == 3
    assert quantised_paths(empty(CONFIG)) == matrices - stays
    classifier = empty({**CONFIG, "architectures": ["MetaClip2ForImageClassification"]})
    encoder = {path for path in matrices - stays if path.startswith("vision_model.")}
    assert quantised_paths(classifier) == encoder  # the last layer stays


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda c: c["id"].removeprefix("facebook/metaclip-2-"))
def test_parameter_counts_of_the_checkpoints(checkpoint: dict[str, Any]) -> None:
    """Shapes alone: mlx makes no array before it is used."""
    shapes = parameter_shapes(empty(checkpoint))
    count = {name: math.prod(shape) for name, shape in shapes.items()}
    assert sum(count.values()) == checkpoint["params_total"]
    for tower in ("text", "vision"):
        part = sum(n for name, n in count.items() if name.startswith(f"{tower}_model."))
        assert part == checkpoint[f"params_{tower}_tower"]
    assert shapes["logit_scale"] == ()
    assert shapes["vision_model.embeddings.position_embedding.weight"][0] == checkpoint["vision_tokens"]


def test_folder_through_convert_and_load(tmp_path: Path, batch: dict[str, mx.array]) -> None:
    """From a folder as on the hub to vectors of words: the ids are those of the tokenizer's golden cases."""
    source = write_checkpoint(tmp_path / "source", CONFIG, WEIGHTS, side_files=write_clip_side_files)
    mlx_mm.convert(source, tmp_path / "exact", bits=None)
    right = build(CONFIG, WEIGHTS)(**batch)
    for folder in ("source", "exact"):
        model, processor = mlx_mm.load(tmp_path / folder)
        got = model(**batch)
        assert close(got.text_embeds, right.text_embeds, 0.0)
        assert close(got.image_embeds, right.image_embeds, 0.0)
        words = mlx_mm.encode_text(model, processor, ["a cat", "the dog", "CAT"])
        for row, ids in zip(words, ([0, 4, 5, 2], [0, 17, 6, 2], [0, 7, 21, 22, 23, 2]), strict=True):
            assert close(row, model(input_ids=mx.array([ids])).text_embeds[0], 1e-6)


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_folder(bits: int, tmp_path: Path, batch: dict[str, mx.array]) -> None:
    """Equal to the model whose matrices were rounded first."""
    source = write_checkpoint(tmp_path / "source", CONFIG, WEIGHTS, side_files=write_clip_side_files)
    report = mlx_mm.convert(source, tmp_path / "rounded", bits=bits, group_size=64, dtype="float32")
    rounded = {choice.path for choice in report.choices if choice.scheme is not None}
    assert {"text_model.embeddings.token_embedding", "text_projection", "visual_projection"} <= rounded
    weights = {n: requantised(x, bits, 64) if layer_of(n) in rounded else x for n, x in WEIGHTS.items()}
    got, right = mlx_mm.load(tmp_path / "rounded")[0](**batch), build(CONFIG, weights)(**batch)
    assert close(got.text_embeds, right.text_embeds, EMBEDDING)
    assert close(got.image_embeds, right.image_embeds, EMBEDDING)
    assert not close(right.text_embeds, build(CONFIG, WEIGHTS)(**batch).text_embeds, 1e-3)


# --- configuration ----------------------------------------------------------------------------------------------


def read_config(config: dict[str, Any]) -> Any:
    return find_family(config["model_type"]).config.from_dict(config)


TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


@pytest.mark.parametrize("model_type", list(CLASSES))
def test_class_defaults_fill_missing_keys(model_type: str) -> None:
    config = {"model_type": model_type, "text_config": {}, "vision_config": {}}
    read = read_config(config)
    assert {name: getattr(read.text_config, name) for name in TEXT_DEFAULTS} == TEXT_DEFAULTS
    assert {name: getattr(read.vision_config, name) for name in VISION_DEFAULTS} == VISION_DEFAULTS
    shapes = parameter_shapes(empty(config))
    assert shapes["text_projection.weight"] == (512, 512)
    assert shapes["visual_projection.weight"] == (512, 768)
    bare = read_config({"model_type": f"{model_type}_text_model"})
    assert bare.text_config == read.text_config
    assert bare.vision_config is None


def test_towers_have_their_own_activation_and_epsilon(batch: dict[str, mx.array]) -> None:
    config = changed(CONFIG, {"layer_norm_eps": 0.03, "hidden_act": "quick_gelu"})
    config["vision_config"] = {**config["vision_config"], "layer_norm_eps": 0.3}
    model, w = build(config, WEIGHTS), wide(WEIGHTS)
    text, vision = read_text(w, config, BATCH["input_ids"]), read_vision(w, config, BATCH["pixel_values"])
    assert close(model.text_model(batch["input_ids"]).pooler_output, text["pooler_output"], STATE)
    assert close(model.vision_model(batch["pixel_values"]).pooler_output, vision["pooler_output"], STATE)


def test_older_key_of_a_tower_stands_alone() -> None:
    """As transformers 5 reads it: what `text_config_dict` leaves out is the class's default, not text_config's."""
    config = {
        **CONFIG,
        "text_config_dict": {"hidden_size": 128, "eos_token_id": 2},
        "vision_config_dict": {"patch_size": 16, "hidden_act": "gelu"},
    }
    read = read_config(config)
    right = {**TEXT_DEFAULTS, "hidden_size": 128, "eos_token_id": 2}
    assert {name: getattr(read.text_config, name) for name in TEXT_DEFAULTS} == right
    right = {**VISION_DEFAULTS, "patch_size": 16, "hidden_act": "gelu"}
    assert {name: getattr(read.vision_config, name) for name in VISION_DEFAULTS} == right
    nulls = {**CONFIG, "text_config_dict": None, "vision_config_dict": None}
    assert read_config(nulls) == read_config(CONFIG)


@pytest.mark.parametrize("name", ["MetaClip2Model", "MetaCLIP2Model"])
def test_miscapitalised_architecture_is_the_joint_model(name: str, batch: dict[str, mx.array]) -> None:
    model = build({**CONFIG, "architectures": [name]}, WEIGHTS)
    assert model(**batch).logits_per_text.shape == (3, 3)


def test_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match="MetaClip2Model"):
        empty({**CONFIG, "architectures": ["MetaClip2ForNothing"]})


BAD: dict[str, dict[str, Any]] = {
    "text heads": changed(CONFIG, {"num_attention_heads": 3}),
    "vision heads": changed(CONFIG, vision_config={**CONFIG["vision_config"], "num_attention_heads": 7}),
    "text activation": changed(CONFIG, {"hidden_act": "swiglu"}),
    "vision activation": changed(CONFIG, vision_config={**CONFIG["vision_config"], "hidden_act": "swiglu"}),
    "no text_config": {name: value for name, value in CONFIG.items() if name != "text_config"},
    "no vision_config": {name: value for name, value in CONFIG.items() if name != "vision_config"},
    "text_config is text": {**CONFIG, "text_config": "base"},
    "no end of text": changed(CONFIG, {"eos_token_id": None}),
    "width is text": changed(CONFIG, {"hidden_size": "64"}),
    "no projection": {**CONFIG, "projection_dim": 0},
}


@pytest.mark.parametrize("config", BAD.values(), ids=BAD)
def test_bad_config_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        empty(config)


def test_classifier_without_a_vision_tower_is_refused() -> None:
    with pytest.raises(MlxMmError, match="vision"):
        empty({**CONFIG["text_config"], "architectures": ["MetaClip2ForImageClassification"]})


# --- the classifier ---------------------------------------------------------------------------------------------


def test_classification_losses() -> None:
    config, weights = classifier_of(ERF)
    model, pixels = build(config, weights), mx.array(inputs(ERF)["pixel_values"])
    w = wide(weights)
    logits = read_classifier(w, read_vision(w, config, np.array(pixels)))
    out = model(pixels)
    assert out.loss is None
    assert out.hidden_states is None
    assert close(out.logits, logits, STATE)
    many = (hashed((3, 3), 5) > 0).astype(np.float32)
    right = np.mean(np.maximum(logits, 0) - logits * many + np.log1p(np.exp(-np.abs(logits))))
    assert close(model(pixels, labels=mx.array(many)).loss, right, 1e-5)
    out = model(pixels, labels=mx.array(LABELS), output_hidden_states=True, output_attentions=True)
    assert close(out.loss, reading.cross_entropy(logits, LABELS), 1e-5)
    assert len(out.hidden_states) == 3
    assert len(out.attentions) == 2
    assert model.modalities == ("image",)
    assert model.labels == ("label 0", "label 1", "label 2")
    assert close(model.class_scores(pixels), reading.softmax(logits), 1e-5)
    many = build({**config, "problem_type": "multi_label_classification"}, weights)
    assert close(many.class_scores(pixels), 1 / (1 + np.exp(-logits)), 1e-5)


def test_classification_with_one_label_is_regression() -> None:
    config, weights = classifier_of(ERF, 1)
    pixels, targets = mx.array(inputs(ERF)["pixel_values"]), np.array([0.3, -1.0, 2.0], np.float32)
    out = build(config, weights)(pixels, labels=mx.array(targets))
    assert out.logits.shape == (3, 1)
    assert close(out.loss, np.mean((np.array(out.logits)[:, 0] - targets) ** 2), 1e-5)


def test_classifier_of_other_sizes() -> None:
    config, weights = classifier_of(ERF)
    model, w, pixels = build(config, weights), wide(weights), interpolated_pixels()
    right = read_classifier(w, read_vision(w, config, pixels, interpolate=True))
    assert close(model(mx.array(pixels), interpolate_pos_encoding=True).logits, right, STATE)
    with pytest.raises(InputError, match="interpolate_pos_encoding"):
        model(mx.array(pixels))
