"""GLM against golden numbers, what must not change them, and what must."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from comparing import TRACES, sanitized, to_mx
from glm_models import (
    answer,
    answer_by_whole_prompts,
    case_batch,
    glm_model,
    numpy_batch,
    padded,
    prompt,
    request_of,
    worst,
)
from glm_tiny import DENSE, GROUPED, MODELS, MOE, glm_cases, glm_config, glm_pixels, glm_weights
from mlx.utils import tree_flatten
from mlx_lm.models.cache import BatchKVCache, KVCache, QuantizedKVCache, make_prompt_cache
from tiny import hashed

from mlx_mm.backend import blas
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.errors import InputError, ModalityError
from mlx_mm.layers.rope import inverse_frequencies, rotate_halves, rotate_neighbours
from mlx_mm.models.glm4v import language
from mlx_mm.models.glm4v.config import ModelConfig, MoeConfig
from mlx_mm.models.glm4v.model import Model

CASES = list(glm_cases())
LOGIT, MISS = 2e-5, 1e-2


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> None:
    """The matrix library that `load` chooses, whichever test runs first."""
    blas.use_fast_blas()


def off(logits: mx.array, case: dict[str, Any]) -> float:
    """The largest difference between logits (L, V) and those of a golden case."""
    last, golden = np.array(logits, dtype=np.float64)[-1], case["last_logits"]
    best = max(abs(last[token] - value) for token, value in golden["top5"])
    length = abs(np.linalg.norm(last) - golden["l2"]) / 10  # rounded to four places
    return float(max(worst(last[:8], golden["first8"]), best, length))


# --- golden numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", MODELS)
def test_golden_logits(kind: str, name: str) -> None:
    case = glm_cases(kind)[name]
    out = glm_model(kind)(**case_batch(case))
    assert off(out.logits[0], case) < LOGIT
    assert abs(np.linalg.norm(np.array(out.logits)) - case["all_logits_l2"]) < 3e-4
    assert [int(out.logits[0, -1].argmax())] == case["greedy8"][:1]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", MODELS)
def test_golden_tokens(kind: str, name: str) -> None:
    case = glm_cases(kind)[name]
    batch, right = case_batch(case), case["greedy8"]
    assert answer_by_whole_prompts(glm_model(kind), batch) == right
    assert answer(glm_model(kind), batch) == right


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["two_images", "video"])
def test_golden_tokens_with_a_cache_and_positions(kind: str, name: str) -> None:
    case = glm_cases(kind)[name]
    model, batch, tokens = glm_model(kind), case_batch(case), []
    cache = [KVCache() for _ in model.language_model.model.layers]
    out = model(**batch, cache=cache)
    count, delta = batch["input_ids"].shape[1], int(out.rope_deltas[0])
    for place in range(count, count + 8):
        tokens.append(int(out.logits[0, -1].argmax()))
        out = model(mx.array([tokens[-1:]]), cache=cache, position_ids=mx.array([[place + delta]]))
        assert out.rope_deltas is None
    assert tokens == case["greedy8"]


# --- wrong variants -----------------------------------------------------------------------------------------------


def own_copy(kind: str) -> Any:
    """A model that a test may alter."""
    model = Model(ModelConfig.from_dict(glm_config(kind)))
    model.load_weights(tree_flatten(glm_model(kind).parameters()))
    return model


def swap(module: Any, one: str, other: str) -> None:
    module[one], module[other] = module[other], module[one]


def swap_halves(model: Any) -> None:
    for layer in model.language_model.model.layers:
        layer.mlp.gate_up_proj.weight = mx.roll(layer.mlp.gate_up_proj.weight, 160, axis=0)


SECTIONS, INTERLEAVED = [0, 0, 1, 1, 1, 2, 2, 2], [j % 3 for j in range(8)]


def turned(axes: list[int], rotate: Any, theta: float = 500000.0) -> Callable[[Any], None]:
    """Heads turned by time (0), rows (1) and columns (2), as listed for each pair."""

    def rotation(positions: mx.array, dtype: mx.Dtype) -> Any:
        angles = positions[mx.array(axes)].transpose(1, 2, 0) * inverse_frequencies(16, theta)
        return rotate(angles[:, None], dtype)

    def change(model: Any) -> None:
        model.language_model.rotation = rotation

    return change


def exchange(layers: slice, one: str, other: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for layer in model.language_model.model.layers[layers]:
            owner, name = (layer, one) if "." not in one else (layer.mlp[one.split(".")[0]], one.split(".")[1])
            swap(owner, name, other)

    return change


def no_bias(model: Any) -> None:
    for layer in model.language_model.model.layers:
        layer.self_attn.k_proj.pop("bias")
        layer.self_attn.v_proj.pop("bias")


def norm_before_only(model: Any) -> None:
    for layer in model.language_model.model.layers:
        layer.sandwich = False


WRONG: list[tuple[str, str, Callable[[Any], None]]] = [
    ("pairs of halves", DENSE, turned(SECTIONS, rotate_halves)),
    ("pairs of neighbours", MOE, turned(SECTIONS, rotate_neighbours)),
    ("theta", DENSE, turned(SECTIONS, rotate_neighbours, 10000.0)),
    ("theta of experts", MOE, turned(SECTIONS, rotate_halves, 10000.0)),
    ("sections", DENSE, turned([0, 0, 0, 1, 1, 1, 2, 2], rotate_neighbours)),
    ("interleaved sections", DENSE, turned(INTERLEAVED, rotate_neighbours)),
    ("interleaved sections, experts", MOE, turned(INTERLEAVED, rotate_halves)),
    ("gate and up", DENSE, swap_halves),
    ("gate and up of experts", MOE, exchange(slice(1, None), "switch_mlp.gate_proj", "up_proj")),
    ("gate and up, shared", MOE, exchange(slice(1, None), "shared_experts.gate_proj", "up_proj")),
    ("norms", DENSE, exchange(slice(None), "post_self_attn_layernorm", "post_attention_layernorm")),
    ("norms of the MLP", DENSE, exchange(slice(None), "post_mlp_layernorm", "post_attention_layernorm")),
    ("two norms", DENSE, norm_before_only),
    ("no biases", DENSE, no_bias),
]


@pytest.mark.parametrize(("kind", "rotate"), [(DENSE, rotate_neighbours), (MOE, rotate_halves)])
def test_right_rotation_written_out_again(kind: str, rotate: Any) -> None:
    """That the wrong ones below are wrong in what they say, and in nothing else."""
    case, model = glm_cases(kind)["two_images"], own_copy(kind)
    turned(SECTIONS, rotate)(model)
    assert off(model(**case_batch(case)).logits[0], case) < LOGIT


@pytest.mark.parametrize(("kind", "change"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_variants_miss(kind: str, change: Callable[[Any], None]) -> None:
    case = glm_cases(kind)["two_images"]
    model = own_copy(kind)
    assert off(model(**case_batch(case)).logits[0], case) < LOGIT
    change(model)
    assert off(model(**case_batch(case)).logits[0], case) > MISS


def routed(variant: str) -> Callable[..., tuple[mx.array, mx.array]]:
    """The router written out again, right or with one mistake."""
    config = glm_model(GROUPED).config.moe

    def call(self: Any, x: mx.array) -> tuple[mx.array, mx.array]:
        raw = x @ self.weight.T
        scores = mx.softmax(raw, axis=-1) if variant == "softmax" else mx.sigmoid(raw)
        biased = scores if variant == "no bias" else scores + self.e_score_correction_bias
        if config.n_group > 1 and variant != "no groups":
            groups = mx.unflatten(biased, -1, (config.n_group, -1))
            best = groups.max(axis=-1) if variant == "best of a group" else groups.sum(axis=-1)
            order = mx.argsort(-best, axis=-1)[..., : config.topk_group]
            kept = (mx.arange(config.n_group)[:, None] == order[..., None, :]).any(axis=-1)
            biased = mx.where(kept[..., None], groups, -mx.inf).flatten(-2)
        chosen = mx.argsort(-biased, axis=-1)[..., : config.num_experts_per_tok]
        weights = mx.take_along_axis(biased if variant == "biased weights" else scores, chosen, axis=-1)
        if variant != "sum kept":
            weights = weights / weights.sum(axis=-1, keepdims=True)
        return chosen, weights * (1 if variant == "no scale" else config.routed_scaling_factor)

    return call


@pytest.mark.parametrize(
    "variant",
    ["right", "softmax", "no bias", "no groups", "best of a group", "biased weights", "sum kept", "no scale"],
)
def test_wrong_routers_miss(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [glm_cases(GROUPED)[name] for name in ("two_images", "image_8x10", "video")]
    monkeypatch.setattr(language.Router, "__call__", routed(variant))
    error = max(off(glm_model(GROUPED)(**case_batch(case)).logits[0], case) for case in cases)
    assert (error < LOGIT) if variant == "right" else (error > 1e-3)


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("variant", ["right", "left out", "gated", "scaled"])
def test_wrong_shared_experts_miss(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = glm_cases(GROUPED)["two_images"]
    change = {
        "right": lambda x, y: y,
        "left out": lambda x, y: 0 * y,
        "gated": lambda x, y: y * mx.sigmoid(x.mean(axis=-1, keepdims=True)),
        "scaled": lambda x, y: 1.5 * y,
    }[variant]

    def call(self: Any, x: mx.array) -> mx.array:
        chosen, weights = self.gate(x)
        return (self.switch_mlp(x, chosen) * weights[..., None]).sum(axis=-2) + change(x, self.shared_experts(x))

    monkeypatch.setattr(language.Experts, "__call__", call)
    error = off(glm_model(GROUPED)(**case_batch(case)).logits[0], case)
    assert (error < LOGIT) if variant == "right" else (error > MISS)


@pytest.mark.parametrize("experts", [4, 8, 32])
@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("norm", [True, False])
def test_router_is_the_formula(experts: int, group: int, norm: bool) -> None:
    """In NumPy float64, with biases that make every score negative: a masked 0 would then win."""
    config = MoeConfig(48, experts, 2, n_group=experts // group, topk_group=1, norm_topk_prob=norm)
    router = language.Router(config, 16)
    weight, bias = hashed((experts, 16), 1).astype(np.float32), hashed((experts,), 2).astype(np.float32) / 4 - 2
    router.load_weights([("weight", mx.array(weight)), ("e_score_correction_bias", mx.array(bias))])
    x = hashed((1, 20, 16), 3).astype(np.float32)
    scores = 1 / (1 + np.exp(-x.astype(np.float64) @ weight.T))
    by_group = (scores + bias).reshape(20, -1, group)
    best = np.sort(by_group, axis=-1)[..., -2:].sum(axis=-1).argmax(axis=-1)
    chosen, weights = (np.array(a)[0] for a in router(mx.array(x)))
    for row in range(20):
        inside = np.argsort(-by_group[row, best[row]])[:2] + best[row] * group
        assert set(chosen[row].tolist()) == set(inside.tolist())
        right = scores[0, row, chosen[row]]
        assert worst(weights[row], right / right.sum() if norm else right) < 1e-6


def test_router_is_float32_in_a_bfloat16_model() -> None:
    router = language.Router(MoeConfig(48, 8, 2), 16)
    router.load_weights([("weight", mx.array(hashed((8, 16), 1)).astype(mx.bfloat16))], strict=False)
    x = mx.array(hashed((1, 5, 16), 2)).astype(mx.bfloat16)
    chosen, weights = router(x)
    assert weights.dtype == mx.float32
    wide = x.astype(mx.float32) @ router.weight.astype(mx.float32).T
    assert (
        worst(mx.take_along_axis(mx.sigmoid(wide), chosen, -1).sum(-1) * weights[..., 0], _first(wide, chosen)) < 1e-6
    )


def _first(raw: mx.array, chosen: mx.array) -> mx.array:
    return mx.take_along_axis(mx.sigmoid(raw), chosen, axis=-1)[..., 0]


# --- padding, batches, pictures of both kinds ---------------------------------------------------------------------

PROMPTS = [
    prompt(10, 11, (4, 6), 12, 13),
    prompt(14, 15, 16),
    prompt(17, (8, 4), 18, (4, 4), 19, 20, 21),
    prompt(30, (2, 4, 4), 31),
]


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("kind", [DENSE, GROUPED])
def test_padded_batch_is_its_rows(kind: str, left: bool) -> None:
    model = glm_model(kind)
    out = model(**padded(PROMPTS, left=left))
    for row, single in enumerate(PROMPTS):
        length, right = single["input_ids"].shape[1], model(**single)
        own = slice(-length, None) if left else slice(length)
        assert worst(out.logits[row, own], right.logits[0]) < LOGIT
        assert int(out.rope_deltas[row]) == int(right.rope_deltas[0])
    assert np.isfinite(np.array(out.logits)).all()


def test_forgotten_padding_misses() -> None:
    batch = padded(PROMPTS)
    batch.pop("attention_mask")
    right = glm_model()(**PROMPTS[1]).logits[0, -1]
    assert worst(glm_model()(**batch).logits[1, -1], right) > MISS


@pytest.mark.parametrize("kind", [DENSE, MOE])
def test_images_and_videos_in_one_prompt(kind: str) -> None:
    """The reference refuses it; embeddings made by hand are the measure."""
    model, batch = glm_model(kind), prompt(10, (4, 6), 11, (3, 4, 4), 12, (8, 4), 13, seed=3)
    images = mx.concatenate(model.get_image_features(batch["pixel_values"], batch["image_grid_thw"]))
    videos = mx.concatenate(model.get_video_features(batch["pixel_values_videos"], batch["video_grid_thw"]))
    features = {1: iter(images), 2: iter(videos)}
    embeds = model.language_model.model.embed_tokens(batch["input_ids"])[0]
    types = batch["mm_token_type_ids"][0].tolist()
    rows = [next(features[kind]) if kind else row for kind, row in zip(types, embeds, strict=True)]
    given = {name: batch[name] for name in ("mm_token_type_ids", "image_grid_thw", "video_grid_thw")}
    right = model(inputs_embeds=mx.stack(rows)[None], **given)
    out = model(**batch)
    assert worst(out.logits, right.logits) < LOGIT
    assert out.rope_deltas.tolist() == right.rope_deltas.tolist()
    assert next(features[1], None) is None
    assert next(features[2], None) is None


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_peers_row_04_many_pictures(count: int) -> None:
    """Pictures see nothing of each other in the tower: each has the features it has alone."""
    model, sizes = glm_model(), [(4, 6), (8, 4), (2, 2), (6, 10), (4, 4)][:count]
    batch = prompt(10, *[part for size in sizes for part in (size, 11)])
    features = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
    assert [f.shape for f in features] == [(rows * cols // 4, 128) for rows, cols in sizes]
    start = 0
    for (rows, cols), got in zip(sizes, features, strict=True):
        pixels = batch["pixel_values"][start : start + rows * cols]
        assert worst(got, model.get_image_features(pixels, mx.array([[1, rows, cols]]))[0]) < 1e-5
        start += rows * cols
    assert model(**batch).logits.shape == (1, batch["input_ids"].shape[1], 512)


def test_peers_row_09_video_tensors() -> None:
    """Videos act: each frame's pixels change the answer's logits."""
    batch = prompt(10, (3, 4, 4), 11)
    right = glm_model()(**batch).logits[0, -1]
    for frame in range(3):
        pixels = np.array(batch["pixel_values_videos"])
        pixels[16 * frame] += 1
        changed = glm_model()(**batch | {"pixel_values_videos": mx.array(pixels)}).logits[0, -1]
        assert worst(changed, right) > 1e-3


def test_types_follow_from_the_ids_of_one_kind() -> None:
    for batch in (PROMPTS[0], PROMPTS[3]):
        without = {name: value for name, value in batch.items() if name != "mm_token_type_ids"}
        assert worst(glm_model()(**without).logits, glm_model()(**batch).logits) == 0


@pytest.mark.parametrize("kind", MODELS)
def test_batch_cache_of_mlx_lm(kind: str) -> None:
    """Left padding that only the cache knows of, positions included."""
    model, batch = glm_model(kind), padded(PROMPTS)
    missing = (1 - batch.pop("attention_mask")).sum(axis=1).tolist()
    cache = [BatchKVCache(missing) for _ in model.language_model.model.layers]
    out = model(**batch, cache=cache)
    for row, single in enumerate(PROMPTS):
        assert worst(out.logits[row, -1], model(**single).logits[0, -1]) < LOGIT


@pytest.mark.parametrize("make", [KVCache, QuantizedKVCache])
def test_mask_of_a_padded_batch_covers_the_cache(make: Any) -> None:
    model, batch = glm_model(), padded([PROMPTS[1], prompt(10, 11, 12, 13, 14)])
    cache = [make() if make is KVCache else make(group_size=32) for _ in model.language_model.model.layers]
    model(**batch, cache=cache)
    more = mx.array([[40], [41]])
    mask = mx.pad(batch["attention_mask"], [(0, 0), (0, 1)], constant_values=1)
    out = model(more, mask, mx.array([[3], [5]]), cache)
    whole = model(mx.concatenate([batch["input_ids"], more], axis=1), mask)
    assert worst(out.logits[:, -1], whole.logits[:, -1]) < (LOGIT if make is KVCache else 0.1)
    with pytest.raises(InputError, match=r"\(2, 3\); expected \(2, 7\)"):
        model(more, mx.array([[0, 1, 1], [1, 1, 1]]), mx.array([[4], [6]]), cache)


# --- what a call gives ---------------------------------------------------------------------------------------------


def test_loss_is_that_of_the_next_token() -> None:
    model, batch = glm_model(), PROMPTS[0]
    labels = np.where(np.array(batch["mm_token_type_ids"]) > 0, -100, np.array(batch["input_ids"]))
    out = model(**batch, labels=mx.array(labels))
    logits = np.array(out.logits, dtype=np.float64)[0, :-1]
    shares = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    right = [-row[label] for row, label in zip(shares, labels[0, 1:], strict=True) if label != -100]
    assert abs(float(out.loss) - np.mean(right)) < 1e-5
    assert model(**batch).loss is None
    with pytest.raises(InputError, match="labels, or logits_to_keep"):
        model(**batch, labels=mx.array(labels), logits_to_keep=1)


def test_logits_to_keep() -> None:
    model, batch = glm_model(), PROMPTS[2]
    whole = model(**batch).logits
    assert worst(model(**batch, logits_to_keep=3).logits, whole[:, -3:]) < 1e-5
    assert worst(model(**batch, logits_to_keep=mx.array([0, 5])).logits, whole[:, mx.array([0, 5])]) < 1e-5


@pytest.mark.parametrize("kind", [DENSE, MOE])
def test_hidden_states_and_attentions(kind: str) -> None:
    model, batch = glm_model(kind), padded(PROMPTS)
    config = model.config.text_config
    out = model(**batch, output_hidden_states=True, output_attentions=True)
    heads, (rows, length) = config.num_attention_heads, batch["input_ids"].shape
    assert [state.shape for state in out.hidden_states] == [(rows, length, 128)] * (config.num_hidden_layers + 1)
    assert [a.shape for a in out.attentions] == [(rows, heads, length, length)] * config.num_hidden_layers
    assert worst(model.language_model.logits(out.hidden_states[-1]), out.logits) < 1e-5
    weights = np.array(out.attentions[-1])
    assert worst(weights.sum(axis=-1), np.ones(weights.shape[:-1])) < 1e-5
    assert np.triu(weights, 1).max() == 0
    assert weights[1, :, -1, : length - 3].max() == 0  # the second row has three tokens, the rest is padding
    assert worst(out.logits, model(**batch).logits) < LOGIT


def test_attentions_need_a_float_cache() -> None:
    cache = [QuantizedKVCache(group_size=32) for _ in range(3)]
    with pytest.raises(InputError, match="quantised cache"):
        glm_model()(**PROMPTS[1], cache=cache, output_attentions=True)
    cache = [KVCache() for _ in range(3)]
    glm_model()(**PROMPTS[1], cache=cache)
    out = glm_model()(mx.array([[9, 8]]), position_ids=mx.array([[3, 4]]), cache=cache, output_attentions=True)
    weights = np.array(out.attentions[0])
    assert weights.shape[-2:] == (2, 5)
    assert weights[..., 0, 4].max() == 0 < weights[..., 0, 3].min()


@pytest.mark.parametrize("kind", [DENSE, MOE])
@pytest.mark.parametrize("architecture", ["Glm46VModel", "Glm4vModel", "Glm4vMoeModel"])
def test_model_without_a_head(kind: str, architecture: str) -> None:
    """Its files have no `model.` before the names."""
    bare, model = glm_model(kind, architecture), glm_model(kind)
    out = bare(**PROMPTS[2], output_hidden_states=True)
    right = model(**PROMPTS[2], output_hidden_states=True)
    assert worst(out.last_hidden_state, right.hidden_states[-1]) == 0
    assert out.rope_deltas.tolist() == right.rope_deltas.tolist()
    assert worst(out.hidden_states[1], right.hidden_states[1]) == 0
    assert len(bare.get_image_features(PROMPTS[2]["pixel_values"], PROMPTS[2]["image_grid_thw"])) == 2
    assert len(bare.get_video_features(PROMPTS[3]["pixel_values_videos"], PROMPTS[3]["video_grid_thw"])) == 1
    assert "language_model.lm_head.weight" not in dict(tree_flatten(bare.parameters()))


def test_what_a_headless_model_gives() -> None:
    """The fields of transformers' class of that name; what needs a head is refused."""
    bare = glm_model(DENSE, "Glm4vModel")
    out = bare(**PROMPTS[1])
    names = {field.name for field in dataclasses.fields(out)}
    assert names == {"last_hidden_state", "hidden_states", "attentions", "rope_deltas"}
    assert {"loss", "logits"} <= {field.name for field in dataclasses.fields(glm_model()(**PROMPTS[1]))}
    for options in ({"labels": PROMPTS[1]["input_ids"]}, {"logits_to_keep": 1}, {"logits_to_keep": mx.array([0])}):
        with pytest.raises(InputError, match="has no head"):
            bare(**PROMPTS[1], **options)
    with pytest.raises(ModalityError, match="no head"):
        bare.request(numpy_batch(PROMPTS[1]))


