"""SigLIP FixRes and SigLIP 2 NaFlex against golden numbers, and what must not change them."""

from __future__ import annotations

from typing import Any

import comparing
import mlx.core as mx
import numpy as np
import pytest
import towers_numpy as reading
from comparing import build, close, full_config, same_direction, to_mx
from tiny import (
    classification_shapes,
    golden,
    golden_weights,
    hashed,
    siglip_shapes,
    tiny_batch,
    tiny_config,
    tiny_weights,
)

from mlx_mm.backend import blas, device
from mlx_mm.errors import MlxMmError

FIXRES, NAFLEX = "siglip_fixres", "siglip2_naflex"
SPECS = golden("siglip2_golden_forward")
LABELS = np.array([0, 2, 1])

EMBEDDING, LOGIT, STATE, SHARE = 1e-5, 1e-4, 2e-5, 1e-6
TOLERANCE = {
    "text_embeds": EMBEDDING,
    "image_embeds": EMBEDDING,
    "text_pooler_output": STATE,
    "vision_pooler_output": STATE,
    "text_last_hidden_state_row0": STATE,
    "vision_last_hidden_state_row0": STATE,
    "vision_last_hidden_state_valid_rows": 1e-4,  # each value is the sum of a row
    "vision_last_hidden_state_padded_rows_rowsums": 1e-4,
    "resized_position_embeddings_sample0": SHARE,
    "resized_position_embeddings_sample2": SHARE,
    "text_attention_layer0_sample1_head0": SHARE,
    "vision_attention_layer0_sample2_head0_row0": SHARE,
    "interpolated_pooler_output": STATE,
}


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> None:
    """The matrix library that `load` chooses, whichever test runs first."""
    blas.use_fast_blas()


def inputs(variant: str) -> dict[str, np.ndarray]:
    given = SPECS[variant]["inputs"]
    ids = np.array(given["input_ids"])
    if variant == FIXRES:
        pixels = hashed((3, 3, 14, 14), 1000).transpose(0, 2, 3, 1)
        return {"input_ids": ids, "pixel_values": pixels.astype(np.float32)}
    mask = np.array(given["pixel_attention_mask"])
    pixels = hashed((3, 18, 12), 2000) * mask[..., None]
    shapes = np.array(given["spatial_shapes"])
    return {
        "input_ids": ids,
        "pixel_values": pixels.astype(np.float32),
        "pixel_attention_mask": mask,
        "spatial_shapes": shapes,
    }


def interpolated_pixels() -> np.ndarray:
    return hashed((2, 3, 16, 20), 1001).transpose(0, 2, 3, 1).astype(np.float32)


def weights_of(variant: str) -> dict[str, np.ndarray]:
    spec = SPECS[variant]
    return golden_weights([(name, tuple(shape)) for name, shape in spec["tensors"]], spec["special"])


