"""The kernels that round weights, by every instruction set: what NumPy rounds to, whatever the rows and threads."""

from __future__ import annotations

import ctypes

import mlx.core as mx
import numpy as np
import pytest
from tiny import hashed

from mlx_mm.backend.native import calls
from mlx_mm.backend.native.grids import Group, rounder
from mlx_mm.quantize import rounding
from mlx_mm.quantize.inputs import inputs_of
from mlx_mm.quantize.rounding import pack, rounded
from mlx_mm.quantize.scheme import QuantConfig


def weights(rows: int, width: int) -> np.ndarray:
    return sum(hashed((rows, width), k) for k in range(4)).astype(np.float32)


def inputs(width: int) -> np.ndarray:
    own = hashed((300, width + 1), 9)
    return (own[:, 1:] + 0.8 * own[:, :-1]).astype(np.float32) * np.linspace(0.5, 2, width, dtype=np.float32)


def values(parts: list[mx.array], scheme: QuantConfig) -> np.ndarray:
    return np.array(mx.dequantize(*parts, scheme.group_size, scheme.bits).astype(mx.float32))


def by_numpy(monkeypatch: pytest.MonkeyPatch, weight: np.ndarray, scheme: QuantConfig, *rest: object) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(rounding, "open_library", lambda: None)
        return values(rounded(weight, scheme, *rest), scheme)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_weights_are_rounded_as_by_numpy(
    kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, bits: int, size: int
) -> None:
    scheme, weight, x = QuantConfig(bits, size), weights(37, 256), inputs(256)
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        expected = by_numpy(monkeypatch, weight, scheme, dtype)
        found = values(rounded(weight, scheme, dtype), scheme)
        first, second = (np.square(each - weight).mean() for each in (expected, found))
        assert abs(first - second) < 0.01 * first
        if bits < 6:  # with more, what grids err by differs less than float32 can tell
            assert (np.abs(found - expected) > 1e-3 * np.abs(expected - weight).max()).mean() < 0.02
        # With errors compensated a tie decides on what comes after it, too, so what counts is what is lost.
        lost = [
            np.square((each - weight) @ x.T).mean(axis=1)
            for each in (
                by_numpy(monkeypatch, weight, scheme, dtype, inputs_of(x, size)),
                values(rounded(weight, scheme, dtype, inputs_of(x, size)), scheme),
                values(rounded(weight, scheme, dtype, inputs_of(x[:, ::-1].copy(), size)), scheme),
            )
        ]
        assert lost[1].mean() < 1.02 * lost[0].mean()
        assert lost[0].mean() < 1.02 * lost[1].mean()
        assert lost[2].mean() > 1.3 * lost[0].mean()


def test_many_rows_by_any_number_of_threads(kernels: ctypes.CDLL) -> None:
    """Of more than are taken at once, each as it is alone."""
    scheme, weight, given = QuantConfig(4, 32), weights(1100, 96), inputs_of(inputs(96), 32)
    together = []
    for threads in (1, 3):
        kernels.mm_set_threads(threads)
        together.append(values(rounded(weight, scheme, mx.float16, given), scheme))
    assert np.array_equal(*together)
    for row in (0, 500, 1023, 1024, 1099):
        assert np.array_equal(
            values(rounded(weight[row : row + 1], scheme, mx.float16, given), scheme)[0], together[0][row]
        )


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_are_the_nearest_and_lie_as_mlx_packs_them(kernels: ctypes.CDLL, bits: int) -> None:
    weight, group = weights(21, 64), Group(np.full(64, 1 / 64, np.float32))
    before = weight.copy()
    words, scales, biases = rounder(kernels, [group], [(0.0, 0.0)], 1, bits, mx.bfloat16)(weight)
    for stored in (scales, biases):
        assert np.array_equal(stored, np.array(mx.array(stored).astype(mx.bfloat16).astype(mx.float32)))
    exact = (weight.astype(np.float64) - biases) / scales
    clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-4  # not between two codes
    assert clear.mean() > 0.99
    codes = np.clip(np.rint(exact), 0, 2**bits - 1)
    found = np.array(mx.dequantize(mx.array(words), mx.ones((21, 1)), mx.zeros((21, 1)), 64, bits))
    assert np.array_equal(found[clear], codes[clear])
    assert not np.array_equal(found[clear], codes[::-1][clear])
    assert np.array_equal(words, pack(found.astype(np.uint8), bits))
    assert np.array_equal(weight, before)


def test_scales_that_16_bits_hardly_hold(kernels: ctypes.CDLL) -> None:
    """Subnormal numbers of float16, and the least of all."""
    group = Group(np.full(32, 1 / 32, np.float32))
    for size in (3e-4, 1e-5, 3e-7):
        weight = weights(40, 32) * np.float32(size)
        for dtype in (mx.float16, mx.bfloat16):
            _, *grid = rounder(kernels, [group], [(0.0, 0.0)], 0, 4, dtype)(weight)
            _, *exact = rounder(kernels, [group], [(0.0, 0.0)], 0, 4, mx.float32)(weight)
            for stored, number in zip(grid, exact, strict=True):
                assert np.array_equal(stored, np.array(mx.array(number).astype(dtype).astype(mx.float32)))
                assert not np.array_equal(stored, number)


def test_groups_of_other_sizes_are_refused(kernels: ctypes.CDLL) -> None:
    for size in (16, 48, 160):
        group = Group(np.full(size, 1 / size, np.float32))
        with pytest.raises(calls.KernelError):
            rounder(kernels, [group], [(0.0, 0.0)], 2, 4, mx.float32)(np.zeros((2, size), np.float32))
