"""Mel spectrograms of the kernel against NumPy's, with each instruction set."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

from mlx_mm.backend.native import mel
from mlx_mm.backend.native.library import LIBRARY, instruction_sets, load
from mlx_mm.processing.audio import mel_bank, mel_powers

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the kernels were not built")

SETS = instruction_sets(load(LIBRARY)) if LIBRARY.exists() else []


@pytest.fixture(params=SETS)
def library(request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    """With each instruction set that this machine has."""
    opened = load(LIBRARY)
    opened.mm_choose(request.param.encode())
    yield opened
    opened.mm_choose(SETS[0].encode())


def sound(count: int) -> np.ndarray:
    random, time = np.random.default_rng(count), np.arange(count) / 48_000
    loudness = 10 ** -np.linspace(0, 5, count)  # frames of one vector are loud and nearly silent
    return (loudness * (np.sin(2 * np.pi * 440 * time) + random.normal(0, 0.1, count))).astype(np.float32)


def decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-10))


@pytest.mark.parametrize("size", [4, 8, 32, 1024, 2048])
def test_against_numpy(library: ctypes.CDLL, size: int) -> None:
    hop = size * 15 // 32 or 1
    bank = mel_bank("slaney", 64, size, 48_000, 50, 14_000) if size > 512 else np.eye(size // 2 + 1)
    window = np.hanning(size + 1)[:-1]
    for frames in (1, 2, 3, 15, 16, 17, 40):
        samples = sound((frames - 1) * hop + size + hop // 2)  # and some that are in no frame
        got = mel.mel_powers(library, bank, window, hop)(samples)
        assert (got.shape, got.dtype) == ((frames, bank.shape[1]), np.float64)
        right = decibels(mel_powers(bank, window, hop)(samples))
        np.testing.assert_allclose(decibels(got), right, rtol=0, atol=1e-5, err_msg=f"{frames} frames")


def test_any_filters_and_any_strides(library: ctypes.CDLL) -> None:
    random = np.random.default_rng(0)
    bank = random.random((33, 7))
    bank[:5] = bank[20:] = 0
    bank[8:12, 2] = bank[:, 4] = 0  # a gap, and a filter of nothing
    samples, window = sound(1400)[::2], random.random(64)
    got, right = mel.mel_powers(library, bank, window, 30)(samples), mel_powers(bank, window, 30)(samples)
    np.testing.assert_allclose(got, right, rtol=1e-6)
    assert (got[:, 4] == 0).all()
    assert (mel.mel_powers(library, np.zeros((33, 2)), window, 30)(samples) == 0).all()


def test_a_frame_does_not_depend_on_its_neighbours(library: ctypes.CDLL) -> None:
    bank, window = mel_bank("htk", 64, 1024, 48_000, 50, 14_000), np.hanning(1025)[:-1]
    powers, samples = mel.mel_powers(library, bank, window, 480), sound(20_000)
    whole = powers(samples)
    for frame in range(0, len(whole), 5):
        alone = powers(samples[frame * 480 : frame * 480 + 1024])[0]
        np.testing.assert_allclose(decibels(alone), decibels(whole[frame]), rtol=0, atol=1e-6)


def test_a_frame_that_is_not_finite_spoils_its_pair_at_most(library: ctypes.CDLL) -> None:
    bank, window = mel_bank("htk", 64, 1024, 48_000, 50, 14_000), np.hanning(1025)[:-1]
    powers, samples = mel.mel_powers(library, bank, window, 1024), sound(1024 * 20)
    right = powers(samples)
    samples[1024 * 7 + 5] = np.nan
    got = powers(samples)
    assert np.isnan(got[7]).all()
    others = [frame for frame in range(20) if frame // 2 != 3]
    np.testing.assert_array_equal(got[others], right[others])


def test_sizes_that_are_left_to_numpy() -> None:
    assert [mel.kernel_for(size) is None for size in (0, 2, 3, 400, 1000, 1 << 17)] == [True] * 6
