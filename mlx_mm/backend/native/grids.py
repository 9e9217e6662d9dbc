"""Rounding a weight whose groups of columns have grids, by a kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import byref
from typing import NamedTuple, TypeAlias

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_mm.backend.native import calls, signatures
from mlx_mm.backend.native.calls import Floats, address
from mlx_mm.backend.native.weights import TYPES

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


def rounder(
    library: ctypes.CDLL,
    groups: Sequence[Group],
    cuts: Sequence[tuple[float, float]],
    refits: int,
    bits: int,
    dtype: mx.Dtype,
) -> Callable[[Floats], Grids]:
    """What rounds rows (R, columns) of a weight: packed as MLX does it, (R, words), scales and biases (R, groups) that
    `dtype` can hold.

    Groups are of 32, 64 or 128 columns. cuts: shares of a row's range in a group that are left out below and above, of
    which the best is taken and refitted `refits` times.
    """
    before = [None if group.before is None else calls.pack(library, group.before) for group in groups]
    earlier = np.array([group.first for group in groups], np.int64)
    shares, pairs = np.concatenate([group.shares for group in groups]), np.array(cuts, np.float32)
    size = len(groups[0].shares)
    apart, within = [group.apart for group in groups], [group.within for group in groups]

    def round_rows(rows: Floats) -> Grids:
        errors = np.array(rows, np.float32, order="C")  # a copy, in which errors come to stand
        packed = np.empty((len(rows), len(groups) * size * bits // 32), np.uint32)
        scales, biases = np.empty((2, len(rows), len(groups)), np.float32)
        call = signatures.RoundCall(
            address(errors), address(earlier), _pointers(before), _pointers(apart), _pointers(within), address(shares),
            address(pairs), address(packed), address(scales), address(biases), len(rows), len(groups), size, len(pairs),
            refits, bits, TYPES[dtype],
        )  # fmt: skip
        calls.check(library.mm_round(byref(call)))
        return packed, scales, biases

    return round_rows


def _pointers(arrays: Sequence[Floats | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*map(address, arrays))