def classifier_of(variant: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    spec = SPECS[variant]
    name = "SiglipForImageClassification" if variant == FIXRES else "Siglip2ForImageClassification"
    labels = {str(i): f"label {i}" for i in range(3)}
    config = full_config(spec, architectures=[name], id2label=labels)
    return config, golden_weights(classification_shapes(config, 3))


# --- everything the golden files hold, taken from the model and from the NumPy reading --------------------------


def positions_in(states: Any, weights: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> np.ndarray:
    """What was added to the patch embeddings: the resized position tables (B, P, D)."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    patches = reading.patch_embeddings(w, batch["pixel_values"], 2, reading.NOTHING)
    return np.array(states[0], dtype=np.float64) - patches


def observe(
    variant: str, out: dict[str, Any], text: dict[str, Any], vision: dict[str, Any], weights: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Name every observed array as the golden file does."""
    seen = dict(out)
    seen["text_pooler_output"] = text["pooler_output"]
    seen["vision_pooler_output"] = vision["pooler_output"]
    for i in range(3):
        seen[f"vision_hidden_states.{i}"] = vision["hidden_states"][i]
        seen[f"text_hidden_states.{i}"] = text["hidden_states"][i]
    if variant == FIXRES:
        seen["vision_last_hidden_state_row0"] = vision["last_hidden_state"][0]
        seen["text_last_hidden_state_row0"] = text["last_hidden_state"][0]
        seen["text_attention_layer0_sample1_head0"] = text["attentions"][0][1, 0]
        for i in range(2):
            seen[f"vision_attentions.{i}"] = vision["attentions"][i]
        return seen
    batch = inputs(NAFLEX)
    sums = np.array(vision["last_hidden_state"], dtype=np.float64).sum(-1)
    real = batch["pixel_attention_mask"].astype(bool)
    seen["vision_last_hidden_state_valid_rows"] = np.concatenate([s[m] for s, m in zip(sums, real, strict=True)])
    seen["vision_last_hidden_state_padded_rows_rowsums"] = np.concatenate(
        [s[~m] for s, m in zip(sums, real, strict=True)]
    )
    positions = positions_in(vision["hidden_states"], weights, batch)
    seen["resized_position_embeddings_sample0"] = positions[0]
    seen["resized_position_embeddings_sample2"] = positions[2]
    seen["vision_attention_layer0_sample2_head0_row0"] = vision["attentions"][0][2, 0, 0]
    return seen


def expected(variant: str) -> dict[str, Any]:
    """Every golden value under the names of `observe`; summaries stay dictionaries."""
    spec, out = SPECS[variant], {}
    for key, value in spec.items():
        if key in ("model_type", "config", "special", "tensors", "inputs"):
            continue
        if key == "with_attention_mask":
            out["masked_logits_per_text"] = value["logits_per_text"]
        elif key == "interpolate_pos_encoding":
            out["interpolated_pooler_output"] = value["pooler_output"]
            out["interpolated_last_hidden_state"] = value["last_hidden_state"]
        elif key == "image_classification":
            out["classifier_logits"] = value["logits"]
            out["classifier_loss"] = value["loss_labels_0_2_1"]
        elif isinstance(value, list) and isinstance(value[0], dict):
            out |= {f"{key}.{i}": summary for i, summary in enumerate(value)}
        elif "rows" in key and isinstance(value, list) and "row0" not in key:
            out[key] = [number for row in value for number in row]  # ragged
        else:
            out[key] = value
    return out


def as_numpy(output: Any) -> dict[str, Any]:
    """A tower output dataclass -> dict."""
    return {
        "last_hidden_state": np.array(output.last_hidden_state),
        "pooler_output": np.array(output.pooler_output),
        "hidden_states": [np.array(x) for x in output.hidden_states],
        "attentions": [np.array(x) for x in output.attentions],
    }


def observe_model(variant: str) -> dict[str, Any]:
    weights, batch = weights_of(variant), inputs(variant)
    model = build(full_config(SPECS[variant]), weights)
    out = model(**to_mx(batch), return_loss=True, output_hidden_states=True, output_attentions=True)
    fields = ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
    seen = observe(
        variant,
        {name: np.array(getattr(out, name)) for name in fields},
        as_numpy(out.text_model_output),
        as_numpy(out.vision_model_output),
        weights,
    )
    if variant == FIXRES:
        mask = SPECS[variant]["with_attention_mask"]["attention_mask"]
        seen["masked_logits_per_text"] = model(**to_mx(batch), attention_mask=mx.array(mask)).logits_per_text
        large = model.vision_model(mx.array(interpolated_pixels()), interpolate_pos_encoding=True)
        seen["interpolated_pooler_output"] = large.pooler_output
        seen["interpolated_last_hidden_state"] = large.last_hidden_state
    model = build(*classifier_of(variant))
    images = {name: value for name, value in to_mx(batch).items() if name != "input_ids"}
    out = model(**images, labels=mx.array(LABELS))
    seen |= {"classifier_logits": out.logits, "classifier_loss": out.loss}
    return seen


def observe_reading(variant: str, *mistakes: str) -> dict[str, Any]:
    wrong, spec, batch = frozenset(mistakes), SPECS[variant], inputs(variant)
    w = {name: value.astype(np.float64) for name, value in weights_of(variant).items()}
    config = full_config(spec)
    mask, spatial = batch.get("pixel_attention_mask"), batch.get("spatial_shapes")
    text = reading.text_tower(w, config, batch["input_ids"], None, wrong)
    vision = reading.vision_tower(w, config, batch["pixel_values"], mask, spatial, wrong=wrong)
    out = reading.joint(w, text["pooler_output"], vision["pooler_output"], wrong)
    seen = observe(variant, out, text, vision, w)
    if variant == FIXRES:
        masked = np.array(spec["with_attention_mask"]["attention_mask"])
        masked_text = reading.text_tower(w, config, batch["input_ids"], masked, wrong)
        logits = reading.joint(w, masked_text["pooler_output"], vision["pooler_output"], wrong)
        seen["masked_logits_per_text"] = logits["logits_per_text"]
        large = reading.vision_tower(w, config, interpolated_pixels(), interpolate=True, wrong=wrong)
        seen["interpolated_pooler_output"] = large["pooler_output"]
        seen["interpolated_last_hidden_state"] = large["last_hidden_state"]
    config, w = classifier_of(variant)
    w = {name: value.astype(np.float64) for name, value in w.items()}
    vision = reading.vision_tower(w, config, batch["pixel_values"], mask, spatial, wrong=wrong)
    logits = reading.classify(w, vision, mask, wrong)
    return seen | {"classifier_logits": logits, "classifier_loss": reading.cross_entropy(logits, LABELS)}


def excess(observed: dict[str, Any], variant: str) -> dict[str, float]:
    """For every golden value: the largest difference divided by its tolerance (so 1 is the limit)."""
    return comparing.excess(observed, expected(variant), TOLERANCE, state=STATE, rest=LOGIT)


@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_formula_weights_have_the_checkpoints_names(variant: str) -> None:
    spec = SPECS[variant]
    named = sorted((name, list(shape)) for name, shape in siglip_shapes(full_config(spec)))
    assert named == sorted((name, shape) for name, shape in spec["tensors"])


@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_model_gives_every_golden_number(variant: str) -> None:
    over = {name: x for name, x in excess(observe_model(variant), variant).items() if x > 1}
    assert not over, f"difference as a multiple of the tolerance: {over}"


@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_gpu_arithmetic_gives_every_golden_number(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU other functions compute attention and GELU; MLX runs them on a CPU as well."""
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    over = {name: x for name, x in excess(observe_model(variant), variant).items() if x > 1}
    assert not over, f"difference as a multiple of the tolerance: {over}"


@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_plain_reading_gives_every_golden_number(variant: str) -> None:
    assert max(excess(observe_reading(variant), variant).values()) <= 1


BOTH = [
    "erf_gelu",
    "quick_gelu",
    "eps_1e-5",
    "causal_text",
    "pool_first",
    "pool_at_eos",
    "no_text_head_bias",
    "channel_first_patches",
    "no_patch_bias",
    "no_post_layernorm",
    "probe_residual",
    "in_proj_order_kqv",
    "scale_not_exponentiated",
    "no_logit_bias",
    "softmax_loss",
    "loss_mean_of_all",
    "classifier_on_pooled",
]
ONLY_FIXRES = ["no_mask", "mask_added_as_bias", "bicubic_a_half", "align_corners", "zero_border", "swapped_axes"]
ONLY_NAFLEX = [
    "no_mask",
    "no_head_mask",
    "mask_added_as_bias",
    "no_antialias",
    "align_corners",
    "swapped_axes",
    "bicubic_positions",
    "unmasked_mean",
]
MISTAKES = [(v, m) for v in (FIXRES, NAFLEX) for m in BOTH + (ONLY_FIXRES if v == FIXRES else ONLY_NAFLEX)]


@pytest.mark.parametrize(("variant", "mistake"), MISTAKES)
def test_known_mistake_misses_the_tolerance(variant: str, mistake: str) -> None:
    assert max(excess(observe_reading(variant, mistake), variant).values()) > 2


# --- what must not change a result ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["siglip", "siglip2"])
def tiny(request: pytest.FixtureRequest) -> tuple[Any, dict[str, mx.array]]:
    """A tiny model with a batch of three texts and three images."""
    config = tiny_config(request.param)
    return build(config, tiny_weights(config)), to_mx(tiny_batch(request.param))


@pytest.fixture(scope="module")
def naflex() -> tuple[Any, dict[str, mx.array]]:
    config = tiny_config("siglip2")
    batch = to_mx(tiny_batch("siglip2"))
    del batch["input_ids"]
    return build(config, tiny_weights(config)), batch


def images_of(batch: dict[str, mx.array]) -> dict[str, mx.array]:
    return {name: value for name, value in batch.items() if name != "input_ids"}


def test_content_of_padded_patches_changes_nothing(naflex: tuple[Any, dict[str, mx.array]]) -> None:
    model, batch = naflex
    mask = batch["pixel_attention_mask"][..., None]
    noisy = mx.where(mask > 0, batch["pixel_values"], 1000.0 * mx.array(hashed((3, 18, 48), 9), mx.float32))
    clean = model.get_image_features(**batch)
    assert close(model.get_image_features(**{**batch, "pixel_values": noisy}), clean, 0.0)


def test_padding_to_more_patches_changes_nothing(naflex: tuple[Any, dict[str, mx.array]]) -> None:
    model, batch = naflex
    wider = dict(batch)
    wider["pixel_values"] = mx.pad(batch["pixel_values"], [(0, 0), (0, 13), (0, 0)])
    wider["pixel_attention_mask"] = mx.pad(batch["pixel_attention_mask"], [(0, 0), (0, 13)])
    assert same_direction(model.get_image_features(**wider), model.get_image_features(**batch))


@pytest.mark.parametrize("i", range(3))
def test_unpadded_image_needs_no_mask(naflex: tuple[Any, dict[str, mx.array]], i: int) -> None:
    model, batch = naflex
    n = int(batch["pixel_attention_mask"][i].sum())
    alone = model.get_image_features(
        pixel_values=batch["pixel_values"][i : i + 1, :n], spatial_shapes=batch["spatial_shapes"][i : i + 1]
    )
    assert same_direction(alone[0], model.get_image_features(**batch)[i])


@pytest.mark.parametrize("dtype", [mx.bool_, mx.int32, mx.int64, mx.uint8, mx.float32])
def test_mask_of_any_dtype_means_the_same(naflex: tuple[Any, dict[str, mx.array]], dtype: mx.Dtype) -> None:
    model, batch = naflex
    other = {**batch, "pixel_attention_mask": batch["pixel_attention_mask"].astype(dtype)}
    assert close(model.get_image_features(**other), model.get_image_features(**batch), 0.0)


def test_order_of_the_batch_does_not_matter(naflex: tuple[Any, dict[str, mx.array]]) -> None:
    model, batch = naflex
    order = mx.array([2, 0, 1])
    shuffled = model.get_image_features(**{name: value[order] for name, value in batch.items()})
    assert same_direction(shuffled, model.get_image_features(**batch)[order])


def test_text_mask_hides_the_padding(tiny: tuple[Any, dict[str, mx.array]]) -> None:
    model, batch = tiny
    ids, mask = np.array(batch["input_ids"]), np.array(batch["input_ids"]) != 0
    config = tiny_config("siglip2" if "spatial_shapes" in batch else "siglip")
    w = {name: value.astype(np.float64) for name, value in tiny_weights(config).items()}
    right = reading.text_tower(w, config, ids, mask)["pooler_output"]
    for dtype in (mx.int32, mx.bool_, mx.float32):
        got = model.get_text_features(input_ids=batch["input_ids"], attention_mask=mx.array(mask).astype(dtype))
        assert close(got, right, 2e-5)
    assert not close(model.get_text_features(input_ids=batch["input_ids"]), right, 1e-3)


def test_explicit_position_ids(tiny: tuple[Any, dict[str, mx.array]]) -> None:
    model, batch = tiny
    ids = batch["input_ids"]
    plain = model.get_text_features(input_ids=ids)
    assert close(model.get_text_features(input_ids=ids, position_ids=mx.arange(16)[None]), plain, 0.0)
    assert not close(model.get_text_features(input_ids=ids, position_ids=mx.arange(16)[None, ::-1]), plain, 1e-3)


# --- the surface ------------------------------------------------------------------------------------------------


def test_features_are_the_pooled_vectors_before_normalising(tiny: tuple[Any, dict[str, mx.array]]) -> None:
    model, batch = tiny
    both = model(**batch)
    text = model.get_text_features(input_ids=batch["input_ids"])
    image = model.get_image_features(**images_of(batch))
    assert close(text, both.text_model_output.pooler_output, 0.0)
    assert close(image, both.vision_model_output.pooler_output, 0.0)
    assert close(model.text_model(batch["input_ids"]).pooler_output, text, 0.0)
    assert close(model.vision_model(**images_of(batch)).pooler_output, image, 0.0)
    for raw, unit in ((text, both.text_embeds), (image, both.image_embeds)):
        norm = np.linalg.norm(np.array(raw), axis=-1, keepdims=True)
        assert close(np.array(raw) / norm, unit, 1e-6)
        assert np.abs(norm - 1).max() > 0.1


def test_score_is_the_sigmoid_of_the_logit(tiny: tuple[Any, dict[str, mx.array]]) -> None:
    model, batch = tiny
    assert model.modalities == ("text", "image")
    assert model.prompt_template == "This is a photo of {}."
    out = model(**batch)
    scores = model.score(out.image_embeds, out.text_embeds)
    assert close(scores, 1 / (1 + np.exp(-np.array(out.logits_per_image))), 1e-6)


def test_text_longer_than_the_table_is_refused(tiny: tuple[Any, dict[str, mx.array]]) -> None:
    with pytest.raises(MlxMmError, match="16"):
        tiny[0].get_text_features(input_ids=mx.ones((1, 17), mx.int32))


@pytest.fixture(scope="module")
def fixres() -> Any:
    config = tiny_config("siglip")
    return build(config, tiny_weights(config))


def test_image_smaller_than_a_patch_is_refused(fixres: Any) -> None:
    with pytest.raises(MlxMmError, match="3×9 pixels; expected at least one patch"):
        fixres.get_image_features(pixel_values=mx.zeros((1, 3, 9, 3)), interpolate_pos_encoding=True)


def test_image_of_another_size_is_refused(fixres: Any) -> None:
    with pytest.raises(MlxMmError, match="interpolate_pos_encoding"):
        fixres.get_image_features(pixel_values=mx.zeros((1, 40, 24, 3)))


def test_channels_first_image_is_refused(fixres: Any) -> None:
    with pytest.raises(MlxMmError):
        fixres.get_image_features(pixel_values=mx.zeros((1, 3, 30, 30)))


@pytest.mark.parametrize("size", [(30, 30), (24, 24), (40, 24), (24, 40), (8, 70), (64, 64), (17, 9)])
def test_interpolated_sizes(fixres: Any, size: tuple[int, int]) -> None:
    config = tiny_config("siglip")
    w = {name: value.astype(np.float64) for name, value in tiny_weights(config).items()}
    pixels = hashed((1, *size, 3), 77).astype(np.float32)
    got = fixres.get_image_features(pixel_values=mx.array(pixels), interpolate_pos_encoding=True)
    right = reading.vision_tower(w, config, pixels, interpolate=True)["pooler_output"]
    assert close(got, right, 2e-5)


@pytest.mark.parametrize("shape", [[3, 7], [5, 4], [0, 5], [-1, 3]])
def test_shapes_that_do_not_fit_are_refused(naflex: tuple[Any, dict[str, mx.array]], shape: list[int]) -> None:
    model, batch = naflex
    shapes = mx.array([shape, [4, 4], [1, 7]])
    with pytest.raises(MlxMmError, match="spatial_shapes"):
        model.get_image_features(**{**batch, "spatial_shapes": shapes})


def test_naflex_without_shapes_is_refused(naflex: tuple[Any, dict[str, mx.array]]) -> None:
    model, batch = naflex
    with pytest.raises(MlxMmError, match="spatial_shapes"):
        model.get_image_features(pixel_values=batch["pixel_values"])


@pytest.mark.parametrize("shape", [[1, 1], [1, 16], [18, 1], [2, 9], [4, 4]])
def test_every_aspect_ratio(naflex: tuple[Any, dict[str, mx.array]], shape: list[int]) -> None:
    model, _ = naflex
    config = tiny_config("siglip2")
    w = {name: value.astype(np.float64) for name, value in tiny_weights(config).items()}
    n = shape[0] * shape[1]
    pixels = hashed((1, n, 48), 78).astype(np.float32)
    got = model.get_image_features(pixel_values=mx.array(pixels), spatial_shapes=mx.array([shape]))
    right = reading.vision_tower(w, config, pixels, None, np.array([shape]))["pooler_output"]
    assert close(got, right, 2e-5)


# --- classification losses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_classification_losses(variant: str) -> None:
    config, weights = classifier_of(variant)
    model, images = build(config, weights), images_of(to_mx(inputs(variant)))
    logits = np.array(model(**images).logits, dtype=np.float64)
    assert model(**images).loss is None
    many = (hashed((3, 3), 5) > 0).astype(np.float32)
    right = np.mean(np.maximum(logits, 0) - logits * many + np.log1p(np.exp(-np.abs(logits))))
    assert close(model(**images, labels=mx.array(many)).loss, right, 1e-5)
    out = model(**images, labels=mx.array(LABELS), output_hidden_states=True, output_attentions=True)
    assert close(out.loss, SPECS[variant]["image_classification"]["loss_labels_0_2_1"], 1e-5)
    assert len(out.hidden_states) == 3
    assert len(out.attentions) == 2


def test_classification_with_one_label_is_regression() -> None:
    config, _ = classifier_of(FIXRES)
    config = {**config, "id2label": {"0": "score"}}
    model = build(config, golden_weights(classification_shapes(config, 1)))
    images, targets = images_of(to_mx(inputs(FIXRES))), np.array([0.3, -1.0, 2.0], np.float32)
    out = model(**images, labels=mx.array(targets))
    assert out.logits.shape == (3, 1)
    assert close(out.loss, np.mean((np.array(out.logits)[:, 0] - targets) ** 2), 1e-5)


def test_vision_tower_without_pooling_head() -> None:
    config = tiny_config("siglip")
    config["vision_config"]["vision_use_head"] = False
    config["architectures"] = ["SiglipForImageClassification"]
    config["num_labels"] = 2
    model = build(config, golden_weights(classification_shapes(config, 2)))
    pixels = mx.array(tiny_batch("siglip")["pixel_values"])
    assert model.vision_model(pixels).pooler_output is None
    assert model(pixel_values=pixels).logits.shape == (3, 2)
