"""MLPs whose widths no group divides: `convert` makes them wider with zeros, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from comparing import build
from glm_models import answer, prompt
from glm_side_files import write_glm_side_files
from glm_tiny import DENSE, MOE, glm_config, glm_weights
from mlx.utils import tree_flatten
from tiny import requantised, write_checkpoint

import mlx_mm
from mlx_mm.checkpoint.padding import pad_to
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.load import open_checkpoint

PROMPTS = (prompt(10, 11, 12, 13, 14), prompt(10, 11, (6, 4), 12, 13))
ALL = {"*": {}}  # every layer, the vision tower's too
NONE = {"*": False}


def odd_config(name: str, **text: Any) -> dict[str, Any]:
    """config.json of a tiny GLM with widths that neither 32 nor 64 divides, as 4.6V's 10944 and 128."""
    config = glm_config(name)
    config["text_config"] |= {"intermediate_size": 40} | text
    if name == MOE:
        config["text_config"] |= {"moe_intermediate_size": 24, "n_shared_experts": 2}
    config["vision_config"]["intermediate_size"] = 56
    return config


def write(folder: Path, config: dict[str, Any]) -> Path:
    return write_checkpoint(folder, config, glm_weights(config), side_files=write_glm_side_files)


def logits(model: Any) -> list[np.ndarray]:
    return [np.array(model(**batch).logits) for batch in PROMPTS]


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("name", [DENSE, MOE])
def test_wider_is_the_same(name: str, group_size: int, tmp_path: Path) -> None:
    """Not one bit differs but where the longer sums of a matrix product are added in another order."""
    source = write(tmp_path / "source", odd_config(name))
    report = mlx_mm.convert(source, tmp_path / "out", group_size=group_size, recipe=NONE)
    moe = {"text_config.moe_intermediate_size": [24, group_size if group_size > 24 else 32]}
    wide = {40: -(-40 // group_size) * group_size, 56: -(-56 // group_size) * group_size}
    assert report.padded == {
        "text_config.intermediate_size": [40, wide[40]],
        "vision_config.intermediate_size": [56, wide[56]],
    } | (moe if name == MOE else {})
    before, after = open_checkpoint(source), open_checkpoint(tmp_path / "out")
    assert after.config.text_config.intermediate_size == wide[40]  # type: ignore[attr-defined]
    models = [opened.load()[0] for opened in (before, after)]
    for old, new in zip(*map(logits, models), strict=True):
        assert np.abs(old - new).max() < 1e-5
    assert answer(models[0], PROMPTS[1]) == answer(models[1], PROMPTS[1])


def test_the_zeros_are_exact(tmp_path: Path) -> None:
    """The same products over numbers that cannot round: small whole ones."""
    config = odd_config(DENSE)
    weights = {
        key: np.round(array * 4).astype(np.float32) if key.endswith("proj.weight") else array
        for key, array in glm_weights(config).items()
    }
    source = write_checkpoint(tmp_path / "source", config, weights, side_files=write_glm_side_files)
    mlx_mm.convert(source, tmp_path / "out", group_size=64, recipe=NONE)
    old, new = (mlx_mm.load(folder)[0] for folder in (source, tmp_path / "out"))
    x = mx.array(np.random.RandomState(0).randint(-2, 3, (5, 128)).astype(np.float32))
    for layer, wider in zip(old.language_model.model.layers, new.language_model.model.layers, strict=True):
        gate, up = mx.split(layer.mlp.gate_up_proj(x), 2, axis=-1)
        wide_gate, wide_up = mx.split(wider.mlp.gate_up_proj(x), 2, axis=-1)
        assert mx.array_equal(wide_gate[:, :40], gate)
        assert mx.array_equal(wide_up[:, :40], up)
        assert not wide_gate[:, 40:].any()
        assert not wide_up[:, 40:].any()
        assert mx.array_equal(wider.mlp.down_proj(wide_up), layer.mlp.down_proj(up))


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("name", [DENSE, MOE])
def test_quantised(name: str, group_size: int, bits: int, tmp_path: Path) -> None:
    """Every MLP of every part is quantised, and answers as the unwidened model whose weights were rounded by hand."""
    config = odd_config(name)
    source = write(tmp_path / "source", config)
    report = mlx_mm.convert(source, tmp_path / "out", bits=bits, group_size=group_size, recipe=ALL, dtype="float32")
    left = {choice.path for choice in report.choices if choice.scheme is None}
    assert not {path for path in left if path.endswith(("gate_proj", "up_proj", "down_proj"))}
    rounded = {choice.path for choice in report.choices if choice.scheme is not None}
    model = build(config, glm_weights(config))
    weights = [
        (key, mx.array(by_hand(np.array(array), bits, group_size)))
        for key, array in tree_flatten(model.parameters())
        if key.removesuffix(".weight") in rounded
    ]
    assert len(weights) == len(rounded)
    model.load_weights(weights, strict=False)
    loaded, _ = mlx_mm.load(tmp_path / "out")
    kinds = {type(module) for path, module in loaded.named_modules() if path in rounded}
    assert not kinds & {nn.Linear}
    for right, got in zip(logits(model), logits(loaded), strict=True):
        assert np.abs(right - got).max() < 2e-5


def by_hand(array: np.ndarray, bits: int, group_size: int) -> np.ndarray:
    """`requantised` of a matrix, or of a stack of them."""
    if array.ndim == 2:
        return requantised(array, bits, group_size)
    return np.stack([requantised(matrix, bits, group_size) for matrix in array])


def test_by_default_the_text_model_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "source", odd_config(MOE))
    report = mlx_mm.convert(source, tmp_path / "out", group_size=32)
    towers = {choice.path.split(".")[0] for choice in report.choices if choice.scheme is not None}
    assert towers == {"language_model"}
    model, _ = mlx_mm.load(tmp_path / "out")
    assert np.isfinite(logits(model)[1]).all()


def test_nothing_is_wider_that_divides(tmp_path: Path) -> None:
    config = odd_config(DENSE)
    config["text_config"]["intermediate_size"] = config["vision_config"]["intermediate_size"] = 64
    report = mlx_mm.convert(write(tmp_path / "source", config), tmp_path / "out")
    assert report.padded == {}
    assert "moe_intermediate_size" not in open_checkpoint(tmp_path / "out").values["text_config"]  # type: ignore[operator]


# --- tensors ------------------------------------------------------------------------------------------------------

AXES = ((".gate_up.weight", (0, 2)), (".experts.weight", 1), (".weight", 1))


def test_parts_grow_each() -> None:
    array = mx.arange(12).reshape(4, 3)
    (got,) = pad_to({"a.gate_up.weight": array}, {"a.gate_up.weight": (10, 3)}, AXES).values()
    assert isinstance(got, mx.array)
    assert got.tolist() == [*array[:2].tolist(), *[[0, 0, 0]] * 3, *array[2:].tolist(), *[[0, 0, 0]] * 3]


def test_blocks_of_rows_grow_each() -> None:
    rows = Rows((mx.ones((1, 2, 3)), mx.ones((1, 2, 3))))
    (got,) = pad_to({"a.experts.weight": rows}, {"a.experts.weight": (2, 4, 3)}, AXES).values()
    assert isinstance(got, Rows)
    assert got.shape == (2, 4, 3)
    assert got.join()[:, :2].all()
    assert not got.join()[:, 2:].any()


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("b.bias", (3,), (5,)),  # no axis is known
        ("b.weight", (2, 3), (2, 3)),  # wide enough
        ("b.weight", (2, 5), (2, 3)),  # too wide
        ("b.weight", (2, 3), (2, 3, 1)),
        ("b.gate_up.weight", (3, 2), (8, 2)),  # three rows have no halves
    ],
)
def test_what_stays(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    array = mx.ones(shape)
    assert pad_to({name: array}, {name: wanted}, AXES)[name] is array
    assert pad_to({name: array}, {}, AXES)[name] is array
