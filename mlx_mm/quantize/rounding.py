"""Rounding the weight of one layer to the grid of its file: to the nearest, by searched grids, by compensated errors.

A group of a row has a scale and a bias; a weight is then scale · code + bias, with a code of so many bits.

- plain: as MLX does it, the grid reaching from the smallest weight of a group to the largest.
- searched: of several ranges, clipped more and more, the one that errs least when its scale and bias are refitted by
  least squares. A column weighs as much as the energy of its inputs.
- compensated: columns are rounded one after the other, and those to come are changed so that the layer's outputs, for
  the inputs that were seen, stay as near as they can: GPTQ (Frantar et al., arXiv 2210.17323), with grids searched on
  the changed weights. With H = Σ x·xᵀ = R·Rᵀ, R upper triangular, the errors δ of a row cost
  Σᵢ (Rᵢᵢ·δᵢ + Σ Rₖᵢ·δₖ over k < i)², so column i is rounded at wᵢ + Σ (Rₖᵢ / Rᵢᵢ)·(wₖ − qₖ). These are GPTQ's numbers,
  without its inverse of H.
"""

from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_mm.backend.blas import numpy_on_one_thread
from mlx_mm.backend.streams import check_wanted
from mlx_mm.quantize.scheme import QuantConfig

Floats: TypeAlias = npt.NDArray[np.float32]
Codes: TypeAlias = npt.NDArray[np.uint8]

# H is taken on the way to its mean diagonal: of `width` columns and n inputs by width / (width + 2·n), but no less than
# this. GPTQ's 1 % (section 3.3) fits a layer to the few inputs that were seen, of a few texts or pictures whose rows
# resemble each other; on others it then loses more than a search (docs/quantisation.md, "Methods").
LEAST_SHARE = 0.1
MOST_COLUMNS = 2048  # that H relates to each other: its factors take the cube of them
FACTOR_COLUMNS = 128  # of those that one step finds
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


@dataclass(frozen=True)
class Inputs:
    """What the inputs of a layer say of the columns of its weight.

    energy: (in,), the sum of their squares. triangles: R, each column divided by its diagonal, for each of
    `column_blocks`; None where errors are not compensated.
    """

    energy: Floats
    triangles: tuple[Floats, ...] | None = None


@numpy_on_one_thread()
def inputs_of(x: Floats, group_size: int | None) -> Inputs:
    """Of inputs (rows, in). group_size: of the weight whose errors are to be compensated, None where they are not."""
    if group_size is None:
        energy, share = np.einsum("ij,ij->j", x, x), _share(*x.shape)
        return Inputs((1 - share) * energy + np.float32(share * energy.mean()))
    squares = [shrunk_squares(x[:, part]) for part in column_blocks(x.shape[1], group_size)]
    return Inputs(np.concatenate([each.diagonal() for each in squares]), tuple(map(_triangle, squares)))


def shrunk_squares(x: Floats) -> Floats:
    """H of inputs (rows, in), as far on the way to its mean diagonal as they are too few."""
    squares, share = x.T @ x, _share(*x.shape)
    mean = float(squares.diagonal().mean())
    squares *= 1 - share
    squares[np.diag_indices_from(squares)] += share * mean if mean > 0 else 1.0
    return squares


def _share(rows: int, width: int) -> float:
    return max(LEAST_SHARE, width / (width + 2 * rows))


