"""The kernels that go row by row or number by number, against float64."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from mlx_mm.backend.native import calls, signatures
from mlx_mm.backend.native.calls import Floats
from mlx_mm.backend.native.signatures import GELU_ERF, GELU_TANH, NONE, QUICK_GELU, RELU, SILU

Doubles = npt.NDArray[np.float64]

ULP = 2.0**-23


def draw(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def doubles(x: Floats | None, default: float) -> Doubles:
    return np.array(default if x is None else x, np.float64)


def layer_norm(x: Floats, weight: Floats | None, bias: Floats | None, eps: float) -> Doubles:
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return normed * doubles(weight, 1) + doubles(bias, 0)


def rms_norm(x: Floats, weight: Floats | None, eps: float) -> Doubles:
    wide = x.astype(np.float64)
    return wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + eps) * doubles(weight, 1)


# --- norms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 2), (7, 15), (1, 16), (2, 3, 97), (50, 768), (2, 1023), (3, 13697), (400, 64)]
)
def test_norms(kernels: ctypes.CDLL, shape: tuple[int, ...]) -> None:
    x, residual = draw(*shape) * 3 + 1, draw(*shape, seed=1)
    weight, bias = draw(shape[-1], seed=2), draw(shape[-1], seed=3)
    for w, b, r in ((None, None, None), (weight, None, None), (weight, bias, None), (weight, bias, residual)):
        added = doubles(r, 0)
        scale = max(1.0, float(np.abs(layer_norm(x, w, b, 1e-5)).max()))
        found = calls.layer_norm(kernels, x, w, b, 1e-5, r)
        assert np.abs(found - layer_norm(x, w, b, 1e-5) - added).max() < 6 * ULP * scale
        found = calls.rms_norm(kernels, x, w, 1e-5, r)
        assert np.abs(found - rms_norm(x, w, 1e-5) - added).max() < 6 * ULP * scale
    if shape[-1] > 2:
        assert np.abs(layer_norm(x, None, None, 1e-5) - rms_norm(x, None, 1e-5)).max() > 0.1


@pytest.mark.parametrize("offset", [1000.0, -1e6])
def test_a_large_mean_takes_nothing_away(kernels: ctypes.CDLL, offset: float) -> None:
    for cols in (40, 768, 5000):
        x = draw(9, cols) + np.float32(offset)
        assert np.abs(calls.layer_norm(kernels, x, None, None, 1e-6) - layer_norm(x, None, None, 1e-6)).max() < 1e-5
    equal = np.full((3, 768), offset + 0.1, np.float32)
    assert np.abs(calls.layer_norm(kernels, equal, None, None, 1e-6)).max() < 1e-3


def test_norms_of_tiny_and_great_numbers(kernels: ctypes.CDLL) -> None:
    for size in (1e-18, 1e-3, 1e15):
        x = draw(4, 100) * np.float32(size)
        assert np.abs(calls.layer_norm(kernels, x, None, None, 0) - layer_norm(x, None, None, 0)).max() < 1e-5
        assert np.abs(calls.rms_norm(kernels, x, None, 0) - rms_norm(x, None, 0)).max() < 1e-5
    assert not calls.layer_norm(kernels, np.zeros((2, 33), np.float32), None, None, 1e-6).any()


def test_norms_of_a_row_alone(kernels: ctypes.CDLL) -> None:
    x = draw(700, 100)
    norms: list[Callable[[Floats], Floats]] = [
        lambda x: calls.layer_norm(kernels, x, None, None, 1e-6),
        lambda x: calls.rms_norm(kernels, x, None, 1e-6),
    ]
    for norm in norms:
        kernels.mm_set_threads(1)
        whole = norm(x)
        kernels.mm_set_threads(3)
        assert np.array_equal(norm(x), whole)
        assert np.array_equal(norm(x[300:302]), whole[300:302])
        for bad in (np.nan, np.inf):
            broken = x.copy()
            broken[5, 99] = bad
            found = norm(broken)
            assert np.isnan(found[5, 99])
            assert np.array_equal(np.delete(found, 5, axis=0), np.delete(whole, 5, axis=0))
    assert np.isnan(calls.layer_norm(kernels, broken, None, None, 1e-6)[5]).all()


# --- activations --------------------------------------------------------------------------------------------------

ERF = np.vectorize(math.erf)


def sigmoid(x: Doubles) -> Doubles:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[int, Callable[[Doubles], Doubles]] = {
    NONE: lambda x: x,
    GELU_ERF: lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2,
    GELU_TANH: lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    QUICK_GELU: lambda x: x * sigmoid(1.702 * x),
    SILU: lambda x: x * sigmoid(x),
    RELU: lambda x: np.maximum(x, 0),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kernels: ctypes.CDLL, kind: int) -> None:
    x = np.concatenate([np.linspace(-12, 12, 40_001), [-1e38, -3e4, -200, -88, 0, 60, 3e4, 1e38], draw(37)]).astype(
        np.float32
    )
    right = ACTIVATIONS[kind](x.astype(np.float64))
    found = calls.activation(kernels, kind, x)
    assert (np.abs(found - right) / np.maximum(1, np.abs(right))).max() < 5e-7
    for other in ACTIVATIONS.keys() - {kind}:
        assert np.abs(found - ACTIVATIONS[other](x.astype(np.float64))).max() > 3e-4  # the two forms of GELU
    special = calls.activation(kernels, kind, np.array([np.nan, np.inf, -np.inf, 0], np.float32))
    assert np.isnan(special[0])
    assert special[1] == np.inf
    assert special[2] == (-np.inf if kind == NONE else 0)
    assert special[3] == 0


def test_activations_of_so_many(kernels: ctypes.CDLL) -> None:
    for count in (1, 3, 15, 16, 17, 16384, 16385, 40000):
        x = draw(count)
        x[count // 2] = np.nan
        found = calls.activation(kernels, SILU, x)
        right = ACTIVATIONS[SILU](x.astype(np.float64))
        assert np.array_equal(np.isnan(found), np.isnan(right))
        assert np.nanmax(np.abs(found - right), initial=0) < 5e-7


def test_exponentials(kernels: ctypes.CDLL) -> None:
    """Weights of two keys with zeros as queries are exp(difference), and silu at large -x is x exp(x)."""
    steps = -np.linspace(0, 86, 5000, dtype=np.float32)
    mask = np.stack([np.zeros_like(steps), steps], axis=-1)[None, None]  # (1, 1, 5000, 2)
    q, k = np.zeros((1, 1, 5000, 1), np.float32), np.zeros((1, 1, 2, 1), np.float32)
    v = np.array([0, 1], np.float32).reshape(1, 1, 2, 1)
    weights = calls.attention(kernels, q, k, v, scale=1, mask=mask)[0, 0, :, 0].astype(np.float64)
    right = 1 / (1 + np.exp(-steps.astype(np.float64)))
    assert (np.abs(weights - right) / right).max() < 3e-7
    x = -np.linspace(20, 85, 5000, dtype=np.float32)
    found = calls.activation(kernels, SILU, x).astype(np.float64)
    assert (np.abs(found / (x.astype(np.float64) * np.exp(x.astype(np.float64))) - 1)).max() < 4e-7


def test_gates(kernels: ctypes.CDLL) -> None:
    for rows, cols in ((1, 1), (3, 37), (5, 64), (2, 20_000), (1, 40_001)):
        both = draw(rows, 2 * cols)
        gate, up = both[:, :cols], both[:, cols:]
        found = calls.gated(kernels, SILU, gate, up)
        right = ACTIVATIONS[SILU](gate.astype(np.float64)) * up
        assert np.abs(found - right).max() < 5e-6
        swapped = ACTIVATIONS[SILU](up.astype(np.float64)) * gate
        assert np.abs(found - swapped).max() > 1e-3


# --- rotary positions ---------------------------------------------------------------------------------------------


def turned(x: Floats, cos: Floats, sin: Floats, neighbours: bool) -> Doubles:
    half = cos.shape[-1]
    y = x.astype(np.float64)
    first = slice(0, 2 * half, 2) if neighbours else slice(0, half)
    second = slice(1, 2 * half, 2) if neighbours else slice(half, 2 * half)
    a, b = y[..., first].copy(), y[..., second].copy()
    y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
    return y


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize(
    ("width", "dims"), [(2, 2), (24, 24), (64, 64), (72, 36), (80, 78), (128, 64), (128, 128), (7, 4)]
)
def test_rotary_positions(kernels: ctypes.CDLL, width: int, dims: int, neighbours: bool) -> None:
    x = draw(2, 11, 3, width).transpose(0, 2, 1, 3)
    for shape in ((11, dims // 2), (2, 1, 11, dims // 2)):
        angles = draw(*shape).astype(np.float64) * 3
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        found = calls.rotate(kernels, x, cos, sin, neighbours=neighbours)
        assert np.abs(found - turned(x, cos, sin, neighbours)).max() < 1e-6
        assert np.array_equal(found[..., dims:], x[..., dims:])
        assert np.abs(found - turned(x, cos, -sin, neighbours)).max() > 0.1
        if dims > 2:
            assert np.abs(found - turned(x, cos, sin, not neighbours)).max() > 0.1
    x[1, 0, 4, 0] = np.nan
    found = calls.rotate(kernels, x, cos, sin, neighbours=neighbours)
    assert np.isnan(found).sum() == 2


@pytest.mark.parametrize("neighbours", [False, True])
def test_rotary_positions_in_place(kernels: ctypes.CDLL, neighbours: bool) -> None:
    x, angles = draw(1, 5, 2, 50), draw(5, 21)
    cos, sin = np.cos(angles), np.sin(angles)
    right = turned(x.transpose(0, 2, 1, 3), cos, sin, neighbours).transpose(0, 2, 1, 3)
    at = calls.address(x)
    call = signatures.RotateCall(at, calls.address(cos), calls.address(sin), at, 1, 5, 2, 50, 42)
    call.x_strides = call.y_strides = (500, 100, 50)
    call.table_strides, call.neighbours = (0, 21), neighbours
    calls.check(kernels.mm_rotate(ctypes.byref(call)))
    assert np.abs(x - right).max() < 1e-6


# --- rows that only move ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "channels", "size"), [(4, 6, 3, 2), (5, 7, 1, 3), (32, 48, 3, 16), (2, 2, 2, 1)]
)
def test_patches(kernels: ctypes.CDLL, height: int, width: int, channels: int, size: int) -> None:
    x = draw(2, height, width, channels)
    rows, cols = height // size, width // size
    cut = x[:, : rows * size, : cols * size].reshape(2, rows, size, cols, size, channels).swapaxes(2, 3)
    assert np.array_equal(calls.patches(kernels, x, size), cut.reshape(2, rows * cols, -1))


def test_rows_in_an_order(kernels: ctypes.CDLL) -> None:
    for rows, cols, count in ((1, 1, 1), (7, 5, 7), (64, 96, 200), (300, 257, 300)):
        x = draw(3, rows, cols)
        order = np.random.default_rng(0).integers(0, rows, count).astype(np.int32)
        assert np.array_equal(calls.take_rows(kernels, x, order), x[:, order])
    for wrong in (-1, rows):
        with pytest.raises(calls.KernelError):
            calls.take_rows(kernels, x, np.array([0, wrong], np.int32))
