"""Random transformers models of GLM-4.6V, dense and with experts, beside ours."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from beside import difference, randomise
from glm_models import answer, padded, prompt, request_of
from mlx_lm.models.cache import BatchKVCache
from safetensors.numpy import load_file

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mlx_mm.backend import blas  # noqa: E402
from mlx_mm.checkpoint.rows import Rows  # noqa: E402
from mlx_mm.errors import InputError  # noqa: E402
from mlx_mm.models.glm4v.config import ModelConfig  # noqa: E402
from mlx_mm.models.glm4v.model import ARCHITECTURES  # noqa: E402

# Where measured, theirs is twice as far as ours, 2e-5, from the same model in float64.
LOGIT, STATE, TOKENS = 4e-5, 5e-5, 12

VISION = {
    "depth": 3,
    "hidden_size": 96,
    "num_heads": 3,
    "image_size": 70,
    "patch_size": 14,
    "out_hidden_size": 128,
    "intermediate_size": 160,
}
ROPE = {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3]}
TEXT = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_parameters": ROPE,
    "max_position_embeddings": 4096,
    "eos_token_id": None,
    "pad_token_id": 0,
}
EXPERTS = {
    "num_attention_heads": 6,
    "head_dim": 32,
    "attention_bias": True,
    "moe_intermediate_size": 48,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
IDS = {
    "image_token_id": 500,
    "video_token_id": 501,
    "image_start_token_id": 502,
    "image_end_token_id": 503,
    "video_start_token_id": 504,
    "video_end_token_id": 505,
}
DENSE = {
    **IDS,
    "model_type": "glm46v",
    "vision_config": VISION | {"model_type": "glm4v_vision"},
    "text_config": TEXT | {"model_type": "glm4v_text", "num_attention_heads": 4},
}
MOE = {
    **IDS,
    "model_type": "glm4v_moe",
    "vision_config": VISION | {"model_type": "glm4v_moe_vision"},
    "text_config": TEXT | EXPERTS | {"model_type": "glm4v_moe_text"},
}
GROUPED = MOE | {
    "text_config": MOE["text_config"]
    | {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": False}
}
CONFIGS = {
    "dense": DENSE,
    "glm4v": DENSE | {"model_type": "glm4v"},
    "experts": MOE,
    "groups of experts": GROUPED,
}
CLASSES = {
    "glm46v": ("Glm46VConfig", "Glm46VForConditionalGeneration", "Glm46VModel"),
    "glm4v": ("Glm4vConfig", "Glm4vForConditionalGeneration", "Glm4vModel"),
    "glm4v_moe": ("Glm4vMoeConfig", "Glm4vMoeForConditionalGeneration", "Glm4vMoeModel"),
}

PROMPTS = {
    "text": prompt(10, 11, 12, 13, 14, 15, 16, 17),
    "one image": prompt(10, 11, (4, 6), 12, 13),
    "image of the table's size": prompt(10, (6, 6), 12, 13),
    "two images": prompt(10, (4, 6), 11, (8, 4), 12, 13),
    "three images": prompt((2, 2), 10, (10, 4), 11, (8, 6), 13),
    "five images": prompt(10, (4, 6), 11, (8, 4), 12, (2, 2), 13, (6, 10), 14, (4, 14), 15),
    "video": prompt(10, (3, 4, 6), 11, 12),
    "two videos": prompt(10, (5, 4, 4), 11, (1, 6, 4), 12),
}


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> None:
    """The matrix library that `load` chooses."""
    blas.use_fast_blas()


def theirs_of(config: dict[str, Any], base: bool = False) -> Any:
    names = CLASSES[config["model_type"]]
    own = getattr(transformers, names[0])(**copy.deepcopy(config))
    model = randomise(getattr(transformers, names[2 if base else 1])._from_config(own, attn_implementation="eager"))
    torch.manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensor.data.copy_(torch.randn_like(tensor) / tensor.shape[-1] ** 0.5)
        elif name.endswith("e_score_correction_bias"):
            tensor.data.copy_(torch.randn_like(tensor) * 0.3)
        elif "embed_tokens" in name:
            tensor.data.copy_(torch.randn_like(tensor))
    return model


def ours_of(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Any:
    """Our model, strictly from tensors under transformers' names."""
    model = ARCHITECTURES[config["architectures"][0]](ModelConfig.from_dict(config))
    found = model.sanitize({name: mx.array(value) for name, value in tensors.items()})
    arrays = [(name, tensor.join() if isinstance(tensor, Rows) else tensor) for name, tensor in found.items()]
    model.load_weights(arrays, strict=True)
    return model.eval()


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return config, {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


@functools.cache
def pair(name: str, base: bool = False) -> tuple[Any, Any]:
    """The same model twice, ours from what `save_pretrained` wrote."""
    model = theirs_of(CONFIGS[name], base)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return model, ours_of(*read(Path(folder)))


def as_torch(batch: dict[str, mx.array]) -> dict[str, Any]:
    out = {name: torch.from_numpy(np.array(value)) for name, value in batch.items()}
    whole = {name: value.long() for name, value in out.items() if not value.is_floating_point()}
    return {"attention_mask": torch.ones_like(whole["input_ids"])} | out | whole


def their_answer(model: Any, batch: dict[str, mx.array]) -> list[list[int]]:
    inputs = as_torch(batch)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("case", PROMPTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_tokens(name: str, case: str) -> None:
    theirs, ours = pair(name)
    batch = PROMPTS[case]
    with torch.no_grad():
        right = theirs(**as_torch(batch), use_cache=False)
    out = ours(**batch)
    assert difference(out.logits, right.logits) < LOGIT
    deltas = theirs.model.rope_deltas  # None for text
    assert out.rope_deltas.tolist() == ([0] if deltas is None else deltas.flatten().tolist())
    (tokens,) = their_answer(theirs, batch)
    assert answer(ours, batch, TOKENS) == tokens
    assert answer(ours, batch, TOKENS, prefill_step_size=5) == tokens


@pytest.mark.parametrize("name", CONFIGS)
def test_images_and_videos_in_one_prompt(name: str) -> None:
    """transformers refuses them together, but not their features among the embeddings and its own positions."""
    theirs, ours = pair(name)
    batch = prompt(10, (4, 6), 11, (3, 4, 6), 12, (8, 4), 13, (1, 6, 4), 14)
    inputs = as_torch(batch)
    ids, types = inputs["input_ids"], inputs["mm_token_type_ids"]
    grids = {key: inputs[key] for key in ("image_grid_thw", "video_grid_thw")}
    with torch.no_grad():
        embeds = theirs.get_input_embeddings()(ids).clone()
        for kind, part in ((1, "image"), (2, "video")):
            pixels = inputs["pixel_values" if kind == 1 else "pixel_values_videos"]
            features = getattr(theirs, f"get_{part}_features")(pixels, grids[f"{part}_grid_thw"]).pooler_output
            embeds[types == kind] = torch.cat(list(features))
        positions, deltas = theirs.model.get_rope_index(ids, types, **grids)
        right = theirs(inputs_embeds=embeds, position_ids=positions, use_cache=False).logits
    out = ours(**batch)
    assert out.rope_deltas.tolist() == deltas.flatten().tolist()
    assert difference(out.logits, right) < LOGIT
    request = request_of(ours, batch)
    assert difference(request(batch["input_ids"], all_logits=True), right) < LOGIT
    swapped = batch | {"mm_token_type_ids": mx.where(batch["mm_token_type_ids"] > 0, 1, 0)}
    with pytest.raises(InputError):
        ours(**swapped)


@pytest.mark.parametrize("name", CONFIGS)
def test_features_of_pictures(name: str) -> None:
    theirs, ours = pair(name)
    for case, kind in (("five images", "image"), ("two videos", "video")):
        grids, pixels = f"{kind}_grid_thw", "pixel_values" if kind == "image" else "pixel_values_videos"
        given = {key: PROMPTS[case][key] for key in (pixels, grids)}
        inputs = as_torch(PROMPTS[case])
        with torch.no_grad():
            right = getattr(theirs, f"get_{kind}_features")(inputs[pixels], inputs[grids]).pooler_output
        got = getattr(ours, f"get_{kind}_features")(**given)
        assert max(difference(a, b) for a, b in zip(got, right, strict=True)) < STATE


@pytest.mark.parametrize("by_ids", [True, False])
def test_placeholder_mask(by_ids: bool) -> None:
    theirs, ours = pair("dense")
    image, video = ours.config.image_token_id, ours.config.video_token_id
    ids = mx.array([[5, image, image, 7], [video, 3, image, 2]])
    embeds = ours.language_model.model.embed(ids)
    given = torch.from_numpy(np.array(ids)) if by_ids else None
    features = torch.zeros(3, embeds.shape[-1])
    expected = theirs.model.get_placeholder_mask(given, torch.from_numpy(np.array(embeds)), features)
    found = ours.get_placeholder_mask(ids if by_ids else None, embeds, mx.zeros((3, embeds.shape[-1])))
    for mine, reference in zip(found, expected, strict=True):
        assert np.array(mine).tolist() == reference.numpy().tolist()
    assert (np.array(found[0]) == np.array(found[1])).all() == by_ids
    with pytest.raises(InputError, match="tokens 3, features 2"):
        ours.get_placeholder_mask(ids, embeds, mx.zeros((2, embeds.shape[-1])))


@pytest.mark.parametrize("cases", [("text", "two images", "one image"), ("video", "text", "two videos")])
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("name", CONFIGS)
def test_padded_batch(name: str, left: bool, cases: tuple[str, ...]) -> None:
    theirs, ours = pair(name)
    batch = padded([PROMPTS[case] for case in cases], left=left)
    with torch.no_grad():
        right = theirs(**as_torch(batch), use_cache=False).logits
    real = np.array(batch["attention_mask"]) == 1
    out = ours(**batch)
    assert difference(np.array(out.logits)[real], right[torch.from_numpy(real)]) < LOGIT
    if not left:
        return
    request = request_of(ours, batch)
    cache = [BatchKVCache(request.left_padding) for _ in request.layers]
    logits, rows = request(batch["input_ids"], cache), []
    for _ in range(TOKENS):
        rows.append(logits[:, -1].argmax(axis=-1))
        logits = request(rows[-1][:, None], cache)
    assert mx.stack(rows, axis=1).tolist() == their_answer(theirs, batch)


@pytest.mark.parametrize("name", CONFIGS)
def test_state_of_a_live_model(name: str) -> None:
    """Experts are stacked in memory, and one by one in a file."""
    theirs, ours = pair(name)
    config = CONFIGS[name] | {"architectures": [type(theirs).__name__]}
    live = ours_of(config, {key: value.numpy() for key, value in theirs.state_dict().items()})
    batch = PROMPTS["two images"]
    assert difference(live(**batch).logits, torch.from_numpy(np.array(ours(**batch).logits))) == 0


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_old_style_of_rotary_keys(name: str) -> None:
    """As transformers 4 has them: the theta beside `rope_scaling`, which has `type`."""
    config = copy.deepcopy(CONFIGS[name])
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": 20000.0, "partial_rotary_factor": rope["partial_rotary_factor"]}
    text["rope_scaling"] = {"type": "default", "mrope_section": rope["mrope_section"]}
    theirs = theirs_of(config)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours = ours_of(config | {"architectures": [type(theirs).__name__]}, state)
    with torch.no_grad():
        right = theirs(**as_torch(PROMPTS["two images"]), use_cache=False).logits
    assert difference(ours(**PROMPTS["two images"]).logits, right) < LOGIT
    assert difference(pair(name)[1](**PROMPTS["two images"]).logits, right) > 1e-2


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_hidden_states_attentions_and_loss(name: str) -> None:
    theirs, ours = pair(name)
    batch = PROMPTS["two images"]
    labels = mx.where(batch["mm_token_type_ids"] > 0, -100, batch["input_ids"])
    extras = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        right = theirs(**as_torch(batch | {"labels": labels}), **extras)
    out = ours(**batch, labels=labels, **extras)
    assert abs(float(out.loss) - float(right.loss)) < 1e-5
    for got, states in ((out.hidden_states, right.hidden_states), (out.attentions, right.attentions)):
        assert max(difference(a, b) for a, b in zip(got, states, strict=True)) < STATE


@pytest.mark.parametrize("name", CONFIGS)
def test_model_without_a_head(name: str) -> None:
    theirs, ours = pair(name, base=True)
    for case in ("two images", "video"):
        extras = {"output_hidden_states": True, "output_attentions": True}
        with torch.no_grad():
            right = theirs(**as_torch(PROMPTS[case]), use_cache=False, **extras)
        out = ours(**PROMPTS[case], **extras)
        assert difference(out.last_hidden_state, right.last_hidden_state) < STATE
        assert out.rope_deltas.tolist() == theirs.rope_deltas.flatten().tolist()
        for got, states in ((out.hidden_states, right.hidden_states), (out.attentions, right.attentions)):
            assert max(difference(a, b) for a, b in zip(got, states, strict=True)) < STATE


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_logits_to_keep(name: str) -> None:
    theirs, ours = pair(name)
    for kept in (2, [0, 4, 7]):
        with torch.no_grad():
            one = torch.tensor(kept) if isinstance(kept, list) else kept
            right = theirs(**as_torch(PROMPTS["video"]), logits_to_keep=one).logits
        own = mx.array(kept) if isinstance(kept, list) else kept
        assert difference(ours(**PROMPTS["video"], logits_to_keep=own).logits, right) < LOGIT
