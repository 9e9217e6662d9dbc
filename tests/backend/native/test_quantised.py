"""Products with quantised weights and rounded inputs, against the same in float64, with each instruction set."""

from __future__ import annotations

import ctypes
import itertools

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from quantised_weights import Stored, affine, fp4, packed_words

from mlx_mm.backend.native import calls, signatures
from mlx_mm.backend.native.library import LIBRARY
from mlx_mm.backend.native.signatures import BFLOAT16, FLOAT16, FLOAT32, INPUTS_FAST, INPUTS_FINE, MXFP4, NVFP4

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the kernels were not built")

MOST = {INPUTS_FAST: 127, INPUTS_FINE: 127 * 128}  # the greatest whole number of an input
FEW = 4  # rows that are rounded to two bytes
EXACT_SUMS = 1e-5  # float32 sums of rounded inputs
TWO_BYTES = 2e-4


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)


def inputs(random: np.random.Generator, rows: int, cols: int) -> calls.Floats:
    """None of them halfway between two whole numbers once it is rounded, as processors may differ there."""
    x = random.standard_normal((rows, cols)).astype(np.float32)
    for step in (16, 32, 64):
        for most in MOST.values():
            if cols % step == 0:
                whole, _ = scaled(x, step, most)
                x[np.abs(whole % 1 - 0.5) < 1e-3 if most == 127 else np.abs(whole % 1 - 0.5) < 1e-1] = 0
    return x


def scaled(x: calls.Floats, step: int, most: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """x so that the greatest of each step is `most`, and what it was divided by."""
    steps = x.reshape(len(x), -1, step)
    greatest = np.abs(steps).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(most), greatest, out=np.zeros_like(greatest), where=greatest > 0)
    return (steps * inverse.astype(np.float64)).reshape(x.shape), np.repeat(greatest / most, step).reshape(x.shape)


def rounded(x: calls.Floats, group: int, most: int) -> npt.NDArray[np.float64]:
    whole, scale = scaled(x, min(group, 64), most)
    return np.rint(whole) * scale


def error(found: calls.Floats, expected: npt.NDArray[np.float64], least: float = 0) -> float:
    """The greatest, relative to the greatest number of its row, which counts as `least` where it is smaller."""
    return float((np.abs(found - expected).max(axis=-1) / np.maximum(np.abs(expected).max(axis=-1), least)).max())


def check(kernels: ctypes.CDLL, weight: Stored, x: calls.Floats) -> None:
    """One byte for every row, and two bytes for few of them."""
    group = weight.native.group_size
    usual = float(np.linalg.norm(weight.numbers, axis=-1).max())  # standard deviation of x w
    for kind, few in ((INPUTS_FAST, x), (INPUTS_FINE, x[:FEW])):
        found = calls.product(kernels, weight.native, few, inputs=kind)
        assert error(found, rounded(few, group, MOST[kind]) @ weight.numbers.T, usual) < EXACT_SUMS
    assert error(found, few.astype(np.float64) @ weight.numbers.T, usual) < TWO_BYTES


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_words_give_the_same_bits(kernels: ctypes.CDLL, random: np.random.Generator, bits: int) -> None:
    """Over several parts of rows too, and 16-bit inputs are not for them."""
    for group, kind, wide in itertools.product([32, 64, 128], [FLOAT32, BFLOAT16], [False, True]):
        n, k, rows = (97, 1024, 300) if wide else (50, 3 * group, 7)
        weight, x = affine(random, (n, k), bits, group, kind), random.standard_normal((rows, k)).astype(np.float32)
        packed = packed_words(kernels, weight)
        expected = calls.product(kernels, weight.native, x, inputs=INPUTS_FAST)
        assert np.array_equal(calls.product(kernels, packed.native, x, inputs=INPUTS_FAST), expected)
        one = calls.product(kernels, packed.native, x[-1:], inputs=INPUTS_FINE)
        assert np.array_equal(one, expected[-1:])
        with pytest.raises(calls.KernelError):
            calls.product(kernels, packed.native, x)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_affine(kernels: ctypes.CDLL, random: np.random.Generator, bits: int) -> None:
    for kind, group in itertools.product([FLOAT32, FLOAT16, BFLOAT16], [32, 64, 128]):
        weight = affine(random, (33, 3 * group), bits, group, kind, flat=kind == FLOAT16)
        check(kernels, weight, inputs(random, 6, 3 * group))


