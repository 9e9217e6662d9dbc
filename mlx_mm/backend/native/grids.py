"""Groups of a weight's columns on their grids, by kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref

import numpy as np
import numpy.typing as npt

from mlx_mm.backend.native import signatures
from mlx_mm.backend.native.calls import Floats, address, check


def fit_grid(
    library: ctypes.CDLL,
    x: Floats,
    shares: Floats,
    cuts: Sequence[tuple[float, float]],
    refits: int,
    bits: int,
    change: Floats | None = None,
    apart: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Scale and bias (R,) for each row of a group (R, size), whose rows may be apart, of 32, 64 or 128 columns.

    shares: (size,) by which they weigh, 1 together. cuts: shares of a row's range that are left out below and above,
    of which the best is taken and refitted `refits` times. change (R, size), apart (size, size), 0 below its diagonal:
    the grids are those of x + change apart.
    """
    pairs = np.array(cuts, np.float32)
    scales, biases = np.empty((2, len(x)), np.float32)
    call = signatures.GridCall(
        address(x), address(change), address(apart), address(shares), address(pairs), address(scales), address(biases),
        len(x), _apart(x), x.shape[1], len(pairs), refits, bits,
    )  # fmt: skip
    check(library.mm_fit_grid(byref(call)))
    return scales, biases


def round_group(
    library: ctypes.CDLL,
    x: Floats,
    change: Floats | None,
    within: Floats | None,
    grid: tuple[Floats, Floats],
    bits: int,
    packed: npt.NDArray[np.uint32],
) -> None:
    """Writes the codes of a group (R, size) into `packed` (R, size · bits / 32); rows of both may be apart.

    grid: scale and bias (R,). within: (size, size) or None. With it column j is rounded at x + change + Σ within[i, j]
    times the errors of columns i before it, and x becomes its errors; change: (R, size), or None for none.
    """
    scales, biases = grid
    call = signatures.RoundCall(
        address(x), address(change), address(within), address(scales), address(biases), address(packed), len(x),
        _apart(x), x.shape[1], _apart(packed), bits,
    )  # fmt: skip
    check(library.mm_round_group(byref(call)))


def _apart(x: npt.NDArray[np.generic]) -> int:
    return x.strides[0] // x.itemsize
