"""Rounding a weight whose groups of columns have grids, by a kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref
from typing import NamedTuple, TypeAlias

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_mm.backend.native import calls, signatures
from mlx_mm.backend.native.calls import Floats, address
from mlx_mm.backend.native.weights import TYPES
from mlx_mm.backend.streams import check_wanted

ROWS_AT_ONCE = 1024  # of a weight, so that the copy of them stays in a cache, and one who waits can be interrupted

Grids: TypeAlias = tuple[npt.NDArray[np.uint32], Floats, Floats]  # packed weight, scales, biases


class Group(NamedTuple):
    """Columns of a weight that have a grid. shares: (size,) by which they weigh, 1 together.

    Where errors are compensated, within: (size, size) what an error of each column adds to those after it. before:
    (size, earlier) the same of the columns from `first` to the group, None where there are none. apart: (size, size),
    0 below its diagonal, by which a change that is wanted of columns one by one is what they would change by if none
    of them was rounded: a grid is fitted to that.
    """

    shares: Floats
    within: Floats | None = None
    first: int = 0
    before: Floats | None = None
    apart: Floats | None = None


def round_weight(
    library: ctypes.CDLL,
    weight: Floats,
    groups: Sequence[Group],
    cuts: Sequence[tuple[float, float]],
    refits: int,
    bits: int,
    dtype: mx.Dtype,
) -> Grids:
    """(R, columns) -> packed as MLX does it, (R, words), scales and biases (R, groups) that `dtype` can hold.

    Groups are of 32, 64 or 128 columns. cuts: shares of a row's range in a group that are left out below and above, of
    which the best is taken and refitted `refits` times.
    """
    before = [None if group.before is None else calls.pack(library, group.before) for group in groups]
    earlier = np.array([group.first for group in groups], np.int64)
    shares, pairs = np.concatenate([group.shares for group in groups]), np.array(cuts, np.float32)
    rows, width = weight.shape
    packed = np.empty((rows, width * bits // 32), np.uint32)
    scales, biases = np.empty((2, rows, len(groups)), np.float32)
    call = signatures.RoundCall(
        None, address(earlier), _pointers(before), _pointers([group.apart for group in groups]),
        _pointers([group.within for group in groups]), address(shares), address(pairs), None, None, None,
        0, len(groups), width // len(groups), len(pairs), refits, bits, TYPES[dtype],
    )  # fmt: skip
    for first in range(0, rows, ROWS_AT_ONCE):
        check_wanted()
        part = slice(first, first + ROWS_AT_ONCE)
        errors = np.array(weight[part], np.float32, order="C")  # a copy, in which errors come to stand
        call.x, call.rows, call.packed = address(errors), len(errors), address(packed[part])
        call.scales, call.biases = address(scales[part]), address(biases[part])
        calls.check(library.mm_round(byref(call)))
    return packed, scales, biases


def _pointers(arrays: Sequence[Floats | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*map(address, arrays))
