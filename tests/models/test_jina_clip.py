"""Jina CLIP v2 against golden numbers, and what must not change them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import towers_numpy as reading
from comparing import build, close, empty, excess, same_direction, sanitized, to_mx
from jina_tiny import (
    ROBERTA,
    jina_batch,
    jina_config,
    jina_shapes,
    jina_weights,
    tiny_jina_config,
    write_jina_side_files,
)
from mlx.utils import tree_flatten
from tiny import golden, golden_weights, hashed, requantised, write_checkpoint

import mlx_mm
from mlx_mm.backend import blas, device, elementwise, parts
from mlx_mm.backend.linear import linear
from mlx_mm.backend.norms import norm
from mlx_mm.checkpoint.matching import check_match, parameter_shapes
from mlx_mm.errors import ConfigError, InputError, MlxMmError, UnsupportedModelError, WeightsError
from mlx_mm.layers import activations, embeddings
from mlx_mm.layers.attention import merge_heads, split_heads
from mlx_mm.layers.rope import grid_angles, rotate_halves, rotate_neighbours
from mlx_mm.models.config import widen_mlps
from mlx_mm.models.jina_clip import text, vision
from mlx_mm.models.jina_clip import weights as room
from mlx_mm.models.jina_clip.config import FIXED, ModelConfig
from mlx_mm.models.two_towers import TwoTowers

SPEC = golden("jina_clip_v2_golden_forward")
CHECKPOINT = golden("jina_clip_v2_checkpoint")
# Measured: texts 6e-7, pictures 3e-6, logits 4e-6
TOLERANCE, SHORT_VECTOR = 1e-5, 2e-6

Weights = dict[str, np.ndarray]
Config = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> None:
    """The matrix library that `load` chooses, whichever test runs first."""
    blas.use_fast_blas()


def changed(config: Config, text: Config | None = None, vision: Config | None = None, **top: Any) -> Config:
    """`text` changes what the checkpoint changes in jina-embeddings-v3."""
    result = {**copy.deepcopy(config), **top}
    result["text_config"]["hf_model_config_kwargs"] |= text or {}
    result["vision_config"] |= vision or {}
    return result


# --- everything the golden file holds ---------------------------------------------------------------------------

NAMES = ("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "pt_hw_seq_len")
GOLDEN = jina_config(SPEC["config"]["text"], {name: SPEC["config"]["vision"][name] for name in NAMES})
GOLDEN_WEIGHTS = golden_weights([(name, tuple(shape)) for name, shape in SPEC["tensors"]], SPEC["special"])
EXPECTED = {
    name: value for name, value in SPEC.items() if name.endswith(("raw", "dim16", "first2tokens", "row0_first2"))
}
EXPECTED["logits_per_text"] = SPEC["logits_per_text"]


def golden_batch() -> dict[str, mx.array]:
    pixels = hashed((2, 3, 44, 44), 3000).transpose(0, 2, 3, 1).astype(np.float32)
    return to_mx({"input_ids": np.array(SPEC["inputs"]["input_ids"]), "pixel_values": pixels})


def cut(vectors: mx.array, dim: int) -> np.ndarray:
    """The first numbers of each, made a unit vector, as `encode_text` and `encode_image` do."""
    short = np.array(vectors)[:, :dim]
    return short / np.linalg.norm(short, axis=-1, keepdims=True)


def observe(model: Any) -> dict[str, Any]:
    """What the model gives, under the names of the golden file."""
    out = model(**golden_batch())
    raw_text, raw_image = out.text_model_output.pooler_output, out.vision_model_output.pooler_output
    return {
        "text_embeds_raw": raw_text,
        "image_embeds_raw": raw_image,
        "text_embeds_l2_dim16": cut(raw_text, 16),
        "image_embeds_l2_dim16": cut(raw_image, 16),
        "text_last_hidden_row0_first2tokens": out.text_model_output.last_hidden_state[0, :2],
        "vision_tokens_after_final_norm_row0_first2": out.vision_model_output.last_hidden_state[0, :2],
        "logits_per_text": out.logits_per_text,
    }


def over(model: Any) -> dict[str, float]:
    """For every golden value: the largest difference divided by its tolerance (so 1 is the limit)."""
    tolerance = {name: SHORT_VECTOR for name in EXPECTED if name.endswith("dim16")}
    return excess(observe(model), EXPECTED, tolerance, state=TOLERANCE, rest=TOLERANCE)


def test_golden_file_is_used_whole() -> None:
    others = {"rule", "numerics", "config", "special", "tensors", "inputs", "wrong_variants_max_abs_diff"}
    assert set(SPEC) == others | set(EXPECTED)
    assert len(EXPECTED) == 7


def test_recipe_has_the_checkpoints_names() -> None:
    named = sorted((name, list(shape)) for name, shape in jina_shapes(GOLDEN))
    assert named == sorted((name, shape) for name, shape in SPEC["tensors"])


def test_model_gives_every_golden_number() -> None:
    found = over(build(GOLDEN, GOLDEN_WEIGHTS))
    assert max(found.values()) <= 1, found


def test_gpu_arithmetic_gives_every_golden_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU other functions compute attention, GELU and SiLU; MLX runs them on a CPU as well."""
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    found = over(build(GOLDEN, GOLDEN_WEIGHTS))
    assert max(found.values()) <= 1, found


# --- known mistakes, each made in the model itself, must miss the tolerance --------------------------------------

TEXT_CALL, VISION_CALL = text.TextTower.__call__, vision.VisionTower.__call__
EXTRACT = embeddings.extract_patches


def columns_first(rows: int, cols: int, dims: int, **options: float) -> mx.array:
    return mx.concatenate(mx.split(grid_angles(rows, cols, dims, **options), 2, axis=1)[::-1], axis=1)


def not_rescaled(rows: int, cols: int, dims: int, scale: float) -> mx.array:
    return grid_angles(rows, cols, dims)


def border_to_border(rows: int, cols: int, dims: int, scale: float) -> mx.array:
    """From 0 to the last place of the trained grid."""
    return grid_angles(rows, cols, dims, scale=15 / (rows - 1))


def turned_class_token(self: Any) -> Any:
    angles = grid_angles(self.side, self.side, self.head_width, scale=self.trained_side / self.side)
    return rotate_neighbours(mx.pad(angles, [(1, 0), (0, 0)], constant_values=1.0))


def class_token_in_the_grid(self: Any) -> Any:
    angles = grid_angles(self.side, self.side, self.head_width, scale=self.trained_side / self.side)
    return rotate_neighbours(mx.concatenate([angles, angles[-1:]]))


