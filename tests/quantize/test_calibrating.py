"""A model whose layers are rounded as it computes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from comparing import LONG
from test_rounding import codes_of, gptq
from tiny import hashed

import mlx_mm
from mlx_mm.backend.linear import linear
from mlx_mm.backend.streams import compute
from mlx_mm.checkpoint.reading import Checkpoint
from mlx_mm.quantize.calibrating import Walk
from mlx_mm.quantize.methods import METHODS
from mlx_mm.quantize.plan import plan
from mlx_mm.quantize.precision import Precision
from mlx_mm.quantize.scheme import QuantConfig
from mlx_mm.quantize.writing import Tensors, Writing

SCHEME = QuantConfig(3, 32)


class Two(nn.Module):
    """Two layers."""

    towers: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(64, 96), nn.Linear(96, 32), nn.Linear(64, 32)

    def quant_predicate(self, _path: str, _module: nn.Module) -> bool:
        return True

    def __call__(self, x: mx.array) -> mx.array:
        return linear(self.second, nn.relu(linear(self.first, x)))


def converted(folder: Path, method: str, x: np.ndarray, real: np.ndarray) -> dict[str, mx.array]:
    """The tensors of the new files."""
    source, new = folder / "source", folder / method
    source.mkdir(exist_ok=True)
    new.mkdir()
    model = Two()
    shapes = {
        f"{path}.weight": (rows, width)
        for path, rows, width in (("first", 96, 64), ("second", 32, 96), ("idle", 32, 64))
    }
    shapes |= {f"{path}.bias": (rows,) for path, rows in (("first", 96), ("second", 32), ("idle", 32))}
    arrays = {name: mx.array(hashed(shape, k).astype(np.float32)) for k, (name, shape) in enumerate(shapes.items())}
    mx.save_safetensors(str(source / "model.safetensors"), arrays)
    checkpoint = Checkpoint(source)
    precision = Precision(mx.float32, None, mx.float32)
    plans = plan(model, SCHEME)
    tensors = Tensors(source, checkpoint, dict(checkpoint.arrays), shapes, plans, precision, METHODS[method])

    def calibrate(writing: Writing) -> None:
        walk = Walk(model, writing)
        batch = mx.array(x)
        for _ in range(2):  # the second time all is rounded
            walk.see(lambda: compute(lambda: mx.eval(model(batch)), [batch]), real)

    tensors.write(new, lambda _: None, calibrate)
    return {**arrays, **{f"new.{name}": array for name, array in mx.load(str(new / "model.safetensors")).items()}}


def test_inputs_come_from_rounded_layers_and_not_from_padding(
    tmp_path: Path, exact_inputs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, real = hashed((6, 50, 64), 7).astype(np.float32), np.ones((6, 50), np.int32)
    x[:, 40:] = 10 * x[:, 40:, :1] + x[:, 40:]  # what padding has in common
    real[:, 40:] = 0
    rows = x[:, :40].reshape(-1, 64)
    arrays = converted(tmp_path, "best", x, real)
    floats = {name: np.array(array) for name, array in arrays.items() if not name.startswith("new.")}

    def differ(path: str, x: np.ndarray) -> float:
        """The share of codes that are not GPTQ's for these inputs."""
        packed, *grids = (arrays[f"new.{path}.{part}"] for part in ("weight", "scales", "biases"))
        expected = gptq(floats[f"{path}.weight"], x, SCHEME, *(np.array(grid) for grid in grids))
        return float((codes_of(packed, grids[0], SCHEME) != expected).mean())

    def behind(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ weight.T + floats["first.bias"], 0)

    rounded = [arrays[f"new.first.{part}"] for part in ("weight", "scales", "biases")]
    first = np.array(mx.dequantize(*rounded, 32, 3))
    assert differ("first", rows) < 0.002
    assert differ("first", x.reshape(-1, 64)) > 0.01
    assert differ("second", behind(first, rows)) < 0.004
    assert differ("second", behind(floats["first.weight"], rows)) > 0.01
    assert {"new.idle.weight", "new.idle.scales", "new.idle.biases", "new.idle.bias"} <= arrays.keys()


@LONG[0]
@LONG[1]
@pytest.mark.parametrize("recipe", ["siglip2", "clap-fused", "jina_clip", "glm4v_moe"])
def test_methods_that_ask_for_inputs_lose_less(recipe: str, tiny_checkpoint: object, tmp_path: Path) -> None:
    """On random weights, where errors are all that there is."""
    source = tiny_checkpoint(recipe)  # type: ignore[operator]
    for method in ("plain", "best"):
        report = mlx_mm.convert(source, tmp_path / method, bits=4, group_size=32, method=method)
        assert any(layer.scheme for layer in report.choices)
    plain, best = (mx.load(str(tmp_path / method / "model.safetensors")) for method in ("plain", "best"))
    assert plain.keys() == best.keys()
    assert all(plain[name].shape == best[name].shape and plain[name].dtype == best[name].dtype for name in plain)
    mlx_mm.load(tmp_path / "best")
