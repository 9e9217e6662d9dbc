"""Models built from arrays, and numbers held against numbers."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_mm.checkpoint.rows import Rows
from mlx_mm.models import find_family

# Of tests in which MLX must trace a function: on Linux without a compiler it runs what it should compile op by op.
TRACES = pytest.mark.skipif(
    sys.platform == "linux" and shutil.which("g++") is None, reason="MLX compiles nothing without g++"
)
# Of tests that take long and see little that others do not: they run where the reference tests do, as in CI.
LONG = (
    pytest.mark.reference,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="takes long; runs with the reference tests"),
)


def empty(config: dict[str, Any]) -> Any:
    """The model of a config.json, without weights."""
    family = find_family(config["model_type"])
    return family.architecture(config.get("architectures"))(family.config.from_dict(config))


def build(config: dict[str, Any], weights: dict[str, np.ndarray]) -> Any:
    """The model of a config with PyTorch-layout weights, through the family's own renaming."""
    model = empty(config)
    model.load_weights(list(sanitized(model, weights).items()), strict=True)
    model.eval()
    return model


def sanitized(model: Any, weights: dict[str, np.ndarray]) -> dict[str, mx.array]:
    """PyTorch-layout weights under the model's names, whole as `load` has them."""
    tensors = model.sanitize(to_mx(weights))
    return {name: tensor.join() if isinstance(tensor, Rows) else tensor for name, tensor in tensors.items()}


def to_mx(batch: dict[str, np.ndarray]) -> dict[str, mx.array]:
    return {name: mx.array(value) for name, value in batch.items()}


def full_config(spec: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """`config.json` of a golden model."""
    return {"model_type": spec["model_type"], **spec["config"], **extra}


def close(a: Any, b: Any, tolerance: float) -> bool:
    """Whether no number differs by more; the second may be one number for all."""
    return float(np.abs(np.array(a, dtype=np.float64) - np.array(b, dtype=np.float64)).max()) <= tolerance


def same_direction(a: Any, b: Any, tolerance: float = 1e-6) -> bool:
    """Whether the vectors agree once they have unit length: matrix sizes change the order of float32 sums."""
    a, b = (np.array(x, dtype=np.float64) for x in (a, b))
    assert a.shape == b.shape
    units = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b)]
    return close(*units, tolerance)


def excess(
    observed: dict[str, Any], expected: dict[str, Any], tolerance: dict[str, float], *, state: float, rest: float
) -> dict[str, float]:
    """For every golden value: the largest difference divided by its tolerance (so 1 is the limit).

    A golden tensor is written whole, or as a dict with its shape, its sums and its ends; `state` is the tolerance of
    those ends, `rest` of what `tolerance` does not name.
    """
    out = {}
    for name, value in expected.items():
        got = np.array(observed[name], dtype=np.float64)
        if isinstance(value, dict):
            assert list(got.shape) == value["shape"], name
            flat = got.ravel()
            ends = np.abs(np.concatenate([flat[:4] - value["first"], flat[-4:] - value["last"]])).max()
            sums = max(abs(flat.sum() - value["sum"]), abs(np.abs(flat).sum() - value["abs_sum"]))
            out[name] = max(ends / state, sums / (2e-6 * value["abs_sum"]))
        else:
            want = np.array(value)
            assert got.shape == want.shape, name
            out[name] = float(np.abs(got - want).max()) / tolerance.get(name, rest)
    return out