def column_blocks(width: int, group_size: int) -> list[slice]:
    """The fewest blocks of whole groups, alike in size, that MOST_COLUMNS allows."""
    groups, count = width // group_size, -(-width // MOST_COLUMNS)
    bounds = [groups * number // count * group_size for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]


def _triangle(squares: Floats) -> Floats:
    """R of H = R·Rᵀ, each column divided by its diagonal. By blocks of columns, the last first: mostly products, which
    take a third of the time of LAPACK's factors where H is 3072 wide."""
    upper = np.zeros_like(squares)
    for stop in range(len(squares), 0, -FACTOR_COLUMNS):
        first = max(stop - FACTOR_COLUMNS, 0)
        block = slice(first, stop)
        left = squares[:stop, block] - upper[:stop, stop:] @ upper[block, stop:].T
        own = np.linalg.cholesky(left[first:][::-1, ::-1])[::-1, ::-1]  # of the reversed matrix, R from its end
        upper[block, block] = own
        upper[:first, block] = left[:first] @ np.linalg.inv(own).T
    upper /= upper.diagonal().copy()
    return upper


@numpy_on_one_thread()
def rounded(weight: Floats, scheme: QuantConfig, dtype: mx.Dtype, inputs: Inputs | None = None) -> list[mx.array]:
    """(out, in) -> packed weight, scales and biases of `dtype`. Without inputs all columns weigh the same, and without
    their triangles no errors are compensated."""
    inputs = inputs or Inputs(np.ones(weight.shape[1], np.float32))

    def round_rows(first: int) -> tuple[npt.NDArray[np.uint32], Floats, Floats]:
        check_wanted()
        columns = np.array(weight[first : first + ROWS_AT_ONCE].T, np.float32, order="C")  # a copy, to be changed
        codes, scales, biases = _round_columns(columns, scheme, dtype, inputs)
        return pack(codes.T, scheme.bits), scales.T, biases.T

    parts = [round_rows(first) for first in range(0, len(weight), ROWS_AT_ONCE)]
    packed, scales, biases = (np.concatenate(part) for part in zip(*parts, strict=True))
    return [mx.array(packed), mx.array(scales).astype(dtype), mx.array(biases).astype(dtype)]


def _round_columns(
    columns: Floats, scheme: QuantConfig, dtype: mx.Dtype, inputs: Inputs
) -> tuple[Codes, Floats, Floats]:
    """A transposed weight (in, out) -> codes (in, out), scales and biases (groups, out). With compensation its errors
    stand in its place afterwards."""
    (width, count), size = columns.shape, scheme.group_size
    codes = np.empty((width, count), np.uint8)
    scales, biases = np.empty((2, width // size, count), np.float32)
    blocks = column_blocks(width, size)
    for block, triangle in zip(blocks, inputs.triangles or [None] * len(blocks), strict=True):
        for first in range(block.start, block.stop, size):
            group, place = slice(first, first + size), first - block.start
            weights = wanted = columns[group]
            if triangle is not None and place:
                beside = slice(place, place + size)
                change = triangle[:place, beside].T @ columns[block.start : first]
                wanted = weights + change
                # What the columns of the group would be if none of them was rounded: a grid is fitted to that.
                weights = weights + np.linalg.inv(triangle[beside, beside].T) @ change
            scale, bias = fit_grid(weights, inputs.energy[group], scheme.bits)
            scale, bias = _as_stored(scale, dtype), _as_stored(bias, dtype)
            scales[first // size], biases[first // size] = scale, bias
            if triangle is None:
                codes[group] = _codes(wanted, scale, bias, scheme.bits)
            else:
                within = triangle[place : place + size, place : place + size]
                codes[group] = _round_group(columns[group], wanted, within, scale, bias, scheme.bits)
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


def fit_grid(group: Floats, energy: Floats, bits: int) -> tuple[Floats, Floats]:
    """Scale and bias (out,) for the groups (group, out) of as many rows.

    Weighted by energy (group,), the codes c of a range have the refitted scale cov(c, w) / var(c), which leaves the
    error var(w) − cov(c, w)² / var(c).
    """
    most, half = 2**bits - 1, np.float32((2**bits - 1) / 2)
    low, high = group.min(axis=0), group.max(axis=0)
    scale = (high - low) / most
    bias = low
    weights = (energy / energy.sum() if energy.sum() > 0 else np.full_like(energy, 1 / len(energy))).astype(np.float32)
    best = np.full_like(low, -1)
    level = weights @ group
    centred = group - level
    pairs = list(product(CUTS[bits], repeat=2))
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
