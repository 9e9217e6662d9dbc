"""Converted folders as floats again: the names, shapes and files of the source, and the numbers that rounding left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from recipes import RECIPES
from safetensors.numpy import load_file
from tiny import tiny_config, tiny_weights, write_checkpoint

import mlx_mm
from mlx_mm.errors import InputError, OutputError, QuantizationError, WeightsError

# What a source has and we leave out: buffers that follow from the config
BUFFERS = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in load_file(folder / "model.safetensors").items()}


def kept(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in weights.items() if not name.endswith(BUFFERS)}


def merged(weights: dict[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    """Low-rank matrices of the first adapter added to what they change, and zeros in their place."""
    result = dict(weights)
    for name in [name for name in weights if name.endswith(".original")]:
        a, b = (weights[name.replace("original", f"0.lora_{letter}")] for letter in "AB")
        product = a[0] @ b[0] if ".embeddings." in name else b[0] @ a[0]
        result[name] = weights[name] + scale * product
        for letter in "AB":
            key = name.replace("original", f"0.lora_{letter}")
            result[key] = np.zeros_like(weights[key])
    return result


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_was_not_quantised_comes_back_as_it_was(
    name: str, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    """Names, shapes and numbers of every class of every family, MLPs widened and cut again."""
    source = tiny_checkpoint(name)
    recipe = {"*": False}
    mlx_mm.convert(source, tmp_path / "ours", recipe=recipe, dtype="float32")
    report = mlx_mm.dequantize(tmp_path / "ours", tmp_path / "floats")
    wanted, got = kept(weights_of(source)), weights_of(tmp_path / "floats")
    if name == "jina_clip":
        text = json.loads((source / "config.json").read_text())["text_config"]
        changes = text.get("hf_model_config_kwargs", text)
        wanted = merged(wanted, changes["lora_alpha"] / changes["lora_rank"])
    assert {key: array.shape for key, array in got.items()} == {key: array.shape for key, array in wanted.items()}
    for key, array in wanted.items():
        np.testing.assert_allclose(got[key], array, rtol=0, atol=1e-6 if name == "jina_clip" else 0, err_msg=key)
    assert report.layers == 0
    assert report.bytes == sum(array.nbytes for array in got.values())


@pytest.mark.parametrize(
    ("name", "mode", "bits"),
    [
        ("siglip", "affine", 3),
        ("clip", "mxfp4", 4),
        ("clap-fused", "affine", 4),
        ("jina_clip", "mxfp8", 8),
        ("glm46v", "nvfp4", 4),
        ("glm4v_moe", "affine", 6),
    ],
)
def test_numbers_are_those_of_the_quantised_model(
    name: str, mode: str, bits: int, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    """Each weight is what its packed form says, cut to the width of the source."""
    source = tiny_checkpoint(name)
    options: dict[str, Any] = {"bits": bits, "mode": mode, "recipe": "all", "method": "plain", "dtype": "float32"}
    mlx_mm.convert(source, tmp_path / "ours", **options)
    report = mlx_mm.dequantize(tmp_path / "ours", tmp_path / "floats")
    model, _ = mlx_mm.load(tmp_path / "ours", dtype="float32")
    again, _ = mlx_mm.load(tmp_path / "floats", dtype="float32")
    mine, theirs = (dict(m.named_modules()) for m in (model, again))
    packed = [path for path in mine if f"{path}.scales" in mx.load(str(tmp_path / "ours" / "model.safetensors"))]
    assert report.layers == len(packed) > 4
    floats = weights_of(tmp_path / "floats")
    assert {array.dtype for array in floats.values()} == {np.dtype(np.float32)}
    assert sorted(floats) == sorted(kept(weights_of(source)))
    for path in packed:
        layer = mine[path]
        if "scales" in layer:  # where kernels read packed weights
            exact = mx.dequantize(layer.weight, layer.scales, layer.get("biases"), layer.group_size, layer.bits, mode)
            floated = np.array(theirs[path].weight)
            cut = np.array(exact.astype(mx.float32))[tuple(slice(size) for size in floated.shape)]
            if "gate_up" not in path:  # whose zeros stand in the middle
                np.testing.assert_allclose(floated, cut, atol=1e-6, err_msg=path)


def test_dtype_of_the_floats(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    mlx_mm.convert(tiny_checkpoint("siglip"), tmp_path / "ours", method="plain")
    mlx_mm.dequantize(tmp_path / "ours", tmp_path / "half", dtype="bfloat16")
    arrays = mx.load(str(tmp_path / "half" / "model.safetensors"))
    assert {array.dtype for array in arrays.values()} == {mx.bfloat16}  # type: ignore[union-attr]
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    assert not {"quantization", "quantization_config", "padded"} & set(config)
    assert config["text_config"]["intermediate_size"] == 80
    assert (tmp_path / "half" / "tokenizer.json").is_file()
    assert "not named by the source" in (tmp_path / "half" / "README.md").read_text()


def test_what_cannot_be_done(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    source = tiny_checkpoint("siglip")
    with pytest.raises(WeightsError, match="Hugging Face's own names already"):
        mlx_mm.dequantize(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    mlx_mm.convert(source, tmp_path / "ours", method="plain")
    with pytest.raises(InputError, match="dtype is 'int4'"):
        mlx_mm.dequantize(tmp_path / "ours", tmp_path / "out", dtype="int4")
    with pytest.raises(OutputError):
        mlx_mm.dequantize(tmp_path / "ours", tmp_path / "ours", overwrite=True)
    with pytest.raises(OutputError):
        mlx_mm.dequantize(tmp_path / "ours", source)


def test_numbers_that_float16_cannot_hold(tmp_path: Path) -> None:
    config = tiny_config("siglip")
    weights = tiny_weights(config)
    weights["text_model.final_layer_norm.weight"][0] = 1e6
    source = write_checkpoint(tmp_path / "source", config, weights)
    mlx_mm.convert(source, tmp_path / "ours", method="plain")
    with pytest.raises(InputError, match="beyond its 65504"):
        mlx_mm.dequantize(tmp_path / "ours", tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_a_named_recipe_for_another_kind_of_model(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(QuantizationError, match="names no layer of this model"):
        mlx_mm.convert(tiny_checkpoint("siglip-vision"), tmp_path / "out", recipe="text-only")
    assert not (tmp_path / "out").exists()
