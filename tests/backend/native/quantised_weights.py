"""Weights as the kernels take them, with their numbers in float64."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_mm.backend.native import calls, signatures

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


@dataclass
class Stored:
    """A weight or several, (…, N, K): what a kernel takes, its numbers, and the arrays that it points to."""

    native: signatures.Weight
    numbers: npt.NDArray[np.float64]
    codes: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float64]  # of each number
    biases: npt.NDArray[np.float64]
    arrays: list[npt.NDArray[np.generic]]


def affine(
    random: np.random.Generator,
    shape: tuple[int, ...],
    bits: int,
    group: int,
    kind: int = signatures.FLOAT32,
    *,
    flat: bool = False,
) -> Stored:
    """Random codes, scales and biases. flat: the scales and biases of every other group are 0."""
    codes = random.integers(0, 2**bits, shape)
    scales = (random.random((*shape[:-1], shape[-1] // group)) + 0.5) / 2**bits
    biases = -scales * 2 ** (bits - 1) * (random.random(scales.shape) + 0.5)
    if flat:
        scales[..., ::2] = biases[..., ::2] = 0
    stored_scales, scales = _as_kind(scales, kind)
    stored_biases, biases = _as_kind(biases, kind)
    wide_scales, wide_biases = np.repeat(scales, group, -1), np.repeat(biases, group, -1)
    arrays = [pack(codes, bits), stored_scales, stored_biases]
    native = signatures.Weight(signatures.AFFINE, kind, bits, group, *shape[-2:], *map(calls.address, arrays))
    return Stored(native, wide_scales * codes + wide_biases, codes, wide_scales, wide_biases, arrays)


def fp4(random: np.random.Generator, shape: tuple[int, ...], kind: int) -> Stored:
    """mxfp4 or nvfp4."""
    group = 32 if kind == signatures.MXFP4 else 16
    codes = random.integers(0, 16, shape)
    stored = random.integers(118, 126, (*shape[:-1], shape[-1] // group)).astype(np.uint8)  # 2^-9 to 2^-2
    scales = 2.0 ** (stored.astype(int) - 127)
    if kind == signatures.NVFP4:
        stored = random.integers(1, 64, stored.shape).astype(np.uint8)  # e4m3, numbers below 2^-6 among them
        exponent, mantissa = stored >> 3, (stored & 7) / 8
        scales = np.where(exponent, (1 + mantissa) * 2.0 ** (exponent.astype(int) - 7), mantissa * 2.0**-6)
    signed = np.where(codes & 8, -1, 1) * E2M1[codes & 7]
    wide = np.repeat(scales, group, -1)
    arrays = [pack(codes, 4), stored]
    native = signatures.Weight(kind, signatures.FLOAT32, 4, group, *shape[-2:], *map(calls.address, arrays))
    return Stored(native, wide * signed, codes, wide, np.zeros_like(wide), arrays)


def packed_words(library: ctypes.CDLL, stored: Stored) -> Stored:
    """An affine weight in panels."""
    codes, *scales = stored.arrays
    single = stored.native.type == signatures.FLOAT32
    arrays = [_panels(library, codes.view(np.uint32)), *(_panels(library, s) if single else s for s in scales)]
    native = signatures.Weight.from_buffer_copy(stored.native)
    native.kind = signatures.AFFINE_PACKED
    native.data, native.scales, native.biases = map(calls.address, arrays)
    return Stored(native, stored.numbers, stored.codes, stored.scales, stored.biases, arrays)


def _panels(library: ctypes.CDLL, numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Rows of 32 bits each by mm_pack."""
    (rows, cols), panel = numbers.shape, int(library.mm_panel())
    packed = np.full((-(-rows // panel), cols, panel), np.nan, np.float32)
    weight = signatures.Weight(
        signatures.ROWS, signatures.FLOAT32, 0, 0, rows, cols, calls.address(np.ascontiguousarray(numbers))
    )
    calls.check(library.mm_pack(ctypes.byref(weight), calls.address(packed)))
    return packed


def pack(codes: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.uint8]:
    """Each row as a stream of bits, the lowest first."""
    stream = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8)
    return np.packbits(stream.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


def _as_kind(x: npt.NDArray[np.float64], kind: int) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float64]]:
    if kind == signatures.FLOAT16:
        return x.astype(np.float16), x.astype(np.float16).astype(np.float64)
    single = x.astype(np.float32)
    if kind == signatures.BFLOAT16:
        upper = (single.view(np.uint32) >> 16).astype(np.uint16)
        return upper, (upper.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return single, single.astype(np.float64)