@pytest.mark.parametrize("kind", [MXFP4, NVFP4])
@pytest.mark.parametrize("cols", [32, 96, 544])
def test_fp4(kernels: ctypes.CDLL, random: np.random.Generator, kind: int, cols: int) -> None:
    check(kernels, fp4(random, (33, cols), kind), inputs(random, 6, cols))


@pytest.mark.parametrize(
    ("rows", "numbers", "cols"), [(1, 1, 64), (3, 1, 64), (13, 33, 64), (2, 70, 1088), (29, 70, 1088), (2, 5, 13696)]
)
def test_shapes(kernels: ctypes.CDLL, random: np.random.Generator, rows: int, numbers: int, cols: int) -> None:
    for bits in (4, 8):
        check(kernels, affine(random, (numbers, cols), bits, 64), inputs(random, rows, cols))


@pytest.mark.parametrize("mode", ["affine", "mxfp4", "nvfp4"])
def test_layout_of_mlx(kernels: ctypes.CDLL, random: np.random.Generator, mode: str) -> None:
    weight = mx.array(random.standard_normal((40, 192), dtype=np.float32))
    x = inputs(random, 5, 192)
    for bits in (2, 3, 4, 5, 6, 8) if mode == "affine" else (4,):
        group = {"affine": 64, "mxfp4": 32, "nvfp4": 16}[mode]
        parts = mx.quantize(weight, group_size=group, bits=bits, mode=mode)
        numbers = np.array(mx.dequantize(*parts, group_size=group, bits=bits, mode=mode).astype(mx.float32))
        kind = {"affine": signatures.AFFINE, "mxfp4": MXFP4, "nvfp4": NVFP4}[mode]
        arrays = [np.array(part) for part in parts]
        native = signatures.Weight(kind, FLOAT32, bits, group, 40, 192, *map(calls.address, arrays))
        found = calls.product(kernels, native, x, inputs=INPUTS_FAST)
        assert error(found, rounded(x, group, 127) @ numbers.astype(np.float64).T) < EXACT_SUMS


def test_wrong_variants_fail(kernels: ctypes.CDLL, random: np.random.Generator) -> None:
    weight, x = affine(random, (33, 256), 4, 64), inputs(random, 6, 256)
    small = rounded(x, 64, 127)
    found = calls.product(kernels, weight.native, x, inputs=INPUTS_FAST)
    biases_times_inputs = small @ (weight.scales * weight.codes).T + x.astype(np.float64) @ weight.biases.T
    assert error(found, biases_times_inputs) > 10 * EXACT_SUMS
    swapped = weight.codes.reshape(33, -1, 2)[..., ::-1].reshape(33, -1)
    assert error(found, small @ (weight.scales * swapped + weight.biases).T) > 10 * EXACT_SUMS
    assert error(found, x.astype(np.float64) @ weight.numbers.T) > 10 * EXACT_SUMS


def test_zeros_and_one_huge_number(kernels: ctypes.CDLL, random: np.random.Generator) -> None:
    weight, x = affine(random, (33, 256), 4, 64), inputs(random, 6, 256)
    x[0] = 0
    x[1, :64] = 0
    x[2, 70] = 1e30
    x[3] = 1e-38  # smaller than what is told from 0
    found = calls.product(kernels, weight.native, x, inputs=INPUTS_FAST)
    assert not found[0].any()
    assert np.abs(found[3]).max() < 1e-30
    keep = [1, 2, 4, 5]
    assert error(found[keep], rounded(x[keep], 64, 127) @ weight.numbers.T) < EXACT_SUMS