def test_what_may_be_float16() -> None:
    model = glm_model(MOE)
    exact = [name for name, _ in tree_flatten(model.parameters()) if not model.cast_predicate(name)]
    assert exact == [
        f"language_model.model.layers.{layer}.mlp.gate.{name}"
        for layer in (1, 2)
        for name in ("weight", "e_score_correction_bias")
    ]
    assert not model.cast_predicate("language_model.model.layers.1.mlp.gate")


@pytest.mark.usefixtures("without_kernels")
@TRACES
def test_nothing_in_a_run_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """While MLX traces a function, no array that depends on its arguments can be read. What is computed once, features
    of images, frequencies and tables of positions, is made here before."""
    model = glm_model()
    image, text = request_of(model, PROMPTS[0]), request_of(model, PROMPTS[1])
    left = request_of(model, padded([PROMPTS[1], prompt(10, 11, 12, 13)]))
    warm, more = make_prompt_cache(image), mx.array([[5]])
    image(PROMPTS[0]["input_ids"], warm)
    image(more, warm)
    model.vision_tower(PROMPTS[0]["pixel_values"], [(1, 4, 6)])

    def refuse(*_: Any) -> Any:
        raise AssertionError("waits for the device")

    for room in ("model", "inputs", "vision"):
        monkeypatch.setattr(f"mlx_mm.models.glm4v.{room}.read_whole", refuse)
    monkeypatch.setattr(mx, "eval", refuse)

    def traced(function: Callable[..., mx.array], *arrays: mx.array) -> None:
        assert mx.compile(function)(*arrays).size > 0

    def two_pieces(request: Any, cache: Any) -> Callable[..., mx.array]:
        def run(ids: mx.array, more: mx.array) -> mx.array:
            request(ids, cache)
            return request(more, cache)

        return run

    traced(two_pieces(image, make_prompt_cache(image)), PROMPTS[0]["input_ids"], more)
    traced(two_pieces(text, make_prompt_cache(text)), PROMPTS[1]["input_ids"], more)
    batched = [BatchKVCache(left.left_padding) for _ in left.layers]
    traced(two_pieces(left, batched), mx.array([[3, 14, 15, 16], [10, 11, 12, 13]]), mx.array([[5], [6]]))
    positions = mx.array([[0, 1, 2]])
    traced(lambda ids, mask: model(ids, mask, positions).logits, PROMPTS[1]["input_ids"], mx.array([[1, 1, 0]]))
    traced(lambda pixels: model.vision_tower(pixels, [(1, 4, 6)]).pooler_output, PROMPTS[0]["pixel_values"])
    with pytest.raises(ValueError, match="not allowed"):  # as it is where something is read
        traced(lambda ids: ids + ids.max().item(), more)


