"""Stacks of layers over views: the numbers of the plain path, gradients that are whole, weights that are freed."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_mm.backend import device
from mlx_mm.backend.attention import attend_windows, scaled_dot_product_attention
from mlx_mm.backend.elementwise import gelu_erf, gelu_tanh, quick_gelu, relu, silu, swiglu
from mlx_mm.backend.linear import linear, token_linear
from mlx_mm.backend.native import library
from mlx_mm.backend.native.library import open_library
from mlx_mm.backend.native.views import is_settled, run
from mlx_mm.backend.norms import norm
from mlx_mm.layers.rope import line_angles, rotate_halves, rotate_neighbours
from mlx_mm.layers.transformer import Encoder

pytestmark = pytest.mark.skipif(open_library() is None, reason="there are no kernels")


class Sizes:
    hidden_size, intermediate_size, num_hidden_layers, num_attention_heads = 48, 80, 3, 4
    hidden_act, layer_norm_eps = "gelu", 1e-6


def encoder(norm_first: bool = True) -> Encoder:
    mx.random.seed(1)
    made = Encoder(Sizes(), norm_first)
    mx.eval(made.parameters())
    return made


def inputs(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(len(shape)))


def plainly(monkeypatch: pytest.MonkeyPatch, call: Any) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(device, "has_kernels", lambda: False)
        return np.array(call())


MASKS = {
    "none": None,
    "causal": "causal",
    "keys": mx.arange(7)[None, None, None] < mx.array([7, 4])[:, None, None, None],
    "bias": mx.random.normal((1, 4, 7, 7), key=mx.random.key(3)),
}


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rotate", [None, rotate_halves, rotate_neighbours])
def test_a_stack_has_the_numbers_of_the_plain_path(
    mask: str, rotate: Any, norm_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, x = encoder(norm_first), inputs(2, 7, 48)
    rope = None if rotate is None else rotate(line_angles(7, 12, 10000.0))
    right = plainly(monkeypatch, lambda: stack(x, MASKS[mask], rope).last_hidden_state)
    found = np.array(stack(x, MASKS[mask], rope).last_hidden_state)
    assert np.abs(found - right).max() < 1e-5
    states = stack(x, MASKS[mask], rope, output_hidden_states=True).hidden_states
    assert states is not None
    assert np.array_equal(np.array(states[-1]), found)  # asking for them changes no bit
    other = plainly(
        monkeypatch, lambda: stack(x, MASKS["bias"] + 1 if mask == "none" else None, rope).last_hidden_state
    )
    assert mask == "none" or np.abs(other - right).max() > 1e-3


FUNCTIONS = {
    "gelu": gelu_erf,
    "tanh": gelu_tanh,
    "quick": quick_gelu,
    "silu": silu,
    "relu": relu,
    "swiglu": lambda x: swiglu(x, x + 1),
    "layer norm": lambda x: norm(nn.LayerNorm(24), x, residual=x),
    "rms norm": lambda x: norm(nn.RMSNorm(24), x),
    "attention": lambda x: scaled_dot_product_attention(x[None], x[None], x[None] + 1, scale=0.3),
    "windows": lambda x: attend_windows(x[None], x[None], x[None] + 1, mx.ones((1, 3, 5, 5)), scale=0.3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_arrays_of_mlx(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = inputs(3, 5, 24)
    result = FUNCTIONS[name](x)
    assert isinstance(result, mx.array)
    assert np.abs(np.array(result) - plainly(monkeypatch, lambda: FUNCTIONS[name](x))).max() < 3e-6


@pytest.mark.parametrize("of", ["input", "weights", "one weight"])
def test_gradients_are_those_of_the_plain_path(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view would cut them off, and they would be 0."""
    stack, x = encoder(), inputs(2, 7, 48)
    stack(x)  # weights are packed

    def slope() -> Any:
        def loss(value: Any) -> mx.array:
            if of != "input":
                stack.update(value if of == "weights" else {"layers": [{}, {}, {"mlp": {"fc2": {"weight": value}}}]})
            return (stack(value if of == "input" else x).last_hidden_state ** 2).sum()

        given = {"input": x, "weights": stack.parameters(), "one weight": stack.layers[2].mlp.fc2.weight}[of]
        result = mx.grad(loss)(given)
        stack.update(given if of == "weights" else {})
        return result

    right = dict(tree_flatten({"": slope()}))
    with monkeypatch.context() as patch:
        patch.setattr(device, "has_kernels", lambda: False)
        plain = dict(tree_flatten({"": slope()}))
    largest = max(float(mx.abs(value).max()) for value in plain.values())
    assert largest > 1
    for name, value in plain.items():  # those of the keys' biases are 0
        assert np.abs(np.array(value) - np.array(right[name])).max() < 1e-5 * largest, name


