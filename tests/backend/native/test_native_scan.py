"""The kernel that scans rows of bytes: exact sums, by every instruction set alike."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mlx_mm.backend.native import calls


def test_sums_are_exact(kernels: ctypes.CDLL) -> None:
    random = np.random.default_rng(0)
    for rows, width, queries in ((1, 64, 1), (3, 192, 2), (4, 64, 1), (1000, 768, 2), (6, 4096, 1)):
        codes = random.integers(-128, 128, (rows, width), dtype=np.int8)
        high, low = random.integers(-127, 128, (2, queries, width), dtype=np.int8)
        right = (128 * high.astype(np.int64) + low) @ codes.T.astype(np.int64)
        found = calls.scan(kernels, codes, high, low)
        assert np.array_equal(found, right.astype(np.float32))
        assert not np.array_equal(found, ((128 * low.astype(np.int64) + high) @ codes.T).astype(np.float32))


def test_the_greatest_sums(kernels: ctypes.CDLL) -> None:
    """Every byte at its bound, in rows as wide as they may be."""
    width = 1 << 16
    for code in (-128, 127):
        for query in (-127, 127):
            codes, inputs = np.full((5, width), code, np.int8), np.full((1, width), query, np.int8)
            assert calls.scan(kernels, codes, inputs, inputs).tolist() == [[np.float32(129 * width * code * query)] * 5]


def test_by_any_number_of_threads(kernels: ctypes.CDLL) -> None:
    random = np.random.default_rng(1)
    codes = random.integers(-128, 128, (3001, 128), dtype=np.int8)
    high, low = random.integers(-127, 128, (2, 3, 128), dtype=np.int8)
    kernels.mm_set_threads(1)
    alone = calls.scan(kernels, codes, high, low)
    kernels.mm_set_threads(3)
    assert np.array_equal(calls.scan(kernels, codes, high, low), alone)


def test_other_widths_are_refused(kernels: ctypes.CDLL) -> None:
    for width in (1, 63, 96, (1 << 16) + 64):
        codes = np.zeros((2, width), np.int8)
        with pytest.raises(calls.KernelError):
            calls.scan(kernels, codes, codes[:1], codes[:1])
    assert calls.scan(kernels, np.zeros((0, 64), np.int8), *np.zeros((2, 1, 64), np.int8)).shape == (1, 0)