@pytest.mark.parametrize("architecture", ["Glm46VModel", "Glm46VForConditionalGeneration"])
def test_positions_on_their_own(architecture: str) -> None:
    model, batch = glm_model(DENSE, architecture), padded(PROMPTS)
    given = {name: value for name, value in batch.items() if not name.startswith("pixel")}
    positions, deltas = model.get_rope_index(**given)
    assert positions.shape == (3, *batch["input_ids"].shape)
    assert deltas.tolist() == model(**batch).rope_deltas.tolist()
    right = model(**batch, output_hidden_states=True).hidden_states[-1]
    got = model(**batch, position_ids=positions, output_hidden_states=True).hidden_states[-1]
    assert worst(got, right) == 0


def test_tied_head() -> None:
    model = glm_model(DENSE, tie_word_embeddings=True)
    assert "lm_head" not in model.language_model
    hidden = model(**PROMPTS[1], output_hidden_states=True).hidden_states[-1]
    right = np.array(hidden) @ np.array(model.language_model.model.embed_tokens.weight).T
    assert worst(model(**PROMPTS[1]).logits, right) < 1e-3


def test_bfloat16_keeps_its_dtype() -> None:
    """Of the dense model: on a CPU, MLX's products of experts know float32 alone, which `load` chooses there."""
    model = own_copy(DENSE)
    model.set_dtype(mx.bfloat16)
    out = model(**PROMPTS[0], output_hidden_states=True)
    assert {state.dtype for state in (out.logits, *out.hidden_states)} == {mx.bfloat16}
    assert worst(out.logits.astype(mx.float32), glm_model()(**PROMPTS[0]).logits) < 0.5


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("kind", MODELS)
def test_quantised(kind: str) -> None:
    """Against a model with the rounded weights as floats. Few rows go through MLX's quantised product on a CPU, many
    through floats."""
    model, right = own_copy(kind), own_copy(kind)

    def choose(path: str, module: Any) -> bool:
        fits = hasattr(module, "to_quantized") and model.quant_predicate(path, module)
        return fits and module.weight.shape[-1] % 32 == 0

    nn.quantize(model, group_size=32, bits=4, class_predicate=choose)
    quantised = [path for path, module in model.named_modules() if "scales" in module]
    assert {"language_model.model.layers.1.self_attn.q_proj", "vision_tower.blocks.0.attn.qkv"} <= set(quantised)
    assert not [path for path in quantised if path.endswith(("mlp.gate", "downsample", "patch_embed.proj"))]
    ours, floats = dict(model.named_modules()), dict(right.named_modules())
    for path in quantised:
        q = ours[path]
        floats[path].weight = mx.dequantize(q.weight, q.scales, q.biases, group_size=32, bits=4)
    for batch in (PROMPTS[1], PROMPTS[2], padded(PROMPTS)):
        assert worst(model(**batch).logits[:, -1], right(**batch).logits[:, -1]) < 1e-4
    assert answer(model, PROMPTS[2]) == answer(right, PROMPTS[2])


