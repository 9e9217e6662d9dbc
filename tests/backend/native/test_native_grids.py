"""The kernels that round weights, by every instruction set: what NumPy rounds to, whatever the rows and threads."""

from __future__ import annotations

import ctypes

import mlx.core as mx
import numpy as np
import pytest
from tiny import hashed

from mlx_mm.backend.native import calls, grids
from mlx_mm.quantize import rounding
from mlx_mm.quantize.inputs import Inputs, inputs_of
from mlx_mm.quantize.rounding import pack, rounded
from mlx_mm.quantize.scheme import QuantConfig


def weights(rows: int, width: int) -> np.ndarray:
    return sum(hashed((rows, width), k) for k in range(4)).astype(np.float32)


def inputs(width: int, group_size: int, turned: bool = False) -> Inputs:
    own = hashed((300, width + 1), 9)
    x = (own[:, 1:] + 0.8 * own[:, :-1]).astype(np.float32) * np.linspace(0.5, 2, width, dtype=np.float32)
    return inputs_of(x[:, ::-1].copy() if turned else x, group_size)


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
    scheme, weight = QuantConfig(bits, size), weights(37, 256)
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        for given in (None, inputs(256, size)):
            expected = by_numpy(monkeypatch, weight, scheme, dtype, given)
            found = values(rounded(weight, scheme, dtype, given), scheme)
            step = np.abs(expected - weight).max()
            assert np.abs(found - expected).mean() < 0.01 * step  # ties, which decide on what comes after them
            assert (np.abs(found - expected) > 0.02 * step).mean() < 0.02
    other = values(rounded(weight, scheme, mx.float32, inputs(256, size, turned=True)), scheme)
    assert np.abs(other - expected).mean() > 0.05 * step


def test_many_rows_by_any_number_of_threads(kernels: ctypes.CDLL) -> None:
    """Of more than are taken at once, each as it is alone."""
    scheme, weight, given = QuantConfig(4, 32), weights(1100, 96), inputs(96, 32)
    together = []
    for threads in (1, 3):
        kernels.mm_set_threads(threads)
        together.append(values(rounded(weight, scheme, mx.float16, given), scheme))
    assert np.array_equal(*together)
    for row in (0, 500, 1023, 1024, 1099):
        assert np.array_equal(values(rounded(weight[row : row + 1], scheme, mx.float16, given), scheme)[0], together[0][row])


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_are_the_nearest_and_lie_as_mlx_packs_them(kernels: ctypes.CDLL, bits: int) -> None:
    weight, most = weights(21, 64), 2**bits - 1
    before = weight.copy()
    scales, biases = np.full(21, 3 / most, np.float32), np.linspace(-2, -1, 21, dtype=np.float32)
    words = np.zeros((21, 64 * bits // 32 + 3), np.uint32)
    grids.round_group(kernels, weight, None, None, (scales, biases), bits, words[:, : 64 * bits // 32])
    exact = (before.astype(np.float64) - biases[:, None]) / scales[:, None]
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-5  # none lies between two codes
    assert np.array_equal(words[:, : 64 * bits // 32], pack(np.clip(np.rint(exact), 0, most).astype(np.uint8), bits))
    assert not words[:, 64 * bits // 32 :].any()
    assert np.array_equal(weight, before)  # nothing is compensated


def test_groups_of_other_sizes_are_refused(kernels: ctypes.CDLL) -> None:
    for size in (0, 16, 48, 160):
        x, ones = np.zeros((2, size), np.float32), np.ones(2, np.float32)
        with pytest.raises(calls.KernelError):
            grids.fit_grid(kernels, x, np.ones(size, np.float32), [(0.0, 0.0)], 2, 4)
        with pytest.raises(calls.KernelError):
            grids.round_group(kernels, x, None, None, (ones, ones), 4, np.zeros((2, size), np.uint32))
