"""Rows that each take a weight of their own, against one product after the other, with each instruction set."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from quantised_weights import Stored, affine, fp4

from mlx_mm.backend.native import calls, signatures
from mlx_mm.backend.native.library import LIBRARY

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the kernels were not built")

COUNT, NUMBERS, COLS = 7, 45, 128
FLOAT_SUMS = 1e-5
INPUTS = (signatures.INPUTS_EXACT, signatures.INPUTS_FAST, signatures.INPUTS_FINE)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


def rows_of(random: np.random.Generator, kind: int) -> Stored:
    """COUNT weights of float32, float16 or bfloat16."""
    numbers = random.standard_normal((COUNT, NUMBERS, COLS)).astype(np.float32)
    stored: np.ndarray = numbers
    if kind == signatures.FLOAT16:
        stored = numbers.astype(np.float16)
        numbers = stored.astype(np.float32)
    elif kind == signatures.BFLOAT16:
        stored = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        numbers = (stored.astype(np.uint32) << 16).view(np.float32)
    native = signatures.Weight(signatures.ROWS, kind, 0, 0, NUMBERS, COLS, calls.address(stored))
    none = np.zeros(0)
    return Stored(native, numbers.astype(np.float64), none.astype(int), none, none, [stored])


def one(weights: Stored, number: int) -> signatures.Weight:
    w = weights.native
    parts = [calls.address(array[number]) for array in weights.arrays]
    return signatures.Weight(w.kind, w.type, w.bits, w.group_size, w.rows, w.cols, *parts)


def uneven(random: np.random.Generator, rows: int) -> np.ndarray:
    """Most rows go to expert 2, none to expert 4."""
    return np.where(random.random(rows) < 0.6, 2, random.choice([0, 1, 2, 3, 5, 6], rows)).astype(np.int32)


@pytest.mark.parametrize("rows", [1, 8, 90])
@pytest.mark.parametrize("inputs", INPUTS)
def test_each_row_as_by_a_product_of_its_expert(
    kernels: ctypes.CDLL, random: np.random.Generator, rows: int, inputs: int
) -> None:
    chosen, x = uneven(random, rows), random.standard_normal((rows, COLS)).astype(np.float32)
    shape = (COUNT, NUMBERS, COLS)
    for weights in (
        affine(random, shape, 4, 64, signatures.BFLOAT16),
        affine(random, shape, 6, 32),
        affine(random, shape, 8, 128, signatures.FLOAT16),
        fp4(random, shape, signatures.MXFP4),
        fp4(random, shape, signatures.NVFP4),
    ):
        found = calls.experts(kernels, weights.native, COUNT, chosen, x, inputs=inputs)
        for expert in set(chosen.tolist()):
            mine = chosen == expert
            expected = calls.product(kernels, one(weights, expert), x[mine], inputs=inputs)
            assert np.array_equal(found[mine], expected)


@pytest.mark.parametrize("kind", [signatures.FLOAT32, signatures.FLOAT16, signatures.BFLOAT16])
def test_floats(kernels: ctypes.CDLL, random: np.random.Generator, kind: int) -> None:
    weights, chosen = rows_of(random, kind), uneven(random, 40)
    x = random.standard_normal((40, COLS)).astype(np.float32)
    for inputs in INPUTS:
        found = calls.experts(kernels, weights.native, COUNT, chosen, x, inputs=inputs)
        expected = np.einsum("mk,mnk->mn", x.astype(np.float64), weights.numbers[chosen])
        assert np.allclose(found, expected, rtol=0, atol=FLOAT_SUMS * np.abs(expected).max())
        others = np.einsum("mk,mnk->mn", x.astype(np.float64), weights.numbers[(chosen + 1) % COUNT])
        assert not np.allclose(found, others, rtol=0, atol=0.1 * np.abs(expected).max())


@pytest.mark.parametrize("inputs", INPUTS)
def test_threads_and_place_change_nothing(kernels: ctypes.CDLL, random: np.random.Generator, inputs: int) -> None:
    weights, chosen = affine(random, (COUNT, NUMBERS, COLS), 4, 64), uneven(random, 60)
    x = random.standard_normal((60, COLS)).astype(np.float32)
    kernels.mm_set_threads(1)
    found = calls.experts(kernels, weights.native, COUNT, chosen, x, inputs=inputs)
    kernels.mm_set_threads(3)
    order = random.permutation(60)
    again = calls.experts(kernels, weights.native, COUNT, chosen[order], x[order], inputs=inputs)
    assert np.array_equal(again, found[order])


@pytest.mark.parametrize("inputs", INPUTS)
def test_bias_activation_and_residual_in_place(kernels: ctypes.CDLL, random: np.random.Generator, inputs: int) -> None:
    weights, chosen = affine(random, (COUNT, NUMBERS, COLS), 4, 64), uneven(random, 20)
    x = random.standard_normal((20, COLS)).astype(np.float32)
    bias = random.standard_normal(NUMBERS).astype(np.float32)
    y = random.standard_normal((20, NUMBERS)).astype(np.float32)
    plain = calls.experts(kernels, weights.native, COUNT, chosen, x, inputs=inputs) + bias
    expected = np.maximum(plain, 0) + y
    address = calls.address(y)
    call = signatures.ProductCall(
        calls.address(x), 20, COLS, calls.address(bias), address, NUMBERS, address, NUMBERS, signatures.RELU, inputs
    )
    calls.check(kernels.mm_experts(ctypes.byref(weights.native), COUNT, calls.address(chosen), ctypes.byref(call)))
    assert np.allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("wrong", [-1, COUNT])
@pytest.mark.parametrize("inputs", INPUTS)
def test_an_expert_that_is_not_there(
    kernels: ctypes.CDLL, random: np.random.Generator, inputs: int, wrong: int
) -> None:
    weights, chosen = affine(random, (COUNT, NUMBERS, COLS), 4, 64), uneven(random, 20)
    chosen[19] = wrong
    x, y = np.ones((20, COLS), np.float32), np.full((20, NUMBERS), 7, np.float32)
    call = signatures.ProductCall(
        calls.address(x), 20, COLS, None, None, 0, calls.address(y), NUMBERS, signatures.NONE, inputs
    )
    status = kernels.mm_experts(ctypes.byref(weights.native), COUNT, calls.address(chosen), ctypes.byref(call))
    assert status == signatures.UNSUPPORTED
    assert (y == 7).all()


def test_no_rows(kernels: ctypes.CDLL, random: np.random.Generator) -> None:
    weights = affine(random, (COUNT, NUMBERS, COLS), 4, 64)
    for inputs in INPUTS:
        x, chosen = np.zeros((0, COLS), np.float32), np.zeros(0, np.int32)
        assert calls.experts(kernels, weights.native, COUNT, chosen, x, inputs=inputs).shape == (0, NUMBERS)
        assert calls.product(kernels, one(weights, 0), x, inputs=inputs).shape == (0, NUMBERS)