# --- names of files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DENSE, MOE])
def test_names_and_layouts(kind: str) -> None:
    model, weights = glm_model(kind), glm_weights(glm_config(kind))
    names = sanitized(model, weights)
    assert set(names) == set(dict(tree_flatten(model.parameters())))
    patch = names["vision_tower.patch_embed.proj.weight"]
    assert worst(patch, weights["model.visual.patch_embed.proj.weight"].transpose(0, 2, 3, 4, 1)) == 0
    assert names["vision_tower.downsample.weight"].shape == (128, 2, 2, 64)
    assert "language_model.model.embed_tokens.weight" in names
    assert "language_model.lm_head.weight" in names
    if kind == MOE:
        stacked = model.sanitize(to_mx(weights))["language_model.model.layers.1.mlp.switch_mlp.up_proj.weight"]
        assert isinstance(stacked, Rows)
        assert stacked.shape == (8, 48, 128)
        assert len(stacked.blocks) == 8
        for i in (0, 7):
            right = weights[f"model.language_model.layers.1.mlp.experts.{i}.up_proj.weight"]
            assert worst(stacked.join()[i], right) == 0


def test_experts_of_more_than_one_digit_keep_their_order() -> None:
    model = glm_model(MOE)
    names = [f"model.language_model.layers.1.mlp.experts.{i}.up_proj.weight" for i in (10, 2, 0, 11, 1)]
    found = model.sanitize({name: mx.full((1, 2), float(name.split(".")[6])) for name in names})
    (stacked,) = found.values()
    assert stacked.join()[:, 0, 0].tolist() == [0, 1, 2, 10, 11]


