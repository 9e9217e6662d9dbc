"""Activations against float64 formulas, and the neighbours they must not be mistaken for."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_mm.errors import ConfigError
from mlx_mm.layers.activations import ACTIVATIONS, activation

X = np.linspace(-12, 12, 100_001).astype(np.float32)


def gelu_erf(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    "gelu": gelu_erf,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def error(name: str, formula) -> float:
    return float(np.abs(np.array(activation(name)(mx.array(X))) - formula(X.astype(np.float64))).max())


def test_every_name_has_a_formula_here():
    assert ACTIVATIONS.keys() == FORMULAS.keys()


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_the_formula(name):
    assert error(name, FORMULAS[name]) <= 1e-6


def test_the_gelus_differ():
    assert error("gelu", gelu_tanh) == pytest.approx(4.73e-4, rel=0.01)
    assert error("gelu_pytorch_tanh", gelu_erf) == pytest.approx(4.73e-4, rel=0.01)
    assert error("quick_gelu", gelu_erf) > 1e-2


@pytest.mark.parametrize("name", FORMULAS)
def test_limits_are_exact(name):
    x = mx.array([-1e30, -1e4, -0.0, 0.0, 1e4, 1e30])
    assert activation(name)(x).tolist() == [0.0, 0.0, 0.0, 0.0, 1e4, mx.array(1e30).item()]


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_keeps_shape_and_dtype(name, dtype):
    y = activation(name)(mx.ones((2, 3, 5), dtype=dtype))
    assert (y.shape, y.dtype) == ((2, 3, 5), dtype)


@pytest.mark.parametrize("name", FORMULAS)
def test_takes_views_and_changing_shapes(name):
    x = mx.array(X[:60].reshape(3, 4, 5))
    for view in (x.transpose(2, 0, 1), x[:, ::2], x[0]):
        expected = FORMULAS[name](np.array(view).astype(np.float64))
        np.testing.assert_allclose(np.array(activation(name)(view)), expected, rtol=0, atol=1e-6)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'mish'.*gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu"):
        activation("mish")