@pytest.mark.parametrize("bits", [4, 8])
def test_greatest_numbers(kernels: ctypes.CDLL, bits: int) -> None:
    """Nothing saturates."""
    weight = affine(np.random.default_rng(0), (40, 256), bits, 64)
    weight.arrays[0][:] = 255
    numbers = weight.scales * (2**bits - 1) + weight.biases
    for sign in (1, -1):
        x = np.full((6, 256), sign, np.float32)
        for few in (x, x[:1]):
            assert error(calls.product(kernels, weight.native, few, inputs=INPUTS_FINE), few @ numbers.T) < EXACT_SUMS


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_a_row_is_the_same_anywhere(kernels: ctypes.CDLL, random: np.random.Generator, bits: int) -> None:
    weight = affine(random, (70, 320), bits, 64, BFLOAT16)
    x = inputs(random, 1, 320)
    others = inputs(random, 140, 320)
    kernels.mm_set_threads(1)
    alone = {kind: calls.product(kernels, weight.native, x, inputs=kind) for kind in MOST}
    for threads in (1, 3):
        kernels.mm_set_threads(threads)
        for rows in (*range(2, 14), 140):
            batch = others[:rows].copy()
            place = rows * 5 % rows if rows < 14 else 77
            batch[place] = x
            found = calls.product(kernels, weight.native, batch, inputs=INPUTS_FAST)[place]
            assert np.array_equal(found, alone[INPUTS_FAST][0])
            fine = calls.product(kernels, weight.native, batch, inputs=INPUTS_FINE)[place]
            assert np.array_equal(fine, alone[INPUTS_FINE if rows <= FEW else INPUTS_FAST][0])


@pytest.mark.parametrize("kind", [INPUTS_FAST, INPUTS_FINE])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(
    kernels: ctypes.CDLL, random: np.random.Generator, kind: int, value: float
) -> None:
    weight, x = affine(random, (33, 128), 4, 64), inputs(random, 4, 128)
    clean = calls.product(kernels, weight.native, x, inputs=kind)
    x[2, 77] = value
    found = calls.product(kernels, weight.native, x, inputs=kind)
    assert np.isnan(found[2]).all()
    assert np.array_equal(found[[0, 1, 3]], clean[[0, 1, 3]])


@pytest.mark.parametrize("rows", [2, 15])
def test_bias_activation_and_residual_in_place(kernels: ctypes.CDLL, random: np.random.Generator, rows: int) -> None:
    weight, x = affine(random, (45, 128), 4, 64), inputs(random, rows, 128)
    bias = random.standard_normal(45).astype(np.float32)
    wide = np.full((rows + 2, 60), 7.0, np.float32)
    y = wide[1:-1, 3:48]
    y[:] = random.standard_normal(y.shape)
    plain = calls.product(kernels, weight.native, x, inputs=INPUTS_FINE) + bias
    expected = plain / (1 + np.exp(-plain)) + y
    address = calls.address(y)
    call = signatures.ProductCall(
        calls.address(x), rows, 128, calls.address(bias), address, 60, address, 60, signatures.SILU, INPUTS_FINE
    )
    calls.check(kernels.mm_product(ctypes.byref(weight.native), ctypes.byref(call)))
    assert np.allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    wide[1:-1, 3:48] = 7
    assert (wide == 7).all()


def test_rows_that_lie_apart(kernels: ctypes.CDLL, random: np.random.Generator) -> None:
    weight, x = affine(random, (45, 128), 8, 64), inputs(random, 14, 128)
    wide = np.full((14, 131), np.nan, np.float32)
    wide[:, 2:130] = x
    for kind, rows in ((INPUTS_FAST, 14), (INPUTS_FINE, 3)):
        found = calls.product(kernels, weight.native, wide[:rows, 2:130], inputs=kind)
        assert np.array_equal(found, calls.product(kernels, weight.native, x[:rows], inputs=kind))