def test_what_is_not_ours_is_dropped() -> None:
    model, weights = glm_model(DENSE), to_mx(glm_weights(glm_config()))
    extra = {
        "model.language_model.layers.3.eh_proj.weight": mx.zeros((4, 4)),
        "model.language_model.layers.3.mlp.experts.0.up_proj.weight": mx.zeros((4, 4)),
        "model.language_model.rotary_emb.inv_freq": mx.zeros((8,)),
        "model.visual.rotary_pos_emb.inv_freq": mx.zeros((8,)),
    }
    assert model.sanitize(weights | extra).keys() == model.sanitize(weights).keys()
    assert "language_model.model.layers.30.norm" in model.sanitize({"model.language_model.layers.30.norm": mx.zeros(1)})


def test_state_of_a_live_model() -> None:
    """transformers 5 stacks experts in memory, with gates and the others in one tensor."""
    model, weights = glm_model(MOE), glm_weights(glm_config(MOE))
    live = {name: value for name, value in weights.items() if ".experts." not in name}
    for layer in (1, 2):
        mlp = f"model.language_model.layers.{layer}.mlp.experts"
        parts = {p: np.stack([weights[f"{mlp}.{i}.{p}_proj.weight"] for i in range(8)]) for p in ("gate", "up", "down")}
        live[f"{mlp}.gate_up_proj"] = np.concatenate([parts["gate"], parts["up"]], axis=1)
        live[f"{mlp}.down_proj"] = parts["down"]
    right, got = sanitized(model, weights), sanitized(model, live)
    assert got.keys() == right.keys()
    assert max(worst(got[name], right[name]) for name in got) == 0


