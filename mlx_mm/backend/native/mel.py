"""Mel spectrograms by a kernel, in the place of NumPy's transforms."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.backend.native import signatures
from mlx_mm.backend.native.calls import Floats, address, check
from mlx_mm.backend.native.library import open_library

Doubles: TypeAlias = npt.NDArray[np.float64]

LEAST_SIZE, MOST_SIZE = 4, 1 << 16  # of a frame


def kernel_for(size: int) -> ctypes.CDLL | None:
    """The library where it is used and transforms frames of `size` samples, powers of 2 alone."""
    fits = LEAST_SIZE <= size <= MOST_SIZE and size & (size - 1) == 0
    return open_library() if fits else None


def mel_powers(library: ctypes.CDLL, bank: Doubles, window: Doubles, hop: int) -> Callable[[Floats], Doubles]:
    """What gives the power of samples (N,) in frames under a window, summed under filters (bins, filters)."""
    rows = np.ascontiguousarray(bank.T)
    used, bins, size = rows != 0, np.arange(len(bank)), len(window)
    starts = used.argmax(axis=1)
    lengths = np.where(used.any(axis=1), len(bank) - used[:, ::-1].argmax(axis=1) - starts, 0)
    weights = rows[(bins >= starts[:, None]) & (bins < (starts + lengths)[:, None])]  # of one filter after the other
    ends = (int(starts.min()), int((starts + lengths).max()))
    cosines = np.cos(2 * np.pi / size * np.arange(size))

    def powers(samples: Floats) -> Doubles:
        samples = np.ascontiguousarray(samples)
        result = np.empty((1 + (len(samples) - size) // hop, len(rows)))
        call = signatures.MelCall(
            address(samples), address(window), address(cosines), len(result), hop, size, len(rows), *ends,
            address(starts), address(lengths), address(weights), address(result),
        )  # fmt: skip
        check(library.mm_mel(byref(call)))
        return result

    return powers
