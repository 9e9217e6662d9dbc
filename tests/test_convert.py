"""`convert`: what it writes, that it is exact, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import towers_numpy
from damage import DAMAGE, Damage, listing
from mlx.utils import tree_flatten
from tiny import (
    layer_of,
    requantised,
    tiny_batch,
    tiny_config,
    tiny_weights,
    write_checkpoint,
)

import mlx_mm
from mlx_mm.backend import device
from mlx_mm.checkpoint import reading, writing
from mlx_mm.errors import InputError, MlxMmError, OutputError, QuantizationError

Checkpoint = Callable[..., Path]
FAMILIES = ["siglip", "siglip2"]
# lowest cosine to the float vectors that a tiny hash-made model may show, by bits
COSINE = {4: 0.97, 8: 0.9995}


def outputs(folder: Path, family: str) -> dict[str, np.ndarray]:
    model, _ = mlx_mm.load(folder)
    out = model(**{name: mx.array(value) for name, value in tiny_batch(family).items()})
    return {name: np.array(getattr(out, name)) for name in ("text_embeds", "image_embeds", "logits_per_text")}


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text("utf-8"))


def arrays_of(folder: Path) -> dict[str, mx.array]:
    out: dict[str, mx.array] = {}
    for path in sorted(folder.glob("*.safetensors")):
        out |= mx.load(str(path))
    return out


def by_hand(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a converted folder, dequantised with nothing but config.json and mx.dequantize."""
    block, stored = read(folder)["quantization"], arrays_of(folder)
    result = {}
    for name, array in stored.items():
        path = name.removesuffix(".weight")
        if name.endswith(".weight") and f"{path}.scales" in stored:
            own = block.get(path) or {}
            scheme = {key: own.get(key, block[key]) for key in ("bits", "group_size", "mode")}
            parts = (stored[f"{path}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
            array = mx.dequantize(array, *parts, **scheme)
        if not name.endswith((".scales", ".biases")):
            result[name] = np.array(array.astype(mx.float32))
    return result


def as_checkpoint(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Converted tensors back under Hugging Face's names and widths, as float64 for the NumPy reading."""
    w = {name: array.astype(np.float64) for name, array in tensors.items()}
    for kind in ("weight", "bias"):
        parts = [w.pop(f"vision_model.head.attention.{part}_proj.{kind}") for part in "qkv"]
        w[f"vision_model.head.attention.in_proj_{kind}"] = np.concatenate(parts)
    for name, array in w.items():
        width = config["text_config" if name.startswith("text") else "vision_config"]["intermediate_size"]
        if name.endswith(("fc1.weight", "fc1.bias")):
            w[name] = array[:width]
        elif name.endswith("fc2.weight"):
            w[name] = array[:, :width]
    if config["model_type"] == "siglip":
        kernel, p = "vision_model.embeddings.patch_embedding.weight", config["vision_config"]["patch_size"]
        w[kernel] = w[kernel].reshape(-1, p, p, 3).transpose(0, 3, 1, 2)
    return w


# --- the files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shards", [1, 3])
def test_without_quantisation_nothing_changes(
    family: str, shards: int, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = tiny_checkpoint(family, shards=shards)
    report = mlx_mm.convert(source, tmp_path / "out", bits=None)
    before, after = outputs(source, family), outputs(tmp_path / "out", family)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    config = read(tmp_path / "out")
    assert "quantization" not in config
    assert config == read(source)
    assert report.choices == []
    assert report.out == tmp_path / "out"
    assert report.parameters == sum(w.size for w in tiny_weights(tiny_config(family)).values())


@pytest.mark.parametrize("bits", [4, None])
def test_files_of_the_result(bits: int | None, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip2")
    (source / "LICENSE").write_text("Apache License 2.0")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (source / "pytorch_model.bin").write_bytes(b"not carried")
    before = listing(source)
    report = mlx_mm.convert(source, tmp_path / "out", bits=bits)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    carried = {"preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE", "chat_template.jinja"}
    own = {"model.safetensors", "model.safetensors.index.json", "config.json", "conversion.json", "README.md"}
    assert names == carried | own
    for name in carried:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    _, metadata = mx.load(str(tmp_path / "out" / "model.safetensors"), return_metadata=True)
    assert metadata["format"] == "mlx"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(arrays_of(tmp_path / "out"))
    assert "apache-2.0" in (tmp_path / "out" / "README.md").read_text()
    assert report.licence == "apache-2.0"
    assert listing(source) == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", source.name}


def test_quantisation_is_recorded_twice(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    mlx_mm.convert(tiny_checkpoint("siglip"), tmp_path / "out", bits=8, group_size=32)
    config = read(tmp_path / "out")
    assert config["quantization"] == config["quantization_config"]
    assert {key: config["quantization"][key] for key in ("bits", "group_size", "mode")} == {
        "bits": 8,
        "group_size": 32,
        "mode": "affine",
    }
    source = tiny_config("siglip")
    assert {key: config[key] for key in ("model_type", "architectures", "torch_dtype")} == {
        key: source[key] for key in ("model_type", "architectures", "torch_dtype")
    }


def test_it_says_nothing(tiny_checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mlx_mm.convert(tiny_checkpoint("siglip"), tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_shards_of_the_result(tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_checkpoint("siglip2")
    mlx_mm.convert(source, tmp_path / "one", group_size=32)
    monkeypatch.setattr(writing, "MAX_SHARD_BYTES", 40_000)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 5_000)
    mlx_mm.convert(source, tmp_path / "many", group_size=32)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    one, many = arrays_of(tmp_path / "one"), arrays_of(tmp_path / "many")
    assert all(mx.array_equal(one[name], many[name]).item() for name in one | many)
    a, b = outputs(tmp_path / "one", "siglip2"), outputs(tmp_path / "many", "siglip2")
    assert all(np.array_equal(a[name], b[name]) for name in a)


# --- quantisation ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_model(family: str, bits: int, group_size: int, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The stored numbers are mlx's own quantisation, and the loaded model computes with exactly them."""
    source, out = tiny_checkpoint(family), tmp_path / "out"
    report = mlx_mm.convert(source, out, bits=bits, group_size=group_size, dtype="float32")
    config = tiny_config(family)
    hand = as_checkpoint(by_hand(out), config)
    original = tiny_weights(config)
    assert hand.keys() == original.keys()
    quantised = {choice.path: choice.scheme for choice in report.choices if choice.scheme is not None}
    kept = {choice.path for choice in report.choices if choice.scheme is None}
    for name, array in original.items():
        path = layer_of(name)
        assert array.ndim < 2 or "probe" in name or path in quantised.keys() | kept, name
        right = requantised(array, bits, quantised[path].group_size) if path in quantised else array
        assert np.array_equal(hand[name], right), name

    model, _ = mlx_mm.load(out)
    batch = tiny_batch(family)
    result = model(**{key: mx.array(value) for key, value in batch.items()})
    text = towers_numpy.text_tower(hand, config, batch["input_ids"])["pooler_output"]
    vision = towers_numpy.vision_tower(
        hand, config, batch["pixel_values"], batch.get("pixel_attention_mask"), batch.get("spatial_shapes")
    )["pooler_output"]
    right = towers_numpy.joint(hand, text, vision)
    assert np.abs(np.array(result.text_embeds) - right["text_embeds"]).max() < 1e-5
    assert np.abs(np.array(result.image_embeds) - right["image_embeds"]).max() < 1e-5
    assert np.abs(np.array(result.logits_per_text) - right["logits_per_text"]).max() < 1e-4

    float_result = outputs(source, family)
    for key in ("text_embeds", "image_embeds"):
        cosine = (np.array(getattr(result, key)) * float_result[key]).sum(-1).min()
        assert cosine > COSINE[bits], (key, cosine)
    if group_size == 32:  # narrower than that no layer of this model is, except the 48- or 192-wide patches
        assert not {c.path for c in report.choices if c.scheme is None and "mlp" in c.path}
        assert {
            "vision_model.head.mlp.fc2",
            "vision_model.head.attention.k_proj",
            "text_model.head",
        } <= quantised.keys()


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_float32_source_becomes_half(family: str, bits: int, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Scales, biases and what is not quantised are float16, only numbers that stand alone keep their digits; the loaded
    model computes in float32 with exactly those."""
    source, out = tiny_checkpoint(family), tmp_path / "out"
    report = mlx_mm.convert(source, out, bits=bits, group_size=32)
    config, stored = tiny_config(family), arrays_of(out)
    dtypes = {name: array.dtype for name, array in stored.items() if array.dtype != mx.uint32}
    assert {name for name, dtype in dtypes.items() if dtype == mx.float32} == {"logit_scale", "logit_bias"}
    assert set(dtypes.values()) == {mx.float16, mx.float32}
    hand = as_checkpoint(by_hand(out), config)
    quantised = {choice.path for choice in report.choices if choice.scheme is not None}
    for name, array in tiny_weights(config).items():
        half = array.astype(np.float16 if array.size > 1 else np.float32)
        right = requantised(half, bits, 32) if layer_of(name) in quantised else half
        assert np.abs(hand[name] - right).max() < 1e-3 * np.abs(right).max(), name  # dequantised in float32 here
        assert layer_of(name) in quantised or np.array_equal(hand[name], right), name

    model, _ = mlx_mm.load(out)
    layers = {path for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.QuantizedLinear)}
    kinds = {
        array.dtype
        for name, array in tree_flatten(model.parameters())
        if name.rpartition(".")[0] not in layers or name.endswith(".bias")
    }
    assert kinds == {mx.float32, mx.uint32}
    batch = tiny_batch(family)
    result = model(**{key: mx.array(value) for key, value in batch.items()})
    text = towers_numpy.text_tower(hand, config, batch["input_ids"])["pooler_output"]
    vision = towers_numpy.vision_tower(
        hand, config, batch["pixel_values"], batch.get("pixel_attention_mask"), batch.get("spatial_shapes")
    )["pooler_output"]
    right = towers_numpy.joint(hand, text, vision)
    assert np.abs(np.array(result.logits_per_text) - right["logits_per_text"]).max() < 1e-4
    exact = outputs(source, family)
    mlx_mm.convert(source, tmp_path / "full", bits=bits, group_size=32, dtype="float32")
    full = outputs(tmp_path / "full", family)
    for key in ("text_embeds", "image_embeds"):
        assert np.abs(np.array(getattr(result, key)) - right[key]).max() < 1e-5
        losses = [1 - (got * exact[key]).sum(-1).mean() for got in (np.array(getattr(result, key)), full[key])]
        assert losses[0] < 1.25 * losses[1]  # what float16 costs beside the rounding of weights


@pytest.mark.parametrize("value", ["a large number", "a small matrix", "steps too small"])
def test_numbers_that_float16_cannot_hold(value: str, tmp_path: Path) -> None:
    """The whole file is bfloat16 then, so that a GPU need not mix two halves."""
    config = tiny_config("siglip2")
    weights = tiny_weights(config)
    if value == "a large number":
        weights["vision_model.post_layernorm.weight"][3] = 1e6
    elif value == "a small matrix":
        weights["text_model.embeddings.position_embedding.weight"] *= 1e-5
    else:
        weights["text_model.head.weight"] *= 1e-3  # whose 255 steps are as small
    source = write_checkpoint(tmp_path / "source", config, weights)
    mlx_mm.convert(source, tmp_path / "out", bits=8)
    dtypes = {array.dtype for name, array in arrays_of(tmp_path / "out").items() if "logit" not in name}
    assert dtypes == {mx.bfloat16, mx.uint32}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}
    before, after = outputs(source, "siglip2"), outputs(tmp_path / "out", "siglip2")
    assert (before["image_embeds"] * after["image_embeds"]).sum(-1).min() > 0.999


@pytest.mark.parametrize("bits", [4, None])
def test_float16_that_was_asked_for_and_is_too_small(bits: int | None, tmp_path: Path) -> None:
    """Infinity in a file that cannot be loaded is no answer."""
    config = tiny_config("siglip2")
    weights = tiny_weights(config)
    name = "vision_model.post_layernorm.weight"
    weights[name][3] = 1e6
    source = write_checkpoint(tmp_path / "source", config, weights)
    with pytest.raises(InputError, match=rf"float16, and {name} has numbers beyond its 65504; .*bfloat16"):
        mlx_mm.convert(source, tmp_path / "out", bits=bits, dtype="float16")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
    for dtype in ("bfloat16", "float32", None):
        mlx_mm.convert(source, tmp_path / "out", bits=bits, dtype=dtype, overwrite=True)
        mlx_mm.load(tmp_path / "out")


def test_harmless_numbers_stay_in_float16(tmp_path: Path) -> None:
    """Zeros, and vectors of next to nothing, such as a bias that no gradient reaches."""
    config = tiny_config("siglip2")
    weights = tiny_weights(config)
    weights["text_model.encoder.layers.0.self_attn.k_proj.bias"] *= 1e-9
    weights["text_model.encoder.layers.0.self_attn.k_proj.weight"] *= 0
    source = write_checkpoint(tmp_path / "source", config, weights)
    mlx_mm.convert(source, tmp_path / "out")
    stored = arrays_of(tmp_path / "out")
    assert {array.dtype for name, array in stored.items() if "logit" not in name} == {mx.float16, mx.uint32}
    assert not by_hand(tmp_path / "out")["text_model.encoder.layers.0.self_attn.k_proj.weight"].any()


@pytest.mark.parametrize("half", [mx.float16, mx.bfloat16], ids=str)
def test_a_half_precision_source_keeps_its_own(half: mx.Dtype, tmp_path: Path) -> None:
    """Also where one of its tensors is float32: whoever made the file had a reason."""
    config = tiny_config("siglip2")
    source = write_checkpoint(tmp_path / "source", config, tiny_weights(config))
    arrays = {name: array.astype(half) for name, array in arrays_of(source).items()}
    exact = "vision_model.post_layernorm.bias"
    arrays[exact] = arrays[exact].astype(mx.float32)
    mx.save_safetensors(str(source / "model.safetensors"), arrays)
    mlx_mm.convert(source, tmp_path / "out")
    stored = arrays_of(tmp_path / "out")
    assert stored.pop(exact).dtype == mx.float32
    assert {array.dtype for array in stored.values()} == {half, mx.uint32}


@pytest.mark.parametrize("group_size", [32, 64])
def test_every_layer_is_quantised_and_padding_recorded(
    group_size: int, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """MLP widths 80 and 144 divide by neither 32 nor 64, as so400m's 4304."""
    out = tmp_path / "out"
    report = mlx_mm.convert(tiny_checkpoint("siglip"), out, bits=4, group_size=group_size)
    config = read(out)
    wide = {"text_config": 96 if group_size == 32 else 128, "vision_config": 160 if group_size == 32 else 192}
    for section, width in wide.items():
        assert config[section]["intermediate_size"] == width
    assert report.padded == {
        "text_config.intermediate_size": [80, wide["text_config"]],
        "vision_config.intermediate_size": [144, wide["vision_config"]],
    }
    left = [choice for choice in report.choices if choice.scheme is None]
    assert {choice.path for choice in left} == {
        "text_model.embeddings.position_embedding",
        "vision_model.embeddings.position_embedding",
    }
    assert all(choice.reason for choice in left)
    stored = arrays_of(out)
    linears = [name for name in stored if name.endswith(("proj.weight", "fc1.weight", "fc2.weight", "head.weight"))]
    assert len(linears) == 4 * 6 + 1 + 6
    assert all(stored[name].dtype == mx.uint32 for name in linears)
    assert stored["text_model.embeddings.token_embedding.weight"].dtype == mx.uint32
    hand = by_hand(out)
    for section, old in (("text", 80), ("vision", 144)):
        fc2 = hand[f"{section}_model.encoder.layers.0.mlp.fc2.weight"]
        assert fc2.shape[1] == wide[f"{section}_config"]
        # a group that holds real weights beside zeros may round the zeros; the activations there are exact zeros
        fc1 = hand[f"{section}_model.encoder.layers.0.mlp.fc1.weight"]
        assert not fc1[old:].any()
        assert not hand[f"{section}_model.encoder.layers.0.mlp.fc1.bias"][old:].any()


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 8])
def test_gpu_keeps_layers_quantised(
    family: str, bits: int, tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every modality runs on quantised layers too, pooling head and patch projection included."""
    out = tmp_path / "out"
    mlx_mm.convert(tiny_checkpoint(family), out, bits=bits, group_size=32, dtype="float32")
    dequantised = outputs(out, family)
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    model, _ = mlx_mm.load(out)
    kinds = [type(module) for _, module in model.named_modules()]
    assert nn.Linear not in kinds or family == "siglip2"  # NaFlex's patches are 48 wide
    assert kinds.count(nn.QuantizedLinear) >= 2 * 2 * 6 + 1 + 6
    quantised = outputs(out, family)
    assert np.abs(quantised["text_embeds"] - dequantised["text_embeds"]).max() < 1e-5
    assert np.abs(quantised["image_embeds"] - dequantised["image_embeds"]).max() < 1e-5
    assert np.abs(quantised["logits_per_text"] - dequantised["logits_per_text"]).max() < 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_quantised_model_in_another_dtype(dtype: str, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    mlx_mm.convert(tiny_checkpoint("siglip2"), tmp_path / "out", group_size=32)
    full = outputs(tmp_path / "out", "siglip2")
    model, _ = mlx_mm.load(tmp_path / "out", dtype=dtype)
    floats = {array.dtype for _, array in tree_flatten(model.parameters())} - {mx.uint32}
    assert floats == {getattr(mx, dtype)}
    out = model(**{name: mx.array(value) for name, value in tiny_batch("siglip2").items()})
    for name in ("text_embeds", "image_embeds"):
        low = np.array(getattr(out, name).astype(mx.float32))
        assert ((low * full[name]).sum(-1) / np.linalg.norm(low, axis=-1)).min() > 0.9995


def test_quantised_model_lazily(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    mlx_mm.convert(tiny_checkpoint("siglip"), tmp_path / "out", group_size=32)
    batch = {name: mx.array(value) for name, value in tiny_batch("siglip").items()}
    eager, lazy = (mlx_mm.load(tmp_path / "out", lazy=lazy)[0](**batch) for lazy in (False, True))
    assert mx.array_equal(eager.logits_per_text, lazy.logits_per_text).item()


def test_nothing_is_padded_that_divides(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "even"
    config = tiny_config("siglip")
    config["text_config"]["intermediate_size"] = config["vision_config"]["intermediate_size"] = 128
    write_checkpoint(source, config, tiny_weights(config))
    report = mlx_mm.convert(source, tmp_path / "out")
    assert report.padded == {}
    assert read(tmp_path / "out")["vision_config"] == config["vision_config"]


@pytest.mark.usefixtures("without_kernels")
def test_quantised_layers_of_the_loaded_model(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Whatever the device does with them, the parameters it computes with equal the stored ones."""
    out = tmp_path / "out"
    mlx_mm.convert(tiny_checkpoint("siglip2"), out, bits=4, group_size=32)
    model, _ = mlx_mm.load(out)
    hand = by_hand(out)
    for path, module in model.named_modules():
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            full = mx.dequantize(
                module.weight, module.scales, module.biases, group_size=module.group_size, bits=module.bits
            )
            assert np.array_equal(np.array(full), hand[f"{path}.weight"])
    plain = {name: array for name, array in tree_flatten(model.parameters()) if array.dtype != mx.uint32}
    checked = [name for name in plain if name in hand]
    assert len(checked) > 60
    assert all(np.array_equal(np.array(plain[name]), hand[name]) for name in checked)


def test_recipes(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip2")
    recipe = {
        "text_model.head": False,
        "*self_attn*": {"bits": 8},
        "vision_model.head.*": {"bits": 8, "group_size": 64},
    }
    report = mlx_mm.convert(source, tmp_path / "out", bits=4, group_size=32, recipe=recipe)
    block, stored = read(tmp_path / "out")["quantization"], arrays_of(tmp_path / "out")
    assert "text_model.head.scales" not in stored
    eight = "vision_model.encoder.layers.1.self_attn.v_proj"
    assert (block[eight]["bits"], block[eight]["group_size"]) == (8, 32)
    assert stored[f"{eight}.weight"].shape[1] == 128 * 8 // 32
    assert block["vision_model.head.mlp.fc1"]["group_size"] == 64
    assert "vision_model.encoder.layers.0.mlp.fc1" not in block
    schemes = {choice.path: choice.scheme for choice in report.choices}
    assert schemes[eight].bits == 8
    before, after = outputs(source, "siglip2"), outputs(tmp_path / "out", "siglip2")
    assert (before["image_embeds"] * after["image_embeds"]).sum(-1).min() > COSINE[4]


@pytest.mark.parametrize(
    "recipe",
    [
        "no-such-recipe",
        {"no.such.layer": False},
        {"*fc1": {"bits": 7}},
        {"*fc1": {"group_size": 48}},
        {"*fc1": {"bit": 8}},
        {"*fc1": "8 bit"},
        {"*fc1": 7},
        {"*fc3": 8},
    ],
    ids=str,
)
def test_wrong_recipe(recipe: Any, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip")
    refused(lambda: mlx_mm.convert(source, tmp_path / "out", recipe=recipe), QuantizationError, tmp_path)


WRONG_SCHEMES = [{"bits": b} for b in (0, 1, 7, 9, 16, -4, True, 4.5, "4")]
WRONG_SCHEMES += [{"group_size": g} for g in (0, 16, 48, 256, "64")]
WRONG_SCHEMES += [{"mode": m} for m in ("nonsense", "", None)]


@pytest.mark.parametrize("scheme", WRONG_SCHEMES, ids=str)
def test_wrong_scheme(scheme: dict[str, Any], tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip")
    error = refused(lambda: mlx_mm.convert(source, tmp_path / "out", **scheme), QuantizationError, tmp_path)
    assert repr(next(iter(scheme.values()))) in str(error)


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_of_what_is_not_quantised(dtype: str, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    mlx_mm.convert(tiny_checkpoint("siglip2"), tmp_path / "out", dtype=dtype)
    wanted = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}[dtype]
    found = {array.dtype for array in arrays_of(tmp_path / "out").values()}
    assert found == {wanted, mx.uint32}


def test_half_precision_source_stays_half(tmp_path: Path) -> None:
    config = tiny_config("siglip2")
    tensors = {name: w.astype(np.float16) for name, w in tiny_weights(config).items()}
    source = write_checkpoint(tmp_path / "source", config, tensors)
    mlx_mm.convert(source, tmp_path / "out", bits=None)
    assert {array.dtype for array in arrays_of(tmp_path / "out").values()} == {mx.float16}
    before, after = outputs(source, "siglip2"), outputs(tmp_path / "out", "siglip2")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_unknown_dtype(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip")
    refused(lambda: mlx_mm.convert(source, tmp_path / "out", dtype="int8"), MlxMmError, tmp_path)


# --- converting twice -----------------------------------------------------------------------------------------------


def test_quantised_source_is_refused(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    mlx_mm.convert(tiny_checkpoint("siglip"), tmp_path / "once")
    refused(lambda: mlx_mm.convert(tmp_path / "once", tmp_path / "twice"), MlxMmError, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_converted_float_source_can_be_quantised(family: str, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint(family)
    mlx_mm.convert(source, tmp_path / "float", bits=None)
    mlx_mm.convert(tmp_path / "float", tmp_path / "copy", bits=None)
    mlx_mm.convert(tmp_path / "float", tmp_path / "two steps", group_size=32)
    mlx_mm.convert(source, tmp_path / "one step", group_size=32)
    assert (tmp_path / "copy/model.safetensors").read_bytes() == (tmp_path / "float/model.safetensors").read_bytes()
    one, two = (tmp_path / name / "model.safetensors" for name in ("one step", "two steps"))
    assert one.read_bytes() == two.read_bytes()


# --- failures leave nothing behind ----------------------------------------------------------------------------------


def refused(action: Callable[[], Any], error: type[MlxMmError], around: Path) -> MlxMmError:
    """Run `action`, which must raise `error` and change nothing below `around`."""
    before = listing(around)
    with pytest.raises(error) as caught:
        action()
    assert listing(around) == before
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("bits", [4, None])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_source(damage: Damage, bits: int | None, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip")
    damage.spoil(source)
    error = refused(lambda: mlx_mm.convert(source, tmp_path / "out", bits=bits), MlxMmError, tmp_path)
    assert type(error) is damage.error
    for word in damage.words:
        assert word in str(error)


def test_missing_source(tmp_path: Path) -> None:
    error = refused(lambda: mlx_mm.convert(tmp_path / "nowhere", tmp_path / "out"), MlxMmError, tmp_path)
    assert "nowhere" in str(error)


def test_output_exists(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, out = tiny_checkpoint("siglip"), tmp_path / "out"
    mlx_mm.convert(source, out, bits=8)
    error = refused(lambda: mlx_mm.convert(source, out), OutputError, tmp_path)
    assert str(out) in str(error)
    assert "overwrite" in str(error)
    mlx_mm.convert(source, out, bits=4, overwrite=True)
    assert read(out)["quantization"]["bits"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"out", source.name}


def test_empty_folder_is_filled(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mlx_mm.convert(tiny_checkpoint("siglip"), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_parents_are_made(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    mlx_mm.convert(tiny_checkpoint("siglip"), str(tmp_path / "a" / "b" / "out"))
    assert (tmp_path / "a/b/out/config.json").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_are_not_overwritten(overwrite: bool, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"dear")
    refused(lambda: mlx_mm.convert(source, tmp_path / "photos", overwrite=overwrite), OutputError, tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_output_is_a_file(overwrite: bool, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, out = tiny_checkpoint("siglip"), tmp_path / "out"
    out.write_text("a file")
    error = refused(lambda: mlx_mm.convert(source, out, overwrite=overwrite), OutputError, tmp_path)
    assert str(out) in str(error)


def test_output_below_a_file(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip")
    (tmp_path / "file").write_text("a file")
    refused(lambda: mlx_mm.convert(source, tmp_path / "file" / "out"), OutputError, tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_source_as_output(overwrite: bool, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip")
    refused(lambda: mlx_mm.convert(source, source, overwrite=overwrite), OutputError, tmp_path)
    (tmp_path / "link").symlink_to(source)
    refused(lambda: mlx_mm.convert(source, tmp_path / "link", overwrite=overwrite), OutputError, tmp_path)


def test_source_inside_the_output(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Overwriting the folder around the source would delete the source."""
    outer = tmp_path / "outer"
    mlx_mm.convert(tiny_checkpoint("siglip"), outer, bits=None)
    shutil.copytree(tmp_path / "tiny-siglip", outer / "source")
    refused(lambda: mlx_mm.convert(outer / "source", outer, overwrite=True), OutputError, tmp_path)


def stop_at(number: int, error: BaseException) -> Callable[..., None]:
    """A `ShardWriter.write` that fails at its n-th call."""
    original, calls = writing.ShardWriter.write, []

    def write(self: writing.ShardWriter, name: str, blocks: Any) -> None:
        calls.append(name)
        if len(calls) == number:
            raise error
        original(self, name, blocks)

    return write


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("number", [1, 40])
def test_disk_full(
    number: int, overwrite: bool, tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tiny_checkpoint("siglip2"), tmp_path / "out"
    if overwrite:
        mlx_mm.convert(source, out, bits=8)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(writing.ShardWriter, "write", stop_at(number, full))
    error = refused(lambda: mlx_mm.convert(source, out, overwrite=overwrite), OutputError, tmp_path)
    assert "No space left on device" in str(error)
    assert str(out) in str(error)


def test_disk_too_small(tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_checkpoint("siglip2")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    error = refused(lambda: mlx_mm.convert(source, tmp_path / "out"), OutputError, tmp_path)
    assert "free" in str(error)


def test_what_is_written_anew_needs_its_place_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that holds one result: float16 is tried, and one of the last numbers does not fit."""
    config = tiny_config("siglip2")
    weights = tiny_weights(config)
    source = write_checkpoint(tmp_path / "source", config, weights)
    place = 1.1 * mlx_mm.convert(source, tmp_path / "float16").bytes
    *_, last = (name for name in arrays_of(tmp_path / "float16") if name.endswith("weight"))
    weights[last].flat[0] = 1e6

    def disk_usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=place - sum(file.stat().st_size for file in folder.iterdir()))

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    mlx_mm.convert(write_checkpoint(tmp_path / "large", config, weights), tmp_path / "out")
    assert mx.bfloat16 in {array.dtype for array in arrays_of(tmp_path / "out").values()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupted(
    overwrite: bool, tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tiny_checkpoint("siglip2"), tmp_path / "out"
    if overwrite:
        mlx_mm.convert(source, out, bits=8)
    before = listing(tmp_path)
    monkeypatch.setattr(writing.ShardWriter, "write", stop_at(30, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        mlx_mm.convert(source, out, overwrite=overwrite)
    assert listing(tmp_path) == before