def test_transformations_of_mlx_are_not_left() -> None:
    stack, x = encoder(), inputs(2, 7, 48)
    right = np.array(stack(x).last_hidden_state)

    def last(x: mx.array) -> mx.array:
        return stack(x).last_hidden_state

    assert np.abs(np.array(mx.vmap(last)(x[:, None]))[:, 0] - right).max() < 1e-5
    (value,), (slope,) = mx.jvp(last, [x], [mx.ones_like(x)])
    assert np.abs(np.array(value) - right).max() < 1e-5
    assert float(mx.abs(slope).max()) > 1e-3
    inside = []
    mx.grad(lambda x: inside.append(is_settled(x)) or x.sum())(x)
    assert inside == [False]
    assert is_settled(x * 2)


def test_packed_weights_are_held_once() -> None:
    """The layer's own array is lazy then, and what it shows are the same numbers."""
    layer = nn.Linear(512, 300)
    right = np.array(layer.weight)
    before = mx.get_active_memory()
    linear(layer, mx.ones((4, 512)))
    assert mx.get_active_memory() - before < 0.2 * right.nbytes  # a panel is filled up
    assert layer.weight.shape == (300, 512)
    assert np.array_equal(np.array(layer.weight), right)


@pytest.mark.parametrize("quantised", [False, True])
def test_other_weights_are_prepared_anew(quantised: bool) -> None:
    layer = nn.Linear(64, 40)
    layer = nn.QuantizedLinear.from_linear(layer, 32, 8) if quantised else layer
    x = inputs(3, 64)
    first = np.array(linear(layer, x))
    layer.bias = layer.bias + 1
    assert np.allclose(np.array(linear(layer, x)), first + 1, atol=1e-5)
    name = "scales" if quantised else "weight"
    layer[name] = layer[name] * 2
    if quantised:
        layer.biases = layer.biases * 2
    assert np.allclose(np.array(linear(layer, x) - layer.bias), 2 * (first - np.array(layer.bias) + 1), atol=1e-4)


def test_copies_are_prepared_for_themselves() -> None:
    stack, x = encoder(), inputs(1, 5, 48)
    right = np.array(stack(x).last_hidden_state)
    for other in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        assert np.array_equal(np.array(other(x).last_hidden_state), right)
        other.layers[0].mlp.fc2.bias = other.layers[0].mlp.fc2.bias + 1
        assert not np.allclose(np.array(other(x).last_hidden_state), right, atol=0.1)
    assert np.array_equal(np.array(stack(x).last_hidden_state), right)


def test_weights_are_shown_to_another_thread() -> None:
    stack, x = encoder(), inputs(1, 5, 48)
    mx.eval(x)
    right = {name: np.array(array) for name, array in tree_flatten(stack.parameters())}
    stack(x)
    found: dict[str, np.ndarray] = {}
    thread = threading.Thread(
        target=lambda: found.update({name: np.array(array) for name, array in tree_flatten(stack.parameters())})
    )
    thread.start()
    thread.join()
    assert found.keys() == right.keys()
    assert all(np.array_equal(found[name], right[name]) for name in right)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_16_bit_weights_are_read_as_they_are(dtype: mx.Dtype) -> None:
    layer = nn.Linear(96, 50)
    layer.weight = layer.weight.astype(dtype)
    x = inputs(9, 96)
    right = np.array(x) @ np.array(layer.weight.astype(mx.float32)).T + np.array(layer.bias)
    assert np.abs(np.array(linear(layer, x)) - right).max() < 1e-5
    assert layer.weight.dtype == dtype


def test_few_tokens_take_finer_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "inputs_of", lambda inputs: inputs)  # whatever MLX_MM_CPU says
    layer = nn.QuantizedLinear.from_linear(nn.Linear(512, 64), 64, 4)
    x = inputs(1, 512)
    full = mx.dequantize(layer.weight, layer.scales, layer.biases, 64, 4)
    right = np.array(x) @ np.array(full).T + np.array(layer.bias)
    fine, fast = (np.abs(np.array(product(layer, x)) - right).max() for product in (token_linear, linear))
    assert fine < 2e-4 * np.abs(right).max() < fast < 2e-2 * np.abs(right).max()


def test_a_run_within_a_run_stays_among_views() -> None:
    kinds = []

    def inner(x: Any) -> Any:
        kinds.append(type(x))
        return x

    result = run(lambda x: run(inner, x), inputs(2, 3))
    assert kinds == [np.ndarray]
    assert isinstance(result, mx.array)
    half = inputs(2, 3).astype(mx.float16)
    run(inner, half)  # which is no business of the kernels
    assert kinds[1] is mx.array
