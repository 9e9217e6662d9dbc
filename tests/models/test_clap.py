"""CLAP against golden numbers, and what must not change them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clap_tiny
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from clap_tiny import (
    AUDIO_DEFAULTS,
    LARGER,
    TEXT_DEFAULTS,
    buffers,
    clap_shapes,
    clap_weights,
    formula_weight,
    spectrograms,
    tiny_clap_batch,
    tiny_clap_config,
    write_clap_side_files,
)
from comparing import LONG, build, close, empty, same_direction, to_mx
from mlx.utils import tree_flatten
from tiny import GOLDEN, golden, requantised, write_checkpoint

import mlx_mm
from mlx_mm.backend import blas, device, elementwise, parts
from mlx_mm.checkpoint.matching import check_match, parameter_shapes
from mlx_mm.errors import ConfigError, InputError, ModalityError, UnsupportedModelError, WeightsError
from mlx_mm.layers import activations, interpolate
from mlx_mm.models.clap import audio
from mlx_mm.models.clap.config import ModelConfig
from mlx_mm.models.clap.weights import AUDIO_RENAMES, TEXT_RENAMES

SPECS = golden("clap_golden")
EMBEDDING, LOGIT, STATE, SHARE = 2e-5, 2e-4, 5e-5, 1e-5
TOLERANCE = {
    "text_embeds": EMBEDDING,
    "audio_embeds": EMBEDDING,
    "logits_per_audio": LOGIT,
    "logits_per_text": LOGIT,
    "loss": LOGIT,
}

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> None:
    """The matrix library that `load` chooses, whichever test runs first."""
    blas.use_fast_blas()


# --- everything the golden files hold ---------------------------------------------------------------------------

SMALL = ["tiny_unfused", "tiny_fused", "tiny_fused_none_longer"]
FULL = {"unfused": {}, "fused": {"enable_fusion": True}, "larger": LARGER}


def small_case(name: str) -> tuple[dict[str, Any], Weights, dict[str, np.ndarray]]:
    """config.json, weights and batch of a small golden model."""
    sizes, case = SPECS["cases"]["tiny"]["config"], SPECS["cases"]["tiny"][name]
    config = {**sizes, "model_type": "clap"}
    config["audio_config"] = {**sizes["audio_config"], "enable_fusion": case["enable_fusion"]}
    batch = {key: np.array(case[key]) for key in ("input_ids", "attention_mask", "is_longer") if key in case}
    batch["input_features"] = spectrograms(*(case[key] for key in "BCTF"))
    return config, clap_weights(config), batch


def observe(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model gives, under the names of the golden files."""
    out = model(**to_mx(batch), return_loss=True, output_hidden_states=True, output_attentions=True)
    text, sound = out.text_model_output, out.audio_model_output
    seen = {name: getattr(out, name) for name in TOLERANCE}
    seen |= {"text_pooler_output": text.pooler_output, "audio_pooler_output": sound.pooler_output}
    seen |= {"text_last_hidden_state": text.last_hidden_state, "audio_last_hidden_state": sound.last_hidden_state}
    seen["text_last_hidden_state_sample"] = text.last_hidden_state[:, :, ::96]
    for i, state in enumerate(sound.hidden_states):
        channels, height, width = (max(1, size // part) for size, part in zip(state.shape[1:], (8, 4, 4), strict=True))
        seen[f"audio_hidden_states_{i}_sample"] = state[0, ::channels, ::height, ::width]
        seen[f"audio_hidden_states_{i}_ch0"] = state[:, 0]
    for i, weights in enumerate(sound.attentions):
        seen[f"audio_attentions_{i}_win_last_head0"] = weights[-1, 0]
    return {name: np.array(value) for name, value in seen.items()}


def excess(seen: dict[str, np.ndarray], file: str, case: str) -> dict[str, float]:
    """For every golden array of a case: the largest difference divided by its tolerance (so 1 is the limit)."""
    out = {}
    with np.load(GOLDEN / f"clap_golden_{file}.npz") as arrays:
        for key in arrays.files:
            group, name = key.split("/")
            if group == case:
                assert seen[name].shape == arrays[key].shape, name
                limit = SHARE if "attentions" in name else TOLERANCE.get(name, STATE)
                out[name] = float(np.abs(seen[name] - arrays[key]).max()) / limit
    assert out
    return out


def over_the_limit(name: str) -> dict[str, float]:
    config, weights, batch = small_case(name)
    return {key: x for key, x in excess(observe(build(config, weights), batch), "tiny", name).items() if x > 1}


def test_golden_cases_are_all_used() -> None:
    assert set(SPECS["cases"]["tiny"]) - {"config"} == set(SMALL)
    assert set(SPECS["cases"]["full"]) - {"common"} == {f"full_{name}" for name in FULL}
    groups = {key.split("/")[0] for key in SPECS["arrays"]}
    assert groups == {*SMALL, *(f"full_{name}" for name in FULL)}


def test_formula_gives_the_golden_weights() -> None:
    """Spot checks, all but the largest."""
    for name, right in SPECS["generator_check"].items():
        if "word_embeddings" not in name:
            value = formula_weight(name, tuple(right["shape"]))
            assert value.ravel()[:4].tolist() == right["first4"], name
            assert value.ravel()[-1] == right["last"]
            assert abs(value.astype(np.float64).sum() - right["sum_float64"]) < 1e-6


@pytest.mark.parametrize("name", SMALL)
def test_small_model_gives_every_golden_number(name: str) -> None:
    assert not over_the_limit(name)


@pytest.mark.parametrize("name", SMALL)
def test_gpu_arithmetic_gives_every_golden_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU other functions compute attention and GELU; MLX runs them on a CPU as well."""
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    assert not over_the_limit(name)


@functools.cache
def full_text_weights() -> Weights:
    """The text tower of the full-size models, half a gigabyte, which is the same in all of them."""
    shapes = clap_shapes({"text_config": {}, "audio_config": {}})
    return {name: formula_weight(name, shape) for name, shape in shapes if name.startswith("text_model.")}


@pytest.fixture(scope="module")
def text_weights() -> Iterator[Weights]:
    yield full_text_weights()
    full_text_weights.cache_clear()


@pytest.mark.parametrize("variant", [pytest.param(variant, marks=LONG) for variant in FULL])
def test_full_size_model_gives_every_golden_number(variant: str, text_weights: Weights) -> None:
    config = {"model_type": "clap", "text_config": {}, "audio_config": FULL[variant]}
    rest = [(name, shape) for name, shape in clap_shapes(config) if not name.startswith("text_model.")]
    model = build(config, text_weights | {name: formula_weight(name, shape) for name, shape in rest})
    case, common = SPECS["cases"]["full"][f"full_{variant}"], SPECS["cases"]["full"]["common"]
    batch = {key: np.array(common[key]) for key in ("input_ids", "attention_mask")}
    batch["input_features"] = spectrograms(common["B"], case["C"], common["T"], common["F"])
    if "is_longer" in case:
        batch["is_longer"] = np.array(case["is_longer"])
    found = excess(observe(model, batch), variant, f"full_{variant}")
    assert not {name: x for name, x in found.items() if x > 1}


# --- known mistakes, each made in the model itself, must miss the tolerance --------------------------------------


def swapped_merge(self: Any, x: mx.array, side: int) -> mx.array:
    batch, _, dims = x.shape
    x = x.reshape(batch, side // 2, 2, side // 2, 2, dims).transpose(0, 1, 3, 2, 4, 5)
    return self.reduction(self.norm(x.reshape(batch, -1, 4 * dims)))


def interleaved_parts(self: Any, x: mx.array) -> mx.array:
    """Times that follow each other in different parts."""
    batch, _, mels = x.shape
    folds, side = self.config.folds, self.config.grids[0]
    picture = x.reshape(batch, -1, folds, mels).transpose(0, 2, 3, 1).reshape(batch, folds * mels, -1, 1)
    return audio.extract_patches(picture, self.config.patch_size).reshape(batch, side, side, -1)


ORDER, POSITIONS, SHIFT_MASK = audio.change_of_order, audio.relative_positions, audio.shift_mask


def rolled(side: int, window: int, *rolls: int | None, factor: int) -> mx.array:
    return ORDER(side, window, *(None if roll is None else factor * roll for roll in rolls))


def sharper_taps(n_in: int, n_out: int) -> Any:
    """What is kept for these sizes has another kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpolate, "BICUBIC_A", -0.5)
        return TAPS.__wrapped__(n_in, n_out)


TAPS = interpolate.stretch_taps
MISTAKES: dict[str, tuple[Any, str, Any]] = {
    "tanh gelu": (activations.ACTIVATIONS, "gelu", elementwise.gelu_tanh),
    "no shift mask": (audio, "shift_mask", lambda *sizes: SHIFT_MASK(*sizes) * 0),
    "no shift": (audio, "change_of_order", lambda *sizes: rolled(*sizes, factor=0)),
    "shift the other way": (audio, "change_of_order", lambda *sizes: rolled(*sizes, factor=-1)),
    "merge by columns": (audio.PatchMerging, "__call__", swapped_merge),
    "bicubic a of -0.5": (interpolate, "stretch_taps", sharper_taps),
    "relative bias transposed": (audio, "relative_positions", lambda window: POSITIONS(window).T),
    "relative bias constant": (audio, "relative_positions", lambda window: POSITIONS(window) * 0),
    "time interleaved": (audio.PatchEmbed, "_patches", interleaved_parts),
    "fusion only adds": (audio.AttentionalFusion, "__call__", lambda _, whole, parts: whole + parts),
    "pooler without tanh": (mx, "tanh", lambda x: x),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_known_mistake_misses_the_tolerance(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, value = MISTAKES[mistake]
    (monkeypatch.setitem if isinstance(where, dict) else monkeypatch.setattr)(where, name, value)
    found = over_the_limit("tiny_fused")
    assert found["text_embeds" if "pooler" in mistake else "audio_embeds"] > 2


def test_wrong_is_longer_misses_the_tolerance() -> None:
    config, weights, batch = small_case("tiny_fused")
    model = build(config, weights)
    for wrong in ([[True], [True], [False]], [[False], [False], [False]], [[False], [True], [True]]):
        found = excess(observe(model, batch | {"is_longer": np.array(wrong)}), "tiny", "tiny_fused")
        assert found["audio_embeds"] > 1000


def test_fusing_in_float16() -> None:
    """The mean of a map is right where its sum, 60 · 4096, is above the largest number of float16."""
    fusion = audio.AttentionalFusion(16, 4)
    whole, parts_of_it = mx.full((1, 64, 64, 16), 20.0), mx.full((1, 64, 64, 16), 40.0)
    right = fusion(whole, parts_of_it)
    fusion.set_dtype(mx.float16)
    got = fusion(whole.astype(mx.float16), parts_of_it.astype(mx.float16))
    assert got.dtype == mx.float16
    assert close(got, right, 0.5)


@pytest.mark.parametrize("part", ["layers.0.blocks.0", "layers.1.blocks.1", "fusion_model.global_att", "batch_norm"])
def test_every_part_counts(part: str) -> None:
    """Without its bias a layer gives other numbers, so none of these is passed over."""
    config, weights, batch = small_case("tiny_fused")
    changed = {name: x * 0 if part in name and name.endswith(".bias") else x for name, x in weights.items()}
    assert excess(observe(build(config, changed), batch), "tiny", "tiny_fused")["audio_embeds"] > 2


# --- what must not change a result, and what must ---------------------------------------------------------------

CONFIGS = {"unfused": tiny_clap_config(), "fused": tiny_clap_config(enable_fusion=True)}
WEIGHTS = {name: clap_weights(config) for name, config in CONFIGS.items()}
BATCHES = {name: tiny_clap_batch(config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """The tiny joint models, "unfused" and "fused"."""
    return {name: build(config, WEIGHTS[name]) for name, config in CONFIGS.items()}


@pytest.fixture(params=list(CONFIGS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def sounds(kind: str, rows: Any = slice(None)) -> dict[str, mx.array]:
    names = ("input_features", "is_longer")
    return {name: mx.array(value[rows]) for name, value in BATCHES[kind].items() if name in names}


def texts(rows: Any = slice(None)) -> dict[str, mx.array]:
    return {name: mx.array(BATCHES["unfused"][name][rows]) for name in ("input_ids", "attention_mask")}


def test_clips_are_spread_over_threads(models: dict[str, Any], kind: str) -> None:
    model = models[kind]
    right = model.get_audio_features(**sounds(kind))
    assert close(parts.run_in_parts(model.get_audio_features, sounds(kind), model), right, 1e-6)


def test_masked_padding_changes_nothing(models: dict[str, Any]) -> None:
    model = models["unfused"]
    ids = BATCHES["unfused"]["input_ids"]
    plain = model.get_text_features(mx.array(ids))
    for dtype in (mx.bool_, mx.int32, mx.int64, mx.uint8, mx.float32):
        assert same_direction(model.get_text_features(mx.array(ids), mx.array(ids != 1).astype(dtype)), plain)
    short = ids[[0, 2], :9]
    right = model.get_text_features(mx.array(short))
    for length in (10, 20, 32, 60):  # padding needs no position of its own
        padded = np.pad(short, [(0, 0), (0, length - 9)], constant_values=1)
        assert same_direction(model.get_text_features(mx.array(padded)), right)


def test_padding_that_is_shown_changes_the_vector(models: dict[str, Any]) -> None:
    """So that the mask, given or read from the padding, is what hides it."""
    ids = mx.array(BATCHES["unfused"]["input_ids"])
    got = np.array(models["unfused"].get_text_features(ids, mx.ones_like(ids)))
    hidden = np.array(models["unfused"].get_text_features(ids))
    assert np.abs(got - hidden)[[0, 2]].max() > 1e-3
    assert close(got[1], hidden[1], 1e-6)


def test_explicit_position_ids(models: dict[str, Any]) -> None:
    ids = mx.array(BATCHES["unfused"]["input_ids"][1:2])
    plain = models["unfused"].get_text_features(ids)
    count = ids.shape[1]
    assert close(models["unfused"].get_text_features(ids, position_ids=mx.arange(2, count + 2)[None]), plain, 0.0)
    other = models["unfused"].get_text_features(ids, position_ids=mx.arange(count)[None])
    assert not close(other, plain, 1e-3)
    out = models["unfused"](input_ids=ids, position_ids=mx.arange(count)[None])
    assert close(out.text_embeds, other, 0.0)


def test_text_longer_than_the_table_is_refused(models: dict[str, Any]) -> None:
    assert models["unfused"].get_text_features(mx.full((1, 32), 7)).shape == (1, 96)
    with pytest.raises(InputError, match=r"33 tokens.*32"):
        models["unfused"].get_text_features(mx.full((1, 33), 7))
    with pytest.raises(InputError, match="32"):
        models["unfused"].get_text_features(mx.full((1, 3), 7), position_ids=mx.array([[2, 3, 34]]))


def test_only_clips_that_were_cut_are_fused(models: dict[str, Any]) -> None:
    model, given = models["fused"], sounds("fused")
    features = given["input_features"]
    plain = np.array(model.get_audio_features(features, mx.array([False, False, False])))
    # Their other channels are not even read.
    empty = mx.concatenate([features[:, :1], features[:, 1:] * 0], axis=1)
    assert close(model.get_audio_features(empty, mx.array([[False]] * 3)), plain, 0.0)
    every = np.array(model.get_audio_features(features, mx.array([[True]] * 3)))
    assert np.abs(every - plain).max(axis=1).min() > 1e-2
    for flags in ([True, False, False], [False, True, True], [True, False, True]):
        got = model.get_audio_features(features, mx.array(flags))
        assert close(got, np.where(np.array(flags)[:, None], every, plain), 1e-6)


def test_is_longer_of_any_form(models: dict[str, Any]) -> None:
    features, flags = sounds("fused").values()
    right = models["fused"].get_audio_features(features, flags)
    for other in (flags[:, 0], flags.astype(mx.float32), flags.astype(mx.int32)):
        assert close(models["fused"].get_audio_features(features, other), right, 0.0)


def test_is_longer_is_ignored_without_fusion(models: dict[str, Any]) -> None:
    """The processor gives it always."""
    right = models["unfused"].get_audio_features(**sounds("unfused"))
    assert close(models["unfused"].get_audio_features(**sounds("unfused"), is_longer=mx.array([[True]] * 3)), right, 0)


@pytest.mark.parametrize("frames", [1, 2, 10, 256, 1000, 1024])
def test_other_lengths(frames: int, models: dict[str, Any]) -> None:
    got = models["unfused"].get_audio_features(mx.array(spectrograms(2, 1, frames, 64)))
    assert np.isfinite(np.array(got)).all()


def test_stretching_is_the_rule_of_the_facts() -> None:
    """Float64, written out tap by tap; a spectrogram as long as the picture stays as it is."""
    for frames, length in ((1001, 1024), (10, 37), (1, 5), (2, 3), (8, 8)):
        x = spectrograms(1, 1, frames, 3)[0, 0].astype(np.float64)
        a, right = -0.75, np.zeros((length, 3))
        for i in range(length):
            position = i * (frames - 1) / (length - 1)
            first = math.floor(position)
            for tap in range(first - 1, first + 3):
                d = abs(position - tap)
                near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
                right[i] += (near if d <= 1 else far if d < 2 else 0.0) * x[min(max(tap, 0), frames - 1)]
        assert close(interpolate.stretch(mx.array(x.astype(np.float32)), length), right, 3e-5)


BAD_FEATURES = {
    "unfused": [(2, 4, 1001, 64), (2, 1, 1025, 64), (2, 1, 1001, 80), (2, 1001, 64), (2, 1, 64, 1001), (2, 1, 0, 64)],
    "fused": [(2, 1, 1001, 64), (2, 3, 1001, 64), (2, 4, 1025, 64), (1001, 64)],
}


def test_features_of_another_shape_are_refused(models: dict[str, Any], kind: str) -> None:
    for shape in BAD_FEATURES[kind]:
        with pytest.raises(InputError) as caught:
            models[kind].get_audio_features(mx.zeros(shape), mx.zeros((2, 1), mx.bool_))
        assert str(shape) in str(caught.value)


def test_fusion_needs_is_longer(models: dict[str, Any]) -> None:
    features = sounds("fused")["input_features"]
    for wrong in (None, mx.array([True]), mx.array([[True, False]] * 3)):
        with pytest.raises(InputError, match="is_longer"):
            models["fused"].get_audio_features(features, wrong)
    with pytest.raises(InputError, match="is_longer"):
        models["fused"](input_features=features)


# --- the surface ------------------------------------------------------------------------------------------------


def test_features_of_a_joint_model_have_unit_length(models: dict[str, Any], kind: str) -> None:
    model = models[kind]
    both = model(**to_mx(BATCHES[kind]))
    text, sound = model.get_text_features(**texts()), model.get_audio_features(**sounds(kind))
    assert close(text, both.text_embeds, 0.0)
    assert close(sound, both.audio_embeds, 0.0)
    for vectors in (text, sound):
        assert vectors.shape == (3, 96)
        assert close(np.linalg.norm(np.array(vectors), axis=-1), np.ones(3), 1e-6)
    projected = model.audio_projection(both.audio_model_output.pooler_output)
    assert both.audio_model_output.pooler_output.shape == (3, 128)
    assert same_direction(projected, sound)
    assert same_direction(model.text_projection(both.text_model_output.pooler_output), text)


def test_states_and_attentions_only_when_asked(models: dict[str, Any], kind: str) -> None:
    batch = to_mx(BATCHES[kind])
    plain, full = models[kind](**batch), models[kind](**batch, output_hidden_states=True, output_attentions=True)
    for tower in ("text_model_output", "audio_model_output"):
        before, after = getattr(plain, tower), getattr(full, tower)
        assert before.hidden_states is None
        assert before.attentions is None
        assert close(before.last_hidden_state, after.last_hidden_state, 1e-6)
        for shares in after.attentions:
            assert close(np.array(shares).sum(-1), np.ones(shares.shape[:3]), 1e-5)
    text, sound = full.text_model_output, full.audio_model_output
    assert [x.shape for x in text.hidden_states] == [(3, 32, 64)] * 3
    assert [x.shape for x in text.attentions] == [(3, 4, 32, 32)] * 2
    assert not np.array(text.attentions[0])[0, ..., 5:].any()  # padding
    assert [x.shape for x in sound.hidden_states] == [(3, 64, 16, 16), (3, 128, 8, 8), (3, 128, 8, 8)]
    assert [x.shape for x in sound.attentions] == [(48, 2, 16, 16), (12, 4, 16, 16)]
    assert sound.last_hidden_state.shape == (3, 128, 2, 32)
    assert close(np.array(sound.last_hidden_state).mean((2, 3)), sound.pooler_output, 1e-5)


def test_scores_are_the_softmax_over_the_texts(models: dict[str, Any], kind: str) -> None:
    model = models[kind]
    assert model.modalities == ("text", "audio")
    assert model.prompt_template == "This is a sound of {}."
    assert model.kind == "encoder"
    assert model.config.licence is None
    out = model(**texts(), **sounds(kind, slice(2)))
    assert out.logits_per_text.shape == (3, 2)
    assert out.logits_per_audio.shape == (2, 3)
    assert close(out.logits_per_audio.T * math.exp(0.5), out.logits_per_text, 1e-5)  # scales of e^2.5 and e^3
    scores = np.array(model.score(out.audio_embeds, out.text_embeds))
    logits = np.exp(np.array(out.logits_per_audio, dtype=np.float64))
    assert close(scores, logits / logits.sum(-1, keepdims=True), 1e-6)


def test_loss_goes_from_texts_to_sounds(models: dict[str, Any], kind: str) -> None:
    batch = to_mx(BATCHES[kind])
    out = models[kind](**batch, return_loss=True)

    def rows(logits: mx.array) -> float:
        x = np.array(logits, dtype=np.float64)
        return float(np.mean(np.log(np.exp(x).sum(-1)) - np.diagonal(x)))

    assert close(out.loss, (rows(out.logits_per_text) + rows(out.logits_per_audio.T)) / 2, 1e-5)
    assert not close(out.loss, (rows(out.logits_per_text) + rows(out.logits_per_audio)) / 2, 1e-4)
    assert models[kind](**batch).loss is None


def test_loss_without_pairs_is_refused(models: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="3 and 2"):
        models["unfused"](**texts(), **sounds("unfused", slice(2)), return_loss=True)
    for one in (texts(), sounds("unfused")):
        with pytest.raises(InputError, match="one kind"):
            models["unfused"](**one, return_loss=True)


# --- a tower alone ----------------------------------------------------------------------------------------------

TOWERS = {"Text": "text_model", "Audio": "audio_model"}
TOWER_FIELDS = ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]


def alone(kind: str, name: str, projected: bool) -> tuple[dict[str, Any], Weights]:
    """config.json and tensors of one tower as transformers saves it; name: Text or Audio."""
    section = "text_config" if name == "Text" else "audio_config"
    suffix = "ModelWithProjection" if projected else "Model"
    config = {**CONFIGS[kind][section], "architectures": [f"Clap{name}{suffix}"], "projection_dim": 96}
    tower = TOWERS[name]
    everything = WEIGHTS[kind] | buffers(CONFIGS[kind])
    prefixes = (f"{tower}.", f"{name.lower()}_projection.") if projected else (f"{tower}.",)
    weights = {n: x for n, x in everything.items() if n.startswith(prefixes)}
    return config, weights if projected else {n.removeprefix(f"{tower}."): x for n, x in weights.items()}


def features(model: Any, name: str, kind: str) -> mx.array:
    return model.get_text_features(**texts()) if name == "Text" else model.get_audio_features(**sounds(kind))


@pytest.mark.parametrize("form", ["bare names", "prefixed names", "whole checkpoint", "joint config"])
@pytest.mark.parametrize("name", TOWERS)
def test_tower_alone(name: str, form: str, kind: str, models: dict[str, Any]) -> None:
    config, weights = alone(kind, name, projected=False)
    if form == "prefixed names":
        weights = {f"{TOWERS[name]}.{n}": x for n, x in weights.items()}
    elif form != "bare names":
        weights = WEIGHTS[kind] | buffers(CONFIGS[kind])
    if form == "joint config":
        config = {**CONFIGS[kind], "architectures": config["architectures"]}
    model = build(config, weights)
    given = texts() if name == "Text" else sounds(kind)
    right = getattr(models[kind], TOWERS[name])(**given)
    assert close(features(model, name, kind), right.pooler_output, 0.0)
    assert close(getattr(model, TOWERS[name])(**given).last_hidden_state, right.last_hidden_state, 0.0)
    out = model(**given, output_hidden_states=True)
    assert [field.name for field in dataclasses.fields(out)] == TOWER_FIELDS
    assert close(out.pooler_output, right.pooler_output, 0.0)
    assert close(out.last_hidden_state, right.last_hidden_state, 0.0)
    assert len(out.hidden_states) == 3
    assert model.modalities == (name.lower(),)
    assert not any("projection" in path for path, _ in model.named_modules())


@pytest.mark.parametrize("form", ["own file", "whole checkpoint", "joint config"])
@pytest.mark.parametrize("name", TOWERS)
def test_tower_with_projection(name: str, form: str, kind: str, models: dict[str, Any]) -> None:
    """Its vectors are not normalised, as in transformers."""
    config, weights = alone(kind, name, projected=True)
    if form == "joint config":
        config = {**CONFIGS[kind], "architectures": config["architectures"]}
    model = build(config, weights if form == "own file" else WEIGHTS[kind])
    got = features(model, name, kind)
    assert same_direction(got, features(models[kind], name, kind))
    assert np.abs(np.linalg.norm(np.array(got), axis=-1) - 1).max() > 1e-2
    out = model(**(texts() if name == "Text" else sounds(kind)))
    embeds = f"{name.lower()}_embeds"
    assert [field.name for field in dataclasses.fields(out)] == [embeds, *TOWER_FIELDS[::2], "attentions"]
    assert close(getattr(out, embeds), got, 0.0)


def test_missing_tower_is_refused() -> None:
    for projected in (False, True):
        text, sound = (build(*alone("unfused", name, projected)) for name in TOWERS)
        with pytest.raises(ModalityError, match="no audio tower; it takes text only"):
            text.get_audio_features(**sounds("unfused"))
        with pytest.raises(ModalityError, match="no text tower; it takes audio only"):
            sound.get_text_features(**texts())
        for model in (text, sound):
            with pytest.raises(ModalityError, match="no second tower"):
                model.score(mx.ones((1, 96)), mx.ones((1, 96)))


# --- tensors ----------------------------------------------------------------------------------------------------


def test_buffers_of_whole_numbers_are_dropped(models: dict[str, Any], kind: str) -> None:
    with_buffers = build(CONFIGS[kind], WEIGHTS[kind] | buffers(CONFIGS[kind]))
    right = models[kind].get_audio_features(**sounds(kind))
    assert close(with_buffers.get_audio_features(**sounds(kind)), right, 0.0)


def test_stray_and_missing_tensors_are_errors(kind: str) -> None:
    model = empty(CONFIGS[kind])
    for strange in ("audio_model.audio_encoder.tscam_conv.weight", "head.weight", "text_model.pooler.weight"):
        arrays = model.sanitize(to_mx(WEIGHTS[kind] | {strange: np.zeros((2, 2), np.float32)}))
        with pytest.raises(WeightsError):
            check_match(parameter_shapes(model), arrays, Path("there"))
    lacking = {n: x for n, x in WEIGHTS[kind].items() if not n.endswith("audio_encoder.batch_norm.running_mean")}
    with pytest.raises(WeightsError, match="running_mean"):
        check_match(parameter_shapes(model), model.sanitize(to_mx(lacking)), Path("there"))


def test_every_rename_is_of_use() -> None:
    names = "\n".join(name for name, _ in clap_shapes(CONFIGS["fused"]))
    assert all(theirs in names for theirs, _ in (*TEXT_RENAMES, *AUDIO_RENAMES))


def test_what_is_quantised(kind: str) -> None:
    """Matrices but those of the patches, and word embeddings, but neither positions nor types."""
    model = empty(CONFIGS[kind])

    def predicate(path: str, module: nn.Module) -> bool:
        return hasattr(module, "to_quantized") and model.quant_predicate(path, module)

    matrices = {name.removesuffix(".weight") for name, shape in parameter_shapes(model).items() if len(shape) >= 2}
    nn.quantize(model, 32, 4, class_predicate=predicate)
    names = (name for name, _ in tree_flatten(model.parameters()))
    exact = matrices - {name.removesuffix(".scales") for name in names if name.endswith(".scales")}
    kept = {"text_model.embeddings.position_embedding", "text_model.embeddings.token_type_embedding"}
    kept |= {"audio_model.patch_embed.proj"}
    if kind == "fused":
        kept |= {"audio_model.patch_embed.mel_conv2d"}
        attention = "audio_model.patch_embed.fusion_model"
        kept |= {f"{attention}.{a}_att.{conv}" for a in ("local", "global") for conv in ("conv1", "conv2")}
    assert {path for path in exact if not path.endswith("relative_position_bias_table")} == kept


COUNTS = {  # total without the two scales, text, audio, audio projection, tensors with buffers
    "unfused": (153_492_890, 124_645_632, 27_534_488, 656_384, 447),
    "fused": (153_507_530, 124_645_632, 27_549_128, 656_384, 477),
    "larger": (193_913_882, 124_645_632, 67_824_408, 787_456, 555),
}


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts_of_the_checkpoints(variant: str) -> None:
    """Shapes alone: mlx makes no array before it is used. Running statistics do not count as parameters there."""
    config = {"model_type": "clap", "text_config": {}, "audio_config": FULL[variant]}
    shapes = {n: math.prod(s) for n, s in parameter_shapes(empty(config)).items() if ".running_" not in n}

    def count(prefix: str) -> int:
        return sum(number for name, number in shapes.items() if name.startswith(prefix))

    total, text, sound, projection, tensors = COUNTS[variant]
    assert count("") == total
    assert count("text_model.") == text
    assert count("audio_model.") == sound
    assert count("text_projection.") == 656_384
    assert count("audio_projection.") == projection
    assert len(clap_shapes(config)) + len(buffers(config)) == tensors


def test_folder_through_convert_and_load(tmp_path: Path, kind: str, models: dict[str, Any]) -> None:
    weights = WEIGHTS[kind] | buffers(CONFIGS[kind])
    source = write_checkpoint(tmp_path / "source", CONFIGS[kind], weights, side_files=write_clap_side_files)
    mlx_mm.convert(source, tmp_path / "exact", bits=None)
    batch = to_mx(BATCHES[kind])
    right = models[kind](**batch)
    for folder in ("source", "exact"):
        model, processor = mlx_mm.load(tmp_path / folder)
        got = model(**batch)
        assert close(got.text_embeds, right.text_embeds, 0.0)
        assert close(got.audio_embeds, right.audio_embeds, 0.0)
        words = mlx_mm.encode_text(model, processor, ["a cat", "a dog cat"])
        ids = [clap_tiny.clap_tokenizer().encode(text).ids for text in ("a cat", "a dog cat")]
        for row, encoded in zip(words, ids, strict=True):
            assert close(row, model(input_ids=mx.array([encoded])).text_embeds[0], 1e-6)


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_folder(bits: int, kind: str, tmp_path: Path) -> None:
    """Equal to the model whose matrices were rounded first."""
    source = write_checkpoint(tmp_path / "source", CONFIGS[kind], WEIGHTS[kind], side_files=write_clap_side_files)
    report = mlx_mm.convert(source, tmp_path / "rounded", bits=bits, group_size=32, dtype="float32")
    rounded = {choice.path for choice in report.choices if choice.scheme is not None}
    assert {"text_model.embeddings.token_embedding", "audio_projection.linear2"} <= rounded
    model = empty(CONFIGS[kind])
    paths = {n: next(iter(model.sanitize({n: mx.array(x)}))) for n, x in WEIGHTS[kind].items()}
    weights = {
        n: requantised(x, bits, 32) if paths[n].removesuffix(".weight") in rounded else x
        for n, x in WEIGHTS[kind].items()
    }
    batch = to_mx(BATCHES[kind])
    got, right = mlx_mm.load(tmp_path / "rounded")[0](**batch), build(CONFIGS[kind], weights)(**batch)
    assert close(got.text_embeds, right.text_embeds, 1e-5)
    assert close(got.audio_embeds, right.audio_embeds, 1e-5)
    assert not close(right.audio_embeds, build(CONFIGS[kind], WEIGHTS[kind])(**batch).audio_embeds, 1e-3)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_bfloat16(on_cpu: bool, kind: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a checkpoint in bfloat16 is computed in it, the spectrograms before the patches in float32."""
    monkeypatch.setattr(device, "on_cpu", lambda: on_cpu)
    model = build(CONFIGS[kind], WEIGHTS[kind])
    model.set_dtype(mx.bfloat16)
    got, right = model(**to_mx(BATCHES[kind])), models[kind](**to_mx(BATCHES[kind]))
    assert got.audio_model_output.pooler_output.dtype == mx.bfloat16
    for name in ("text_embeds", "audio_embeds"):
        assert (np.array(getattr(got, name)) * np.array(getattr(right, name))).sum(-1).min() > 0.999


# --- configuration ----------------------------------------------------------------------------------------------


def fields(config: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    found = {name: getattr(config, name) for name in defaults}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def test_class_defaults_fill_missing_keys() -> None:
    """The larger checkpoints' files hold almost nothing."""
    bare = {"text_config": {"model_type": "clap_text_model"}, "model_type": "clap", "projection_dim": 512}
    read = ModelConfig.from_dict({**bare, "audio_config": LARGER})
    text, sound = dict(TEXT_DEFAULTS), AUDIO_DEFAULTS | LARGER | {"patch_stride": 4}
    assert fields(read.text_config, text) == text
    assert fields(read.audio_config, sound) == sound
    assert (read.projection.projection_dim, read.projection.projection_hidden_act) == (512, "relu")
    assert read.audio_config.widths == (128, 256, 512, 1024)
    single = ModelConfig.from_dict({"model_type": "clap_text_model", "architectures": ["ClapTextModel"]})
    assert single.text_config == read.text_config
    assert single.audio_config is None
    assert single.projection is None


def test_projection_keys_at_the_top_count() -> None:
    section = {"projection_dim": 7, "projection_hidden_act": "nonsense"}
    config = {"model_type": "clap", "text_config": dict(section), "audio_config": dict(section)}
    read = ModelConfig.from_dict({**config, "projection_dim": 24, "projection_hidden_act": "gelu"})
    assert (read.projection.projection_dim, read.projection.projection_hidden_act) == (24, "gelu")
    assert ModelConfig.from_dict(config).projection.projection_dim == 512
    single = {"model_type": "clap_audio_model", "architectures": ["ClapAudioModelWithProjection"], "projection_dim": 7}
    assert ModelConfig.from_dict(single).projection.projection_dim == 7


def changed(section: str, **keys: Any) -> dict[str, Any]:
    config = tiny_clap_config(enable_fusion=True)
    return {**config, section: {**config[section], **keys}}


BAD: dict[str, dict[str, Any]] = {
    "text heads": changed("text_config", num_attention_heads=3),
    "text activation": changed("text_config", hidden_act="swiglu"),
    "no positions": changed("text_config", max_position_embeddings=2),
    "audio heads": changed("audio_config", num_attention_heads=[2, 3]),
    "heads of another length": changed("audio_config", num_attention_heads=[2, 4, 8]),
    "depths of another length": changed("audio_config", depths=[2]),
    "no stages": changed("audio_config", depths=[], num_attention_heads=[]),
    "a stage without blocks": changed("audio_config", depths=[2, 0]),
    "depths is a number": changed("audio_config", depths=2),
    "audio activation": changed("audio_config", hidden_act="swiglu"),
    "window does not divide": changed("audio_config", window_size=5),
    "window larger than the grid": changed("audio_config", window_size=16),
    "mels do not divide": changed("audio_config", num_mel_bins=60),
    "patches do not divide": changed("audio_config", patch_size=24, patch_stride=24),
    "stages do not divide": changed("audio_config", patch_size=256, patch_stride=256),
    "patches overlap": changed("audio_config", patch_stride=[8, 8]),
    "patches are no squares": changed("audio_config", patch_size=[16, 8]),
    "more parts than rows": changed("audio_config", num_mel_bins=8),
    "channel_map": changed("audio_config", fusion_type="channel_map"),
    "no patch norm": changed("audio_config", enable_patch_layer_norm=False),
    "no flattening": changed("audio_config", flatten_patch_embeds=False),
    "input channels": changed("audio_config", patch_embed_input_channels=4),
    "mlp_ratio": changed("audio_config", mlp_ratio=0.0),
    "fusion too narrow": changed("audio_config", aff_block_r=65),
    "fusion is a word": changed("audio_config", enable_fusion="yes"),
    "no text_config": {name: x for name, x in tiny_clap_config().items() if name != "text_config"},
    "no audio_config": {name: x for name, x in tiny_clap_config().items() if name != "audio_config"},
    "audio_config is text": {**tiny_clap_config(), "audio_config": "base"},
    "no projection": {**tiny_clap_config(), "projection_dim": 0},
    "projection activation": {**tiny_clap_config(), "projection_hidden_act": "swiglu"},
}


@pytest.mark.parametrize("config", BAD.values(), ids=BAD)
def test_bad_config_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        empty(config)


def test_fusion_is_switched_on_by_its_own_key_alone() -> None:
    for fusion_type in (None, "aff_2d"):
        assert empty(changed("audio_config", fusion_type=fusion_type)).audio_model.config.enable_fusion
        config = changed("audio_config", fusion_type=fusion_type, enable_fusion=False)
        assert "mel_conv2d" not in str(parameter_shapes(empty(config)))


def test_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match="ClapModel"):
        empty({**tiny_clap_config(), "architectures": ["ClapForNothing"]})


@pytest.mark.parametrize("sizes", [{"qkv_bias": False}, {"mlp_ratio": 2.5}, {"depths": [1, 3]}, {"aff_block_r": 8}])
def test_other_sizes_of_the_audio_tower(sizes: dict[str, Any]) -> None:
    config = changed("audio_config", **sizes)
    model = build(config, clap_weights(config))
    assert np.isfinite(np.array(model.get_audio_features(**sounds("fused")))).all()


def test_a_side_may_be_one_number_or_two_alike(models: dict[str, Any]) -> None:
    config = changed("audio_config", patch_size=[16, 16], patch_stride=16)
    assert ModelConfig.from_dict(config).audio_config == models["fused"].config.audio_config