# --- errors --------------------------------------------------------------------------------------------------------


def changed(batch: dict[str, mx.array], **new: Any) -> dict[str, mx.array]:
    return {name: value for name, value in (batch | new).items() if value is not None}


BOTH = prompt(10, (4, 4), 11, (1, 4, 4), 12)
WRONG_BATCHES = [
    ({}, "exactly one of input_ids"),
    (changed(PROMPTS[1], inputs_embeds=mx.zeros((1, 3, 128))), "exactly one of input_ids"),
    (changed(PROMPTS[0], image_grid_thw=None), "image pixels without their grids"),
    (changed(BOTH, mm_token_type_ids=None), "images and videos but no mm_token_type_ids"),
    (
        changed(PROMPTS[0], pixel_values=mx.array(glm_pixels(16)), image_grid_thw=mx.array([[1, 4, 4]])),
        "Image features and image tokens do not match: tokens 6, features 4",
    ),
    (
        changed(PROMPTS[1], pixel_values=mx.array(glm_pixels(16)), image_grid_thw=mx.array([[1, 4, 4]])),
        "do not match: tokens 0, features 4",
    ),
    (changed(PROMPTS[0], pixel_values=None), "do not match: tokens 6, features 0"),
    (changed(PROMPTS[0], pixel_values=None, image_grid_thw=None), "do not match: tokens 6, features 0"),
    (changed(PROMPTS[3], mm_token_type_ids=PROMPTS[3]["mm_token_type_ids"] // 2), "tokens 8, features 0"),
    (changed(PROMPTS[0], pixel_values=mx.array(glm_pixels(20))), "24 patches"),
    (changed(PROMPTS[1], attention_mask=mx.array([[0, 1]])), "differ in shape"),
]


@pytest.mark.parametrize(("batch", "message"), WRONG_BATCHES)
def test_errors(batch: dict[str, mx.array], message: str) -> None:
    with pytest.raises(InputError, match=message):
        glm_model()(**batch)


def test_pixels_beside_embeddings_need_types() -> None:
    batch = changed(PROMPTS[0], input_ids=None, mm_token_type_ids=None)
    with pytest.raises(InputError, match="inputs_embeds and pixels but no mm_token_type_ids"):
        glm_model()(inputs_embeds=mx.zeros((1, 12, 128)), **batch)


def test_positions_after_a_cache_are_asked_for() -> None:
    model = glm_model()
    cache = make_prompt_cache(model.language_model.model)
    model(**PROMPTS[0], cache=cache)
    with pytest.raises(InputError, match="position_ids, or use a Request"):
        model(mx.array([[5]]), cache=cache)


def test_nothing_is_kept_on_the_model() -> None:
    model = glm_model()
    before = copy.copy(vars(model)), copy.copy(vars(model.language_model)), list(tree_flatten(model.parameters()))
    model(**PROMPTS[2])
    answer(model, PROMPTS[0])
    after = copy.copy(vars(model)), copy.copy(vars(model.language_model)), list(tree_flatten(model.parameters()))
    assert before[:2] == after[:2]
    assert [name for name, _ in before[2]] == [name for name, _ in after[2]]
