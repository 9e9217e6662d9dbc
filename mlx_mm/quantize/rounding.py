"""Rounding the weight of one layer to the grid of its file: to the nearest, by searched grids, by compensated errors.

A group of a row has a scale and a bias; a weight is then scale · code + bias, with a code of so many bits.

- plain: as MLX does it, the grid reaching from the smallest weight of a group to the largest.
- searched: of several ranges, clipped more and more, the one that errs least when its scale and bias are refitted by
  least squares. A column weighs as much as the energy of its inputs.
- compensated: columns are rounded one after the other, and those to come are changed so that the layer's outputs, for
  the inputs that were seen, stay as near as they can: GPTQ (Frantar et al., arXiv 2210.17323), with grids searched on
  the changed weights. With R of `inputs.py`, column i is rounded at wᵢ + Σ (Rₖᵢ / Rᵢᵢ)·(wₖ − qₖ) over k < i. These are
  GPTQ's numbers, without its inverse of H.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_mm.backend.blas import numpy_on_one_thread
from mlx_mm.backend.native.grids import Grids, Group, rounder
from mlx_mm.backend.native.library import open_library
from mlx_mm.backend.streams import check_wanted
from mlx_mm.quantize.inputs import Floats, Inputs, column_blocks
from mlx_mm.quantize.scheme import QuantConfig

Codes: TypeAlias = npt.NDArray[np.uint8]

ROWS_AT_ONCE = 1024  # of a weight: the columns of a group then fit a processor's cache
# Shares of a group's range that are cut off at either end, by bits, in all pairs: the coarser, the more it is worth.
CUTS = {
    2: (0.0, 0.1, 0.2, 0.3, 0.4),
    3: (0.0, 0.07, 0.14, 0.21),
    4: (0.0, 0.06, 0.12),
    5: (0.0, 0.04),
    6: (0.0, 0.02),
    8: (0.0,),
}
REFITS = 2  # of the best of them


@numpy_on_one_thread()
def rounded(weight: Floats, scheme: QuantConfig, dtype: mx.Dtype, inputs: Inputs | None = None) -> list[mx.array]:
    """(out, in) -> packed weight, scales and biases of `dtype`. Without inputs all columns weigh the same, and without
    their triangles no errors are compensated."""
    groups = _groups(weight.shape[1], scheme.group_size, inputs or Inputs(np.ones(weight.shape[1], np.float32)))
    library = open_library()
    if library is None:
        round_rows: Callable[[Floats], Grids] = partial(_by_numpy, scheme=scheme, dtype=dtype, groups=groups)
    else:
        round_rows = rounder(library, groups, _pairs(scheme.bits), REFITS, scheme.bits, dtype)
    parts = []
    for first in range(0, len(weight), ROWS_AT_ONCE):
        check_wanted()
        parts.append(round_rows(weight[first : first + ROWS_AT_ONCE]))
    packed, scales, biases = (np.concatenate(part) for part in zip(*parts, strict=True))
    return [mx.array(packed), mx.array(scales).astype(dtype), mx.array(biases).astype(dtype)]


def _groups(width: int, size: int, inputs: Inputs) -> list[Group]:
    groups = []
    blocks = column_blocks(width, size)
    for block, triangle in zip(blocks, inputs.triangles or [None] * len(blocks), strict=True):
        for first in range(block.start, block.stop, size):
            shares, place = _shares(inputs.energy[first : first + size]), first - block.start
            if triangle is None:
                groups.append(Group(shares))
                continue
            beside = slice(place, place + size)
            within = np.ascontiguousarray(triangle[beside, beside])
            if place:
                before = np.ascontiguousarray(triangle[:place, beside].T)
                groups.append(Group(shares, within, block.start, before, np.linalg.inv(within)))
            else:
                groups.append(Group(shares, within))
    return groups


def _pairs(bits: int) -> list[tuple[float, float]]:
    """What is cut off below and above."""
    return [(below, above) for below in CUTS[bits] for above in CUTS[bits]]


def _shares(energy: Floats) -> Floats:
    total = energy.sum()
    return (energy / total if total > 0 else np.full_like(energy, 1 / len(energy))).astype(np.float32)


def _by_numpy(rows: Floats, scheme: QuantConfig, dtype: mx.Dtype, groups: Sequence[Group]) -> Grids:
    columns = np.array(rows.T, np.float32, order="C")  # a copy, to be changed
    codes, scales, biases = _round_columns(columns, scheme, dtype, groups)
    return pack(codes.T, scheme.bits), scales.T, biases.T


def _round_columns(
    columns: Floats, scheme: QuantConfig, dtype: mx.Dtype, groups: Sequence[Group]
) -> tuple[Codes, Floats, Floats]:
    """A transposed weight (in, out) -> codes (in, out), scales and biases (groups, out). With compensation its errors
    stand in its place afterwards."""
    codes = np.empty(columns.shape, np.uint8)
    scales, biases = np.empty((2, len(groups), columns.shape[1]), np.float32)
    for number, group in enumerate(groups):
        start = number * scheme.group_size
        place = slice(start, start + scheme.group_size)
        fitted = wanted = own = columns[place]
        if group.before is not None and group.apart is not None:
            change = group.before @ columns[group.first : start]
            wanted, fitted = own + change, own + group.apart.T @ change
        scale, bias = (_as_stored(part, dtype) for part in _fit_grid(fitted, group.shares, scheme.bits))
        scales[number], biases[number] = scale, bias
        if group.within is None:
            codes[place] = _codes(wanted, scale, bias, scheme.bits)
        else:
            codes[place] = _round_group(own, wanted, group.within, scale, bias, scheme.bits)
    return codes, scales, biases


def _round_group(errors: Floats, wanted: Floats, within: Floats, scale: Floats, bias: Floats, bits: int) -> Floats:
    """Codes (group, out) of weights that are to be `wanted`, one column after the other. errors: the weights
    themselves, in whose place stand the errors afterwards. within: the triangle of these columns."""
    codes = np.empty_like(wanted)
    for row in range(len(wanted)):
        aim = wanted[row] + within[:row, row] @ errors[:row]
        codes[row] = _codes(aim, scale, bias, bits)
        errors[row] -= codes[row] * scale + bias
    return codes


def _fit_grid(group: Floats, weights: Floats, bits: int) -> tuple[Floats, Floats]:
    """Scale and bias (out,) for the groups (group, out) of as many rows.

    Weighted by `weights` (group,), the codes c of a range have the refitted scale cov(c, w) / var(c), which leaves the
    error var(w) − cov(c, w)² / var(c).
    """
    most, half = 2**bits - 1, np.float32((2**bits - 1) / 2)
    low, high = group.min(axis=0), group.max(axis=0)
    scale = (high - low) / most
    bias = low
    best = np.full_like(low, -1)
    level = weights @ group
    centred = group - level
    pairs = _pairs(bits)
    for turn in range(len(pairs) + REFITS):
        if turn < len(pairs):
            below, above = (np.float32(cut) for cut in pairs[turn])
            codes = _codes(group, (high - low) * ((1 - below - above) / most), low + (high - low) * below, bits)
        else:  # the best so far, rounded to its refitted grid
            codes = _codes(group, scale, bias, bits)
        codes -= half
        mean = weights @ codes
        covariance = weights @ (codes * centred)
        variance = weights @ np.square(codes, out=codes) - mean * mean
        fitted = np.divide(covariance, variance, out=np.zeros_like(mean), where=variance > 0)
        gain = fitted * covariance
        better = gain > best
        best = np.where(better, gain, best)
        scale = np.where(better, fitted, scale)
        bias = np.where(better, level - fitted * (mean + half), bias)
    return scale, bias


def _codes(weights: Floats, scale: Floats, bias: Floats, bits: int) -> Floats:
    """The nearest codes of weights (…, out) on grids (out,), as floats."""
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = weights - bias
    codes *= inverse
    np.rint(codes, out=codes)
    return np.clip(codes, 0, 2**bits - 1, out=codes)


def _as_stored(numbers: Floats, dtype: mx.Dtype) -> Floats:
    """Numbers as a file of that dtype has them, so that what they err is compensated too."""
    if dtype == mx.bfloat16:  # which NumPy lacks: the upper half of a float32, rounded to even
        bits = numbers.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return numbers.astype(np.float16).astype(np.float32) if dtype == mx.float16 else numbers


def pack(codes: Codes, bits: int) -> npt.NDArray[np.uint32]:
    """Codes (out, in) as MLX packs them, (out, in · bits / 32): one after the other, the lowest bits first."""
    eights = codes.reshape(len(codes), -1, 8).astype(np.uint64) << np.arange(0, 8 * bits, bits, dtype=np.uint64)
    words = np.ascontiguousarray(np.bitwise_or.reduce(eights, axis=-1), "<u8")  # 8 codes fill as many bytes as bits
    return words.view(np.uint8).reshape(len(codes), -1, 8)[..., :bits].reshape(len(codes), -1).copy().view("<u4")
