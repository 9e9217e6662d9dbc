"""The float32 product of the kernels, with weights of every kind, against float64."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator

import numpy as np
import pytest
from stored_weights import FLOATS, KINDS, QUANTISED, Stored, group_of, of_floats, pack, store

from mlx_mm.backend.native import calls, library, signatures
from mlx_mm.backend.native.library import LIBRARY

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the kernels are not built")

TOLERANCE = 2**-24 * 512**0.5  # of the sum of the sizes of what is added: 512 roundings, some up and some down
LOADED = library.load(LIBRARY) if LIBRARY.exists() else None
SETS = library.instruction_sets(LOADED) if LOADED else []


@pytest.fixture(params=SETS)
def kernels(request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    """The library with one of the instruction sets that this machine has; there is one choice in a process."""
    before = library.native_status().instruction_set or SETS[0]
    assert LOADED is not None
    threads = LOADED.mm_threads()
    LOADED.mm_choose(request.param.encode())
    yield LOADED
    LOADED.mm_set_threads(threads)
    LOADED.mm_choose(before.encode())


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def error(found: np.ndarray, x: np.ndarray, stored: Stored, right: np.ndarray | None = None) -> float:
    """The greatest, as a part of the sum of the sizes of what was added."""
    x = x.astype(np.float64)
    right = x @ stored.numbers.T if right is None else right
    size = np.abs(x) @ np.abs(stored.numbers.T) + np.abs(right) + 1e-30
    return float((np.abs(found - right) / size).max())


def widths(kind: str) -> tuple[int, ...]:
    """Of weights: those where blocks, units, vectors and groups end in all places."""
    if group_of(kind) == 1:
        return (1, 7, 130, 515, 1027)
    whole = max(32, group_of(kind))  # MLX takes apart no single group of 16
    return (whole, 3 * whole, -(-544 // whole) * whole)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_weight(kernels: ctypes.CDLL, kind: str) -> None:
    for (rows, outputs), width in zip(((1, 1), (3, 50), (17, 97), (9, 16), (5, 131)), widths(kind) * 2, strict=False):
        for scales in FLOATS if kind == "affine4-64" else (tuple(FLOATS)[rows % 3],):
            stored, x = store(kernels, kind, outputs, width, scales=scales), numbers(rows, width)
            found = calls.product(kernels, stored.weight, x)
            assert error(found, x, stored) < TOLERANCE, (rows, outputs, width, scales)
            if width > 1:
                assert error(found, x[:, ::-1], stored) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", ["packed", "bfloat16", "affine3-32"])
@pytest.mark.parametrize("rows", [31, 300, 1000])
def test_many_rows(kernels: ctypes.CDLL, kind: str, rows: int) -> None:
    stored, x = store(kernels, kind, 70, 160), numbers(rows, 160)
    assert error(calls.product(kernels, stored.weight, x), x, stored) < TOLERANCE


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_scale_of_another_group_shows(kernels: ctypes.CDLL, kind: str) -> None:
    width = 3 * group_of(kind)
    stored, x = store(kernels, kind, 20, width), numbers(4, width)
    for array in stored.arrays[1:]:
        right = array.copy()
        array[:] = np.roll(right, 1)
        assert error(calls.product(kernels, stored.weight, x), x, stored) > 1e-3
        array[:] = right
    assert error(calls.product(kernels, stored.weight, x), x, stored) < TOLERANCE


@pytest.mark.parametrize("kind", [*FLOATS, "affine5-64", "nvfp4"])
def test_packing_is_unpacking(kernels: ctypes.CDLL, kind: str) -> None:
    for outputs, width in ((1, 64), (101, 192), *(((101, 7), (50, 131)) if kind in FLOATS else ())):
        stored, x = store(kernels, kind, outputs, width), numbers(9, width)
        packed = pack(kernels, stored)
        panels = packed.arrays[0].transpose(0, 2, 1).reshape(-1, width)
        exact = kind in FLOATS or kind == "nvfp4"
        assert np.allclose(panels[:outputs], stored.numbers, rtol=0, atol=0 if exact else 1e-5)
        assert not panels[outputs:].any()
        assert np.array_equal(calls.product(kernels, packed.weight, x), calls.product(kernels, stored.weight, x))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_every_16_bit_number(kernels: ctypes.CDLL, kind: str) -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    stored = of_floats(np.ones((1 << 16, 1), np.float32), kind)
    stored.arrays[0].view(np.uint16)[:, 0] = codes
    right = (
        codes.view(np.float16).astype(np.float32) if kind == "float16" else (codes.astype(np.uint32) << 16).view("f4")
    )
    found = calls.product(kernels, stored.weight, np.ones((1, 1), np.float32))[0]
    assert np.array_equal(found, right, equal_nan=True)


def test_every_microscaled_number_and_scale(kernels: ctypes.CDLL) -> None:
    def minifloat(code: int, exponent_bits: int, mantissa_bits: int) -> float:
        """OCP Microscaling Formats 1.0, 5.3."""
        sign, exponent, mantissa = code >> (exponent_bits + mantissa_bits), code >> mantissa_bits, code
        exponent, mantissa = exponent % (1 << exponent_bits), mantissa % (1 << mantissa_bits) / (1 << mantissa_bits)
        bias = (1 << (exponent_bits - 1)) - 1
        size = (1 + mantissa) * 2.0 ** (exponent - bias) if exponent else mantissa * 2.0 ** (1 - bias)
        return (1 - 2 * sign) * size

    e4m3 = np.array([math.nan if code % 128 == 127 else minifloat(code, 4, 3) for code in range(256)])
    e8m0 = np.array([2.0 ** (code - 127) for code in range(255)] + [math.nan])
    e2m1 = np.array([minifloat(code, 2, 1) for code in range(16)])
    one = np.eye(1, 32, dtype=np.float32)

    def found(kind: str, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        stored = store(kernels, kind, 256, 32)
        stored.arrays[0].view(np.uint8)[:] = codes[:, None]
        stored.arrays[1][:] = scales[:, None]
        return calls.product(kernels, stored.weight, one)[0]

    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(found("mxfp8", every, np.full(256, 127, np.uint8)), e4m3, equal_nan=True)
    assert np.array_equal(found("mxfp8", np.full(256, 0x38, np.uint8), every), e8m0, equal_nan=True)
    assert np.array_equal(found("mxfp4", every, np.full(256, 128, np.uint8)), 2 * e2m1[every % 16])
    assert np.array_equal(found("nvfp4", np.full(256, 0x22, np.uint8), every), e4m3, equal_nan=True)


@pytest.mark.parametrize("kind", ["packed", "bfloat16", "affine4-64", "mxfp8"])
def test_a_row_is_the_same_wherever_it_is(kernels: ctypes.CDLL, kind: str) -> None:
    width = 1056 if kind == "mxfp8" else 1088
    stored, x, bias = store(kernels, kind, 75, width), numbers(300, width), numbers(75)

    def product(rows: np.ndarray) -> np.ndarray:
        return calls.product(kernels, stored.weight, rows, bias=bias, activation=signatures.GELU_TANH)

    whole = product(x)
    for first, last in ((0, 1), (5, 6), (1, 4), (3, 16), (7, 72), (44, 300)):
        assert np.array_equal(product(x[first:last]), whole[first:last])
    for threads in (1, 3, 16):
        kernels.mm_set_threads(threads)
        assert np.array_equal(product(x), whole)
        assert np.array_equal(product(x[:1]), whole[:1])


def test_strides_and_residuals(kernels: ctypes.CDLL) -> None:
    rows, outputs, width = 13, 53, 37
    stored, x, bias = store(kernels, "packed", outputs, width), numbers(rows, width + 5), numbers(outputs)
    beside, y = numbers(rows, outputs + 3, seed=2), np.full((rows, outputs + 7), np.nan, np.float32)
    call = signatures.ProductCall(
        calls.address(x), rows, width + 5, calls.address(bias), calls.address(beside), outputs + 3, calls.address(y),
        outputs + 7, signatures.NONE, signatures.INPUTS_EXACT,
    )  # fmt: skip
    calls.check(kernels.mm_product(ctypes.byref(stored.weight), ctypes.byref(call)))
    product = x[:, :width].astype(np.float64) @ stored.numbers.T
    right = product + bias + beside[:, :outputs]
    assert error(y[:, :outputs], x[:, :width], stored, right) < TOLERANCE
    assert np.isnan(y[:, outputs:]).all()
    assert error(y[:, :outputs], x[:, :width], stored, right - beside[:, :outputs] + beside[:, 3:]) > 1e-3

    call.y, call.ldy = call.residual, call.ldr
    calls.check(kernels.mm_product(ctypes.byref(stored.weight), ctypes.byref(call)))
    assert np.array_equal(beside[:, :outputs], y[:, :outputs])


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (signatures.NONE, lambda x: x),
        (signatures.GELU_ERF, lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
        (signatures.GELU_TANH, lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        (signatures.QUICK_GELU, lambda x: x / (1 + np.exp(-1.702 * x))),
        (signatures.SILU, lambda x: x / (1 + np.exp(-x))),
        (signatures.RELU, lambda x: np.maximum(x, 0)),
    ],
)
def test_activations(kernels: ctypes.CDLL, kind: int, function) -> None:
    stored, x, bias, residual = store(kernels, "packed", 50, 12), numbers(7, 12), numbers(50), numbers(7, 50, seed=3)
    found = calls.product(kernels, stored.weight, x, bias=bias, activation=kind, residual=residual)
    right = function(x.astype(np.float64) @ stored.numbers.T + bias) + residual
    assert np.abs(found - right).max() < 2e-6  # measured: 1.4e-6
    other = calls.product(kernels, stored.weight, x, bias=bias, activation=(kind + 1) % 6, residual=residual)
    assert np.abs(other - right).max() > 1e-4


@pytest.mark.parametrize("kind", ["packed", "float16", "affine4-64", "mxfp4"])
def test_a_row_that_is_not_finite_stays_alone(kernels: ctypes.CDLL, kind: str) -> None:
    stored, x = store(kernels, kind, 60, 128), numbers(20, 128)
    whole = calls.product(kernels, stored.weight, x)
    x[3, 5], x[11, 127], x[19, 0] = math.nan, math.inf, -math.inf
    found = calls.product(kernels, stored.weight, x)
    others = [row for row in range(20) if row not in (3, 11, 19)]
    assert np.array_equal(found[others], whole[others])
    with np.errstate(invalid="ignore"):
        right = x[[3, 11, 19]].astype(np.float64) @ stored.numbers.T
    assert np.array_equal(np.isnan(found[[3, 11, 19]]), np.isnan(right))
    assert np.array_equal(np.isinf(found[[3, 11, 19]]), np.isinf(right))


def test_nothing_is_a_product_too(kernels: ctypes.CDLL) -> None:
    stored = store(kernels, "packed", 50, 12)
    assert calls.product(kernels, stored.weight, numbers(0, 12)).shape == (0, 50)
    without = of_floats(np.empty((50, 0), np.float32))
    call = signatures.ProductCall(None, 2, 0, None, None, 0, None, 50, signatures.NONE, signatures.INPUTS_EXACT)
    y = np.full((2, 50), np.nan, np.float32)
    call.y = calls.address(y)
    calls.check(kernels.mm_product(ctypes.byref(without.weight), ctypes.byref(call)))
    assert not y.any()


@pytest.mark.parametrize(("field", "value"), [("bits", 7), ("bits", 1), ("group_size", 48), ("cols", 100), ("kind", 9)])
def test_unknown_weights(kernels: ctypes.CDLL, field: str, value: int) -> None:
    stored = store(kernels, "affine4-64", 4, 128)
    setattr(stored.weight, field, value)
    with pytest.raises(calls.KernelError, match="does not know"):
        calls.product(kernels, stored.weight, numbers(2, stored.weight.cols))
    with pytest.raises(calls.KernelError, match="does not know"):
        pack(kernels, stored)