def half_the_head(angles: mx.array, *_: Any) -> Any:
    """As for models that turn a part of each head."""
    half = angles.shape[1]
    return rotate_halves(angles[:, : half // 2])


def pooled_by(rule: Callable[[mx.array, mx.array], mx.array]) -> Any:
    def call(self: Any, input_ids: mx.array, *rest: Any, **options: Any) -> Any:
        out = TEXT_CALL(self, input_ids, *rest, **options)
        return dataclasses.replace(out, pooler_output=rule(out.last_hidden_state, input_ids != 1))

    return call


def mean_of_words(x: mx.array, mask: mx.array) -> mx.array:
    """Without <s> and </s>."""
    count = mask.sum(1, keepdims=True)
    places = mx.arange(x.shape[1])
    words = (places > 0) & (places < count - 1)
    return (x * words[..., None]).sum(1) / (count - 2)


def mean_of_patches(self: Any, pixel_values: mx.array, **options: Any) -> Any:
    out = VISION_CALL(self, pixel_values, **options)
    return dataclasses.replace(out, pooler_output=out.last_hidden_state[:, 1:].mean(1))


def norm_before_the_product(self: Any, x: mx.array, residual: mx.array) -> mx.array:
    gate = norm(self.layer_norm, elementwise.silu(linear(self.gate_proj, x)))
    return linear(self.down_proj, gate * linear(self.up_proj, x), residual=residual)


# name -> object, attribute, wrong value
PATCHES: dict[str, tuple[Any, str, Any]] = {
    "vision rope in halves": (vision, "rotate_neighbours", rotate_halves),
    "columns before rows": (vision, "grid_angles", columns_first),
    "positions not rescaled": (vision, "grid_angles", not_rescaled),
    "positions from border to border": (vision, "grid_angles", border_to_border),
    "class token turned": (vision.VisionTower, "rotation", turned_class_token),
    "class token in the grid": (vision.VisionTower, "rotation", class_token_in_the_grid),
    "no vision rope": (vision, "rotate_neighbours", lambda *_: lambda x: x),
    "pixels dropped at the top left": (embeddings, "extract_patches", lambda x, p: EXTRACT(x[:, 2:, 2:], p)),
    "pixels dropped on each side": (embeddings, "extract_patches", lambda x, p: EXTRACT(x[:, 1:, 1:], p)),
    "patches by columns": (embeddings, "extract_patches", lambda x, p: EXTRACT(x.swapaxes(1, 2), p)),
    "kernel with its colours first": (room, "kernel_matrix", lambda kernel: kernel.flatten(1)),
    "gelu for silu": (vision, "swiglu", lambda gate, up: elementwise.gelu_erf(gate) * up),
    "norm before the product": (vision.MLP, "__call__", norm_before_the_product),
    "mean of the patches": (vision.VisionTower, "__call__", mean_of_patches),
    "text rope in neighbours": (text, "rotate_halves", rotate_neighbours),
    "text rope in half the head": (text, "rotate_halves", half_the_head),
    "no text rope": (text, "rotate_halves", lambda *_: lambda x: x),
    "padding is read": (text, "key_mask", lambda _: None),
    "pooling over padding": (text.TextTower, "__call__", pooled_by(lambda x, _: x.mean(1))),
    "pooling at the first token": (text.TextTower, "__call__", pooled_by(lambda x, _: x[:, 0])),
    "pooling of the words only": (text.TextTower, "__call__", pooled_by(mean_of_words)),
    "tanh gelu": (activations.ACTIVATIONS, "gelu", elementwise.gelu_tanh),
    "quick gelu": (activations.ACTIVATIONS, "gelu", elementwise.quick_gelu),
    "scale not exponentiated": (TwoTowers, "logits", lambda self, a, b: a @ b.T * self.logit_scale),
}

# name -> changes of the text section, of the vision section
IN_CONFIG: dict[str, tuple[Config, Config]] = {
    "text rope base 10000": ({"rotary_emb_base": 10000.0}, {}),
    "text epsilon 1e-6": ({"layer_norm_eps": 1e-6}, {}),
    "vision epsilon 1e-5": ({}, {"layer_norm_eps": 1e-5}),
    "LoRA scale 1/4": ({"lora_alpha": 1}, {}),
    "LoRA scale 4": ({"lora_alpha": 16}, {}),
    "trained grid of 14": ({}, {"pt_hw_seq_len": 14}),
    "vision heads of 32": ({}, {"head_width": 32}),
    "eight text heads": ({"num_attention_heads": 8}, {}),
}


def swapped(weights: Weights, one: str, other: str) -> Weights:
    """The tensors whose names differ in this part change places."""
    return {name.replace(one, "?").replace(other, one).replace("?", other): x for name, x in weights.items()}


def edited(weights: Weights, part: str, change: Callable[[np.ndarray], np.ndarray]) -> Weights:
    assert any(part in name for name in weights)
    return {name: np.ascontiguousarray(change(x)) if part in name else x for name, x in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: edited(weights, part, np.zeros_like)


IN_WEIGHTS: dict[str, Callable[[Weights], Weights]] = {
    "w1 and w2 swapped": lambda w: swapped(w, ".mlp.w1.", ".mlp.w2."),
    "norms of a layer swapped": lambda w: swapped(w, ".norm1.", ".norm2."),
    "LoRA ignored": without(".lora_B"),
    "LoRA of the tokens ignored": without(".word_embeddings.parametrizations.weight.0.lora_B"),
    "LoRA of the token type ignored": without(".token_type_embeddings.parametrizations.weight.0.lora_B"),
    "LoRA of the packed matrix ignored": without(".Wqkv.parametrizations.weight.0.lora_B"),
    "no token type": without("token_type_embeddings."),
    "class token without its position": lambda w: edited(w, "pos_embed", lambda x: x * (np.arange(10) > 0)[:, None]),
    "class token's position last": lambda w: edited(w, "pos_embed", lambda x: np.roll(x, -1, axis=1)),
    "no learned positions": without("pos_embed"),
    "kernel's rows for columns": lambda w: edited(w, "patch_embed.proj.weight", lambda x: x.swapaxes(2, 3)),
    "kernel for BGR": lambda w: edited(w, "patch_embed.proj.weight", lambda x: x[:, ::-1]),
    "no patch bias": without("patch_embed.proj.bias"),
    "no q bias": without(".q_bias"),
    "no v bias": without(".v_bias"),
    "no bias after the heads": without(".attn.proj.bias"),
    "no bias of the packed matrix": without(".Wqkv.bias"),
}


def text_layers(model: Any) -> list[Any]:
    return model.text_model.encoder.layers


def without_module(modules: Callable[[Any], list[Any]], name: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for module in modules(model):
            setattr(module, name, nn.Identity())

    return change


def bias_of_keys(model: Any) -> None:
    for layer in model.vision_model.layers:
        layer.self_attn.k_proj.bias = layer.self_attn.q_proj.bias


def norm_first(model: Any) -> None:
    for layer in text_layers(model):
        layer.norm_first = True


def keys_before_queries(model: Any) -> None:
    for layer in text_layers(model):
        heads = layer.self_attn
        heads.q_proj, heads.k_proj = heads.k_proj, heads.q_proj


def packed_by_head(model: Any) -> None:
    """As if the packed rows were a head's q, k and v, then the next one's."""
    for layer in text_layers(model):
        parts = [getattr(layer.self_attn, f"{name}_proj") for name in "qkv"]
        for name in ("weight", "bias"):
            rows = mx.concatenate([part[name] for part in parts])
            rows = rows.reshape(4, 3, 16, *rows.shape[1:])
            for i, part in enumerate(parts):
                part[name] = rows[:, i].flatten(0, 1)


IN_MODEL: dict[str, Callable[[Any], None]] = {
    "no norm before the last projection": without_module(
        lambda model: [layer.self_attn for layer in model.vision_model.layers], "layer_norm"
    ),
    "no norm in the MLP": without_module(
        lambda model: [layer.mlp for layer in model.vision_model.layers], "layer_norm"
    ),
    "no last norm": without_module(lambda model: [model.vision_model], "post_layernorm"),
    "no norm of the token embeddings": without_module(lambda model: [model.text_model.embeddings], "layer_norm"),
    "bias of keys": bias_of_keys,
    "norm first in texts": norm_first,
    "keys before queries": keys_before_queries,
    "packed by head": packed_by_head,
}


def assert_misses(model: Any) -> None:
    assert max(over(model).values()) > 5


@pytest.mark.parametrize("mistake", PATCHES)
def test_known_mistake_misses_the_tolerance(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, value = PATCHES[mistake]
    (monkeypatch.setitem if isinstance(where, dict) else monkeypatch.setattr)(where, name, value)
    assert_misses(build(GOLDEN, GOLDEN_WEIGHTS))


@pytest.mark.parametrize("mistake", IN_CONFIG)
def test_mistake_in_the_config_misses_the_tolerance(mistake: str) -> None:
    assert_misses(build(changed(GOLDEN, *IN_CONFIG[mistake]), GOLDEN_WEIGHTS))


@pytest.mark.parametrize("mistake", IN_WEIGHTS)
def test_mistake_in_the_weights_misses_the_tolerance(mistake: str) -> None:
    assert_misses(build(GOLDEN, IN_WEIGHTS[mistake](GOLDEN_WEIGHTS)))


@pytest.mark.parametrize("mistake", IN_MODEL)
def test_mistake_in_a_layer_misses_the_tolerance(mistake: str) -> None:
    model = build(GOLDEN, GOLDEN_WEIGHTS)
    IN_MODEL[mistake](model)
    assert_misses(model)


def test_normalised_before_it_is_cut_misses_the_tolerance() -> None:
    out = build(GOLDEN, GOLDEN_WEIGHTS)(**golden_batch())
    for vectors, name in ((out.text_embeds, "text_embeds_l2_dim16"), (out.image_embeds, "image_embeds_l2_dim16")):
        assert close(cut(vectors, 16), EXPECTED[name], SHORT_VECTOR)
        assert not close(np.array(vectors)[:, :16], EXPECTED[name], 1e-2)


# --- what must not change a result, and what must ---------------------------------------------------------------

CONFIG = tiny_jina_config()
WEIGHTS = jina_weights(CONFIG)
BATCH = jina_batch(CONFIG)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return build(CONFIG, WEIGHTS)


@pytest.fixture
def batch() -> dict[str, mx.array]:
    """Three texts and three pictures; a fresh dictionary for each test."""
    return to_mx(BATCH)


@pytest.mark.usefixtures("without_kernels")
def test_rows_are_spread_over_threads(tiny: Any, batch: dict[str, mx.array]) -> None:
    pixels = {"pixel_values": batch.pop("pixel_values")}
    for features, given in ((tiny.get_text_features, batch), (tiny.get_image_features, pixels)):
        assert same_direction(parts.run_in_parts(features, given, tiny), features(**given))


def test_mask_is_read_from_the_padding(tiny: Any, batch: dict[str, mx.array]) -> None:
    ids, mask = batch["input_ids"], batch["attention_mask"]
    plain = tiny.get_text_features(ids)
    for dtype in (mx.bool_, mx.int32, mx.int64, mx.uint8, mx.float32):
        assert close(tiny.get_text_features(ids, mask.astype(dtype)), plain, 0.0)
    assert close(tiny.text_model(ids).pooler_output, plain, 0.0)
    assert close(tiny(input_ids=ids).text_model_output.pooler_output, plain, 0.0)
    assert same_direction(tiny.get_text_features(ids.astype(mx.int64)), plain)


@pytest.mark.parametrize("pad", [1, 50])
def test_more_padding_changes_nothing(pad: int) -> None:
    model = build(changed(CONFIG, {"pad_token_id": pad}), WEIGHTS)
    ids = np.where(BATCH["input_ids"][1:, :9] == 1, pad, BATCH["input_ids"][1:, :9])
    short = model.get_text_features(mx.array(ids))
    for length in (10, 16, 64, 300):  # no table of positions ends at 64
        padded = np.pad(ids, [(0, 0), (0, length - 9)], constant_values=pad)
        assert same_direction(model.get_text_features(mx.array(padded)), short)


def test_padding_that_is_shown_changes_the_vector(tiny: Any, batch: dict[str, mx.array]) -> None:
    ids = batch["input_ids"]
    hidden = np.array(tiny.get_text_features(ids))
    shown = np.array(tiny.get_text_features(ids, mx.ones_like(ids)))
    assert np.abs(shown - hidden).max(axis=1).tolist()[0] < 1e-5  # a full text
    assert np.abs(shown - hidden)[1:].max(axis=1).min() > 1e-2


def test_mask_hides_a_token(tiny: Any) -> None:
    """As if another stood there, while its neighbours keep their places."""
    ids, mask = BATCH["input_ids"].copy(), BATCH["attention_mask"].copy()
    mask[:, 2] = 0
    got = tiny.get_text_features(mx.array(ids), mx.array(mask))
    ids[:, 2] = [7, 44, 1]
    assert same_direction(tiny.get_text_features(mx.array(ids), mx.array(mask)), got)
    assert not close(got, tiny.get_text_features(mx.array(BATCH["input_ids"])), 1e-2)
    closed = np.delete(BATCH["input_ids"], 2, axis=1)
    assert not close(tiny.get_text_features(mx.array(closed)), got, 1e-3)


def test_padding_token_inside_a_text_is_not_read(tiny: Any) -> None:
    ids = np.array([[0, 5, 1, 7, 2]])
    right = tiny.get_text_features(mx.array(ids), mx.array([[1, 1, 0, 1, 1]]))
    assert close(tiny.get_text_features(mx.array(ids)), right, 0.0)


def test_order_of_the_words_counts(tiny: Any) -> None:
    ids = np.array([[0, 5, 9, 7, 2], [0, 9, 5, 7, 2]])
    one, other = np.array(tiny.get_text_features(mx.array(ids)))
    assert np.abs(one - other).max() > 1e-2


def test_leftover_pixels_are_not_read(tiny: Any) -> None:
    """The last two rows and columns; those before them are."""
    pixels = BATCH["pixel_values"]
    plain = tiny.get_image_features(mx.array(pixels))
    for rows in (np.s_[:, 42:], np.s_[:, :, 42:]):
        other = pixels.copy()
        other[rows] = 99.0
        assert close(tiny.get_image_features(mx.array(other)), plain, 0.0)
    for rows in (np.s_[:, 41], np.s_[:, :, 41], np.s_[:, 0], np.s_[:, :, 0]):
        other = pixels.copy()
        other[rows] += 1.0
        assert not close(tiny.get_image_features(mx.array(other)), plain, 1e-3)


@pytest.mark.parametrize("size", [(42, 42), (43, 44), (44, 30), (30, 44), (58, 58), (3, 44), (88, 88)])
def test_picture_of_another_size_is_refused(tiny: Any, size: tuple[int, int]) -> None:
    with pytest.raises(InputError) as caught:
        tiny.get_image_features(mx.zeros((1, *size, 3)))
    assert all(part in str(caught.value) for part in (f"{size[0]}×{size[1]}", "44×44"))
    with pytest.raises(InputError):
        tiny(pixel_values=mx.zeros((1, *size, 3)))


def test_channels_first_picture_is_refused(tiny: Any) -> None:
    with pytest.raises(InputError):
        tiny.get_image_features(mx.zeros((1, 3, 44, 44)))


@pytest.mark.parametrize(("size", "patch"), [(42, 14), (28, 14), (14, 14), (44, 11), (45, 8)])
def test_other_grids(size: int, patch: int) -> None:
    config = changed(CONFIG, vision={"image_size": size, "patch_size": patch})
    model = build(config, jina_weights(config))
    out = model.vision_model(mx.array(hashed((2, size, size, 3), 9).astype(np.float32)))
    assert out.last_hidden_state.shape == (2, 1 + (size // patch) ** 2, 64)
    assert np.isfinite(np.array(out.pooler_output)).all()


# --- the surface ------------------------------------------------------------------------------------------------


def test_features_are_not_normalised(tiny: Any, batch: dict[str, mx.array]) -> None:
    both = tiny(**batch)
    text = tiny.get_text_features(batch["input_ids"], batch["attention_mask"])
    image = tiny.get_image_features(batch["pixel_values"])
    towers = both.text_model_output, both.vision_model_output
    for raw, unit, tower in zip((text, image), (both.text_embeds, both.image_embeds), towers, strict=True):
        norm = np.linalg.norm(np.array(raw), axis=-1, keepdims=True)
        assert raw.shape == (3, 64)
        assert close(raw, tower.pooler_output, 0.0)
        assert close(np.array(raw) / norm, unit, 1e-6)
        assert np.abs(norm - 1).max() > 0.1
    assert close(image, towers[1].last_hidden_state[:, 0], 0.0)
    words = np.array(towers[0].last_hidden_state, dtype=np.float64)
    counts = BATCH["attention_mask"].sum(1)
    means = np.stack([row[:count].mean(0) for row, count in zip(words, counts, strict=True)])
    assert close(text, means, 1e-6)


def test_states_and_attentions_only_when_asked(tiny: Any, batch: dict[str, mx.array]) -> None:
    plain, full = tiny(**batch), tiny(**batch, output_hidden_states=True, output_attentions=True)
    shapes = {"text_model_output": (3, 16), "vision_model_output": (3, 10)}
    for tower, (rows, length) in shapes.items():
        before, after = getattr(plain, tower), getattr(full, tower)
        assert before.hidden_states is None
        assert before.attentions is None
        assert [state.shape for state in after.hidden_states] == [(rows, length, 64)] * 3
        assert [weights.shape for weights in after.attentions] == [(rows, 4, length, length)] * 2
        for weights in after.attentions:
            assert close(np.array(weights).sum(-1), 1.0, 1e-6)
        assert close(before.last_hidden_state, after.last_hidden_state, 1e-6)
        assert close(before.pooler_output, after.pooler_output, 1e-6)
    text, vision = full.text_model_output, full.vision_model_output
    assert close(text.hidden_states[0], tiny.text_model.embeddings(batch["input_ids"]), 1e-6)
    assert close(text.hidden_states[-1], text.last_hidden_state, 0.0)
    assert close(vision.hidden_states[0], tiny.vision_model.embeddings(batch["pixel_values"]), 1e-6)
    assert close(tiny.vision_model.post_layernorm(vision.hidden_states[-1]), vision.last_hidden_state, 1e-6)
    for weights in text.attentions:  # no key of the padding
        hidden = np.array(weights) * (1 - BATCH["attention_mask"])[:, None, None, :]
        assert not hidden.any()
    only = tiny.vision_model(batch["pixel_values"], output_attentions=True)
    assert only.hidden_states is None
    assert close(only.attentions[1], vision.attentions[1], 1e-6)


def test_attentions_are_those_that_were_used(tiny: Any, batch: dict[str, mx.array]) -> None:
    out = tiny(**batch, output_hidden_states=True, output_attentions=True)
    states, attentions = out.vision_model_output.hidden_states, out.vision_model_output.attentions
    for i, layer in enumerate(tiny.vision_model.layers):
        values = split_heads(layer.self_attn.v_proj(layer.layer_norm1(states[i])), 4)
        heads = layer.self_attn.layer_norm(merge_heads(attentions[i] @ values))
        x = states[i] + layer.self_attn.out_proj(heads)
        assert close(x + layer.mlp(layer.layer_norm2(x)), states[i + 1], 1e-5)
    states, attentions = out.text_model_output.hidden_states, out.text_model_output.attentions
    for i, layer in enumerate(tiny.text_model.encoder.layers):
        values = split_heads(layer.self_attn.v_proj(states[i]), 4)
        x = states[i] + layer.self_attn.out_proj(merge_heads(attentions[i] @ values))
        x = layer.layer_norm1(x)
        assert close(layer.layer_norm2(x + layer.mlp(x)), states[i + 1], 1e-5)


def test_logits_and_loss(tiny: Any, batch: dict[str, mx.array]) -> None:
    out = tiny(**batch, return_loss=True)
    t, v = (np.array(x, dtype=np.float64) for x in (out.text_embeds, out.image_embeds))
    logits = t @ v.T * np.exp(np.float64(WEIGHTS["logit_scale"]))
    assert close(out.logits_per_text, logits, 1e-5)
    assert close(out.logits_per_image, logits.T, 1e-5)
    own = np.arange(3)
    right = (reading.cross_entropy(logits, own) + reading.cross_entropy(logits.T, own)) / 2
    assert out.loss.shape == ()
    assert close(out.loss, right, 1e-5)
    assert abs(reading.cross_entropy(logits, own) - right) > 1e-3
    assert tiny(**batch).loss is None


def test_scores_are_the_softmax_over_the_texts(tiny: Any, batch: dict[str, mx.array]) -> None:
    assert tiny.modalities == ("text", "image")
    assert tiny.kind == "encoder"
    batch["pixel_values"] = batch["pixel_values"][:2]
    out = tiny(**batch)
    assert out.logits_per_text.shape == (3, 2)
    assert close(out.logits_per_text.T, out.logits_per_image, 0.0)
    scores = tiny.score(out.image_embeds, out.text_embeds)
    assert scores.shape == (2, 3)
    assert close(scores, reading.softmax(np.array(out.logits_per_image, dtype=np.float64)), 1e-6)


# --- half precision ---------------------------------------------------------------------------------------------

HALVES = {"bfloat16": (mx.bfloat16, 0.995), "float16": (mx.float16, 0.9999)}


@pytest.mark.parametrize("name", HALVES)
def test_half_precision(name: str, batch: dict[str, mx.array]) -> None:
    dtype, cosine = HALVES[name]
    model, right = build(CONFIG, WEIGHTS), build(CONFIG, WEIGHTS)(**batch)
    model.set_dtype(dtype)
    out = model(**batch)
    text, vision = out.text_model_output, out.vision_model_output
    assert text.last_hidden_state.dtype == vision.last_hidden_state.dtype == dtype
    assert text.pooler_output.dtype == mx.float32
    for name in ("text_embeds", "image_embeds"):
        vectors = np.array(getattr(out, name))
        assert getattr(out, name).dtype == mx.float32
        assert close(np.linalg.norm(vectors, axis=-1), 1.0, 1e-6)
        assert (vectors * np.array(getattr(right, name))).sum(-1).min() > cosine
    assert np.isfinite(np.array(out.logits_per_text)).all()


def test_long_texts_do_not_overflow_in_float16() -> None:
    """8,192 tokens of 30 and more: their sum is beyond 65,504. No layers, which would take a while here."""
    model = build(CONFIG, WEIGHTS)
    model.set_dtype(mx.float16)
    model.text_model.encoder.layers = []
    norm = model.text_model.embeddings.layer_norm
    norm.weight, norm.bias = norm.weight * 0.1, norm.bias + 30.0
    ids = mx.array((3 + np.abs(hashed((2, 8192), 3)) * 55).astype(np.int32))
    out = model.text_model(ids)
    assert out.last_hidden_state.dtype == mx.float16
    sums = np.array(out.last_hidden_state).astype(np.float64).sum(1)
    assert np.abs(sums).min() > np.finfo(np.float16).max
    assert close(out.pooler_output, sums / 8192, 1e-4)


# --- tensors ----------------------------------------------------------------------------------------------------


def published_tensors() -> dict[str, tuple[int, ...]]:
    names = {}
    for pattern, shape, count in CHECKPOINT["tensors"]:
        names |= {pattern.replace("{i}", str(i)): tuple(shape) for i in range(count)}
    return names


def zeros(shapes: dict[str, tuple[int, ...]]) -> dict[str, mx.array]:
    """Not one of them is ever computed."""
    return {name: mx.zeros(shape, mx.float16) for name, shape in shapes.items()}


PUBLISHED = {**CHECKPOINT["config_json"], "architectures": ["JinaCLIPModel"]}
TEXT_SIZES = {"vocab_size": 250002, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}


def test_inventory_of_the_published_checkpoint() -> None:
    tensors = published_tensors()
    assert len(tensors) == CHECKPOINT["file"]["tensors"] == 999
    count = sum(int(np.prod(shape, dtype=np.int64)) for shape in tensors.values())
    assert count == CHECKPOINT["file"]["parameters"] == 865_278_477
    recipe = dict(jina_shapes(changed(PUBLISHED, TEXT_SIZES)))
    assert recipe == tensors

    model = empty(PUBLISHED)
    found, expected = model.sanitize(zeros(tensors)), parameter_shapes(model)
    check_match(expected, found, Path("published"))
    assert {name: array.shape for name, array in found.items()} == expected
    merged = {name for name in found if found[name].dtype == mx.float32}
    assert len(merged) == 2 + 24 * 6  # both tables; q, k, v, the heads' projection and both of the MLP
    low_rank = sum(int(np.prod(shape, dtype=np.int64)) for name, shape in tensors.items() if ".lora_" in name)
    assert low_rank == CHECKPOINT["totals"]["of_which_lora"]
    assert sum(array.size for array in found.values()) == count - low_rank


def test_defaults_are_those_of_jina_embeddings_v3() -> None:
    config = ModelConfig.from_dict(PUBLISHED)
    for name, value in CHECKPOINT["text_tower_constants_not_in_config_json"].items():
        if hasattr(config.text_config, name) and name != "hidden_act":
            assert getattr(config.text_config, name) == value, name
    assert config.text_config.hidden_act == "gelu"
    assert config.text_config.rotary_emb_base == 20000.0
    assert config.vision_config.mlp_width == config.vision_config.intermediate_size == 2730
    assert config.vision_config.layer_norm_eps == 1e-6
    assert config.lora is not None
    assert config.lora.scale == 1.0
    assert config.licence == "cc-by-nc-4.0"


def damaged(change: Callable[[dict[str, tuple[int, ...]]], Any]) -> dict[str, tuple[int, ...]]:
    shapes = dict(jina_shapes(CONFIG))
    change(shapes)
    return shapes


LAST = "vision_model.blocks.1.mlp.w3.weight"
BAD_TENSORS: dict[str, tuple[Callable[[dict[str, tuple[int, ...]]], Any], str]] = {
    "one missing": (lambda shapes: shapes.pop(LAST), "down_proj"),
    "scale missing": (lambda shapes: shapes.pop("logit_scale"), "logit_scale"),
    "one more": (lambda shapes: shapes.update({"text_projection.weight": (64, 64)}), "text_projection"),
    "position table": (
        lambda shapes: shapes.update({f"{ROBERTA}embeddings.position_embeddings.weight": (64, 64)}),
        "p",
    ),
    "bias of keys": (lambda shapes: shapes.update({"vision_model.blocks.0.attn.k_bias": (64,)}), "k_bias"),
    "vision head": (lambda shapes: shapes.update({"vision_model.head.weight": (64, 64)}), "vision_model.head"),
    "layer more": (lambda shapes: shapes.update({f"{ROBERTA}encoder.layers.2.norm1.bias": (64,)}), r"layers\.2"),
    "misshapen": (lambda shapes: shapes.update({LAST: (64, 171)}), r"171.*170"),
    "positions of another grid": (lambda shapes: shapes.update({"vision_model.pos_embed": (1, 17, 64)}), "17"),
    "packed rows not of three": (
        lambda shapes: shapes.update({f"{ROBERTA}encoder.layers.1.mixer.Wqkv.bias": (64,)}),
        "1",
    ),
    "packed rows too few": (
        lambda shapes: shapes.update({f"{ROBERTA}encoder.layers.1.mixer.Wqkv.bias": (96,)}),
        "q_proj",
    ),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused(name: str) -> None:
    change, words = BAD_TENSORS[name]
    model = empty(CONFIG)
    with pytest.raises(WeightsError, match=words):
        check_match(parameter_shapes(model), model.sanitize(zeros(damaged(change))), Path("here"))


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.rope.freqs_cos",
        "vision_model.blocks.1.attn.rope.freqs_sin",
        f"{ROBERTA}encoder.layers.0.mixer.rotary_emb.inv_freq",
    ],
)
def test_tables_of_angles_are_ignored(name: str, tiny: Any, batch: dict[str, mx.array]) -> None:
    model = build(CONFIG, {**WEIGHTS, name: np.full((9, 16), 3.0, np.float32)})
    assert close(model(**batch).logits_per_text, tiny(**batch).logits_per_text, 0.0)


def test_kernel_and_tables_lose_their_axes(tiny: Any) -> None:
    embeddings = tiny.vision_model.embeddings
    kernel = WEIGHTS["vision_model.patch_embed.proj.weight"]
    assert close(embeddings.patch_embedding.weight, kernel.transpose(0, 2, 3, 1).reshape(64, -1), 0.0)
    assert close(embeddings.class_embedding, WEIGHTS["vision_model.cls_token"][0, 0], 0.0)
    assert close(embeddings.position_embedding, WEIGHTS["vision_model.pos_embed"][0], 0.0)


# --- low-rank matrices ------------------------------------------------------------------------------------------

WEIGHT = ".parametrizations.weight."
LAYERS = sorted({name.split(WEIGHT)[0] for name in WEIGHTS if WEIGHT in name})


def merged(weights: Weights, scale: float = 1.0, adapter: int = 0) -> Weights:
    """Plain names, with what NumPy makes of the factors in float64; not rounded."""
    result = {name: x for name, x in weights.items() if WEIGHT not in name}
    for layer in LAYERS:
        original, a, b = (weights[layer + WEIGHT + part] for part in ("original", "0.lora_A", "0.lora_B"))
        a, b = a[adapter].astype(np.float64), b[adapter].astype(np.float64)
        product = a @ b if ".embeddings." in layer else b @ a
        result[f"{layer}.weight"] = original.astype(np.float64) + scale * product
    return result


def renamed(layer: str) -> str:
    """Our name of a layer; of the packed one, that of its first rows."""
    name = layer.replace(ROBERTA, "text_model.").replace(".mixer.", ".self_attn.").replace("Wqkv", "q_proj")
    return name.replace(".word_", ".token_").replace("_embeddings", "_embedding")


@pytest.fixture
def plain_config() -> Config:
    return changed(CONFIG, {"lora_adaptations": None})


def test_every_adapted_layer_is_merged(tiny: Any) -> None:
    right, found = merged(WEIGHTS), sanitized(tiny, WEIGHTS)
    assert len(LAYERS) == 2 + 2 * 4
    for layer in LAYERS:
        rows = right[f"{layer}.weight"]
        got = found[f"{renamed(layer)}.weight"]
        assert close(got, rows[: len(got)], 1e-7), layer
        assert not close(got, WEIGHTS[f"{layer}{WEIGHT}original"][: len(got)], 1e-2)


@pytest.mark.parametrize("adaptations", [None, [], "absent"])
def test_checkpoint_without_adapters(adaptations: Any, batch: dict[str, mx.array], tiny: Any) -> None:
    config = changed(CONFIG, {"lora_adaptations": adaptations})
    if adaptations == "absent":
        kept = ("rotary_emb_base", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        section = config["text_config"]["hf_model_config_kwargs"]
        sizes = {name: section[name] for name in (*kept, "num_attention_heads") if name in section}
        config["text_config"]["hf_model_config_kwargs"] = sizes
        del config["text_config"]["default_lora_task"]
    plain = {name: x.astype(np.float32) for name, x in merged(WEIGHTS).items()}
    got, right = build(config, plain)(**batch), tiny(**batch)
    assert close(got.text_embeds, right.text_embeds, 1e-6)
    assert close(got.logits_per_text, right.logits_per_text, 1e-5)
    model = empty(config)
    found = model.sanitize(to_mx(WEIGHTS))
    with pytest.raises(WeightsError, match="lora_A"):
        check_match(parameter_shapes(model), found, Path("here"))


def test_merged_checkpoint_with_the_config_of_adapters(batch: dict[str, mx.array], tiny: Any) -> None:
    plain = {name: x.astype(np.float32) for name, x in merged(WEIGHTS).items()}
    assert close(build(CONFIG, plain)(**batch).text_embeds, tiny(**batch).text_embeds, 1e-6)


@pytest.mark.parametrize(("rank", "alpha", "scale"), [(4, 8, 2.0), (4, 1, 0.25), (4, 6.0, 1.5)])
def test_scale_is_alpha_over_rank(rank: int, alpha: float, scale: float) -> None:
    found = sanitized(empty(changed(CONFIG, {"lora_alpha": alpha, "lora_rank": rank})), WEIGHTS)
    right = merged(WEIGHTS, scale)
    for layer in LAYERS:
        got = found[f"{renamed(layer)}.weight"]
        assert close(got, right[f"{layer}.weight"][: len(got)], 1e-6), layer


def with_two_adapters() -> Weights:
    """A second one behind the first, with other numbers."""
    weights = dict(WEIGHTS)
    for i, name in enumerate(name for name in WEIGHTS if ".lora_" in name):
        weights[name] = np.concatenate([WEIGHTS[name], 0.2 * hashed(WEIGHTS[name].shape, 900 + i).astype(np.float32)])
    return weights


@pytest.mark.parametrize(("task", "adapter"), [("retrieval.query", 0), ("separation", 1), (None, 0)])
def test_config_names_the_adapter(task: str | None, adapter: int) -> None:
    config = changed(CONFIG, {"lora_adaptations": ["retrieval.query", "separation"]})
    config["text_config"]["default_lora_task"] = task
    weights = with_two_adapters()
    found, right = sanitized(empty(config), weights), merged(weights, adapter=adapter)
    for layer in LAYERS:
        got = found[f"{renamed(layer)}.weight"]
        assert close(got, right[f"{layer}.weight"][: len(got)], 1e-7), layer


def test_fewer_adapters_than_the_config_names_are_refused() -> None:
    config = changed(CONFIG, {"lora_adaptations": ["retrieval.query", "separation"]})
    config["text_config"]["default_lora_task"] = "separation"
    with pytest.raises(WeightsError, match="number 1"):
        empty(config).sanitize(to_mx(WEIGHTS))
    weights = with_two_adapters()
    name = f"{LAYERS[0]}{WEIGHT}0.lora_B"
    with pytest.raises(WeightsError, match=LAYERS[0].rsplit(".", 1)[-1]):
        empty(config).sanitize(to_mx({**weights, name: weights[name][:1]}))


@pytest.mark.parametrize("part", ["original", "0.lora_A", "0.lora_B"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.removeprefix(ROBERTA))
def test_missing_factor_is_refused(layer: str, part: str) -> None:
    weights = dict(WEIGHTS)
    del weights[layer + WEIGHT + part]
    model = empty(CONFIG)
    with pytest.raises(WeightsError, match="lora_"):
        check_match(parameter_shapes(model), model.sanitize(to_mx(weights)), Path("here"))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_another_rank_is_refused(rank: int) -> None:
    with pytest.raises(WeightsError, match=f"rank {rank}"):
        empty(changed(CONFIG, {"lora_rank": rank})).sanitize(to_mx(WEIGHTS))


def test_factors_of_another_width_are_refused() -> None:
    for layer in LAYERS:
        for part in ("0.lora_A", "0.lora_B"):
            name = layer + WEIGHT + part
            for wrong in (WEIGHTS[name][0], WEIGHTS[name].swapaxes(1, 2), WEIGHTS[name][:, :, :-1]):
                with pytest.raises(WeightsError, match=layer.rsplit(".", 1)[-1]):
                    empty(CONFIG).sanitize(to_mx({**WEIGHTS, name: wrong}))


@pytest.mark.parametrize("shape", [(), (64,), (60, 63), (60, 64, 1)], ids=str)
def test_weight_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    for layer in LAYERS:
        wrong = np.zeros(shape, np.float32)
        with pytest.raises(WeightsError, match=layer.rsplit(".", 1)[-1]):
            empty(CONFIG).sanitize(to_mx({**WEIGHTS, f"{layer}{WEIGHT}original": wrong}))


@pytest.mark.parametrize("rows", [1, 7, 59, 60, 61])
def test_tables_are_merged_in_blocks(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BLOCK_ROWS", rows)
    found, right = sanitized(empty(CONFIG), WEIGHTS), merged(WEIGHTS)
    for layer in LAYERS[:2]:
        assert ".embeddings." in layer
        assert close(found[f"{renamed(layer)}.weight"], right[f"{layer}.weight"], 1e-7)


def test_float16_files_are_merged_in_float32() -> None:
    halves = {name: x.astype(np.float16) for name, x in WEIGHTS.items()}
    found, right = sanitized(empty(CONFIG), halves), merged(halves)
    for layer in LAYERS:
        got = found[f"{renamed(layer)}.weight"]
        assert got.dtype == mx.float32
        rows = right[f"{layer}.weight"][: len(got)]
        assert close(got, rows, 1e-7)
        assert not close(rows.astype(np.float16), rows, 5e-5)  # what merging in float16 would lose


# --- through convert and load -----------------------------------------------------------------------------------


def quantised_paths(model: Any) -> set[str]:
    """The layers that 4-bit rounding replaces, asked of MLX itself."""

    def predicate(path: str, module: nn.Module) -> bool:
        return hasattr(module, "to_quantized") and model.quant_predicate(path, module)

    nn.quantize(model, 32, 4, class_predicate=predicate)
    names = (name for name, _ in tree_flatten(model.parameters()))
    return {name.removesuffix(".scales") for name in names if name.endswith(".scales")}


def test_what_is_quantised() -> None:
    wider, record = widen_mlps(CONFIG, ModelConfig.from_dict(CONFIG), 64)
    assert record == {"vision_config.intermediate_size": [170, 192]}
    model = empty(wider)
    matrices = {name.removesuffix(".weight") for name, shape in parameter_shapes(model).items() if len(shape) > 1}
    stays = {path for path in matrices if path.endswith(("position_embedding", "patch_embedding", "type_embedding"))}
    assert len(stays) == 3
    assert quantised_paths(model) == matrices - stays


def test_wider_mlp_changes_nothing(batch: dict[str, mx.array], tiny: Any) -> None:
    """Its added columns meet zeros, whatever stands in them."""
    wider, _ = widen_mlps(CONFIG, ModelConfig.from_dict(CONFIG), 64)
    model = empty(wider)
    weights = sanitized(model, WEIGHTS)
    for i in range(2):
        name = f"vision_model.layers.{i}.mlp.down_proj.weight"
        weights[name] = mx.pad(weights[name], [(0, 0), (0, 22)], constant_values=5.0)
    check_match(parameter_shapes(model), weights, Path("here"))
    model.load_weights(list(weights.items()), strict=True)
    assert close(model(**batch).image_embeds, tiny(**batch).image_embeds, 1e-6)


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_folder(bits: int, group_size: int, tmp_path: Path, batch: dict[str, mx.array], tiny: Any) -> None:
    """Equal to the model whose merged matrices were rounded first."""
    source = write_checkpoint(tmp_path / "source", CONFIG, WEIGHTS, side_files=write_jina_side_files)
    report = mlx_mm.convert(source, tmp_path / "rounded", bits=bits, group_size=group_size, dtype="float32")
    assert report.padded == {"vision_config.intermediate_size": [170, 192]}
    assert report.licence == "cc-by-nc-4.0"
    rounded = {choice.path for choice in report.choices if choice.scheme is not None}
    assert {"text_model.embeddings.token_embedding", "vision_model.layers.1.mlp.down_proj"} <= rounded
    model = build(CONFIG, WEIGHTS)
    weights = [
        (name, mx.array(requantised(np.array(x), bits, group_size)))
        for name, x in tree_flatten(model.parameters())
        if name.removesuffix(".weight") in rounded
    ]
    assert len(weights) == len(rounded) == 1 + 2 * 6 + 2 * 7
    model.load_weights(weights, strict=False)
    got, right, exact = mlx_mm.load(tmp_path / "rounded")[0](**batch), model(**batch), tiny(**batch)
    lowest = 0.9 if bits == 4 else 0.999
    for name in ("text_embeds", "image_embeds"):
        assert close(getattr(got, name), getattr(right, name), 1e-5)
        assert not close(getattr(right, name), getattr(exact, name), 1e-4)
        assert (np.array(getattr(got, name)) * np.array(getattr(exact, name))).sum(-1).min() > lowest


# --- configuration ----------------------------------------------------------------------------------------------

OTHER_VALUES = {True: False, False: True, None: "mlp"}


@pytest.mark.parametrize(("section", "key"), [(section, key) for section in FIXED for key in FIXED[section]])
def test_what_is_not_computed_is_refused(section: str, key: str) -> None:
    expected = FIXED[section][key]
    config = copy.deepcopy(CONFIG)
    part = config if section == "config.json" else config[section]
    part[key] = OTHER_VALUES.get(expected, "another")
    with pytest.raises(ConfigError) as caught:
        empty(config)
    assert all(word in str(caught.value) for word in (key, section, repr(expected)))
    part[key] = expected
    empty(config)
    del part[key]  # left out, as the published value
    empty(config)


def dropped(*path: str) -> Config:
    config = copy.deepcopy(CONFIG)
    part = config
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return config


def text_section(**values: Any) -> Config:
    return {**CONFIG, "text_config": {**CONFIG["text_config"], **values}}


BAD: dict[str, tuple[Config, str]] = {
    "widths that differ": (changed(CONFIG, {"hidden_size": 128}), "128"),
    "text heads": (changed(CONFIG, {"num_attention_heads": 3}), "num_attention_heads"),
    "vision heads": (changed(CONFIG, vision={"head_width": 24}), "head_width"),
    "vision heads of two numbers": (changed(CONFIG, vision={"head_width": 2}), "head_width"),
    "activation": (changed(CONFIG, {"hidden_act": "swiglu"}), "swiglu"),
    "no text_config": (dropped("text_config"), "text_config"),
    "no vision_config": (dropped("vision_config"), "vision_config"),
    "text_config is text": ({**CONFIG, "text_config": "base"}, "text_config"),
    "changes are a list": (text_section(hf_model_config_kwargs=[1]), "hf_model_config_kwargs"),
    "changes are text": (text_section(hf_model_config_kwargs="base"), "hf_model_config_kwargs"),
    "unknown default instruction": (text_section(default_instruction_task="separation"), "separation"),
    "instructions are a list": (changed(CONFIG, {"task_instructions": ["retrieval.query"]}), "task_instructions"),
    "instruction is a number": (changed(CONFIG, {"task_instructions": {"retrieval.query": 3}}), "task_instructions"),
    "instruction is null": (changed(CONFIG, {"task_instructions": {"retrieval.query": None}}), "task_instructions"),
    "unknown adapter": (text_section(default_lora_task="separation"), "separation"),
    "adapters are text": (changed(CONFIG, {"lora_adaptations": "retrieval.query"}), "lora_adaptations"),
    "no rank": (dropped("text_config", "hf_model_config_kwargs", "lora_rank"), "lora_rank"),
    "no alpha": (dropped("text_config", "hf_model_config_kwargs", "lora_alpha"), "lora_alpha"),
    "rank 0": (changed(CONFIG, {"lora_rank": 0}), "lora_rank"),
    "alpha is text": (changed(CONFIG, {"lora_alpha": "4"}), "lora_alpha"),
    "width is text": (changed(CONFIG, vision={"width": "64"}), "width"),
    "ratio is text": (changed(CONFIG, vision={"mlp_ratio": "2"}), "mlp_ratio"),
    "ratio of nothing": (changed(CONFIG, vision={"mlp_ratio": 0.001}), "intermediate_size"),
    "narrower than its MLP": (changed(CONFIG, vision={"intermediate_size": 169}), "169"),
    "patch larger than the picture": (changed(CONFIG, vision={"patch_size": 45}), "patch_size"),
    "base is text": (changed(CONFIG, {"rotary_emb_base": "20000"}), "rotary_emb_base"),
    "vocabulary of nothing": (changed(CONFIG, {"vocab_size": 0}), "vocab_size"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_config_is_refused(name: str) -> None:
    config, word = BAD[name]
    with pytest.raises(ConfigError, match=word):
        empty(config)


REQUIRED = ["width", "layers", "head_width", "image_size", "patch_size", "mlp_ratio", "pt_hw_seq_len"]


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_key_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        empty(dropped("vision_config", key))


def test_all_missing_keys_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        empty({**CONFIG, "vision_config": {}})
    assert all(key in str(caught.value) for key in REQUIRED)
    assert "intermediate_size" not in str(caught.value)


def test_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match="JinaCLIPModel"):
        empty({**CONFIG, "architectures": ["JinaCLIPTextModel"]})
    empty({name: value for name, value in CONFIG.items() if name != "architectures"})


def test_default_instruction_may_be_given() -> None:
    config = ModelConfig.from_dict(text_section(default_instruction_task="retrieval.query"))
    assert config.default_instruction_task == "retrieval.query"
    assert ModelConfig.from_dict(CONFIG).default_instruction_task is None
    bare = text_section(hf_model_config_kwargs=None, default_lora_task=None)
    with pytest.raises(MlxMmError, match="1024"):  # jina-embeddings-v3's own sizes, beside a tiny vision tower
        ModelConfig.from_dict(bare)
