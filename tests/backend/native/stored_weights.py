"""Weights in each way that the kernels read, of random numbers, and the same in float64 by MLX."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_mm.backend.native import calls, signatures

FLOATS = {"float32": signatures.FLOAT32, "float16": signatures.FLOAT16, "bfloat16": signatures.BFLOAT16}
MICROSCALED = {
    "mxfp4": (signatures.MXFP4, 4, 32),
    "mxfp8": (signatures.MXFP8, 8, 32),
    "nvfp4": (signatures.NVFP4, 4, 16),
}
AFFINE = (*(f"affine{bits}-64" for bits in (2, 3, 4, 5, 6, 8)), "affine3-32", "affine4-32", "affine4-128")
KINDS = ("packed", *FLOATS, *AFFINE, *MICROSCALED)
QUANTISED = (*AFFINE, *MICROSCALED)


@dataclass
class Stored:
    """A weight (rows, cols) as the library takes it, and its numbers."""

    weight: signatures.Weight
    numbers: np.ndarray
    arrays: list[np.ndarray] = field(default_factory=list)  # that the weight points to


def group_of(kind: str) -> int:
    """Numbers that have a scale in common; 1 where there are none."""
    if kind in MICROSCALED:
        return MICROSCALED[kind][2]
    return int(kind.partition("-")[2]) if kind.startswith("affine") else 1


def store(library: ctypes.CDLL, kind: str, rows: int, cols: int, *, scales: str = "float32", seed: int = 0) -> Stored:
    """A random weight. `scales`: the type of those of an affine one. A packed one is made by mm_pack."""
    random = np.random.default_rng([seed, rows, cols])
    if kind in FLOATS:
        return of_floats(random.standard_normal((rows, cols), dtype=np.float32), kind)
    if kind == "packed":
        return pack(library, store(library, "float32", rows, cols, seed=seed))
    group = group_of(kind)
    groups = (rows, cols // group)
    if kind in MICROSCALED:
        number, bits, _ = MICROSCALED[kind]
        low, high = (120, 135) if group == 32 else (0, 0x7F)  # of e8m0: 2^-7 to 2^7; of e4m3: all but NaN
        codes, each = _words(random, rows, cols * bits), random.integers(low, high, groups, dtype=np.uint8)
        if bits == 8:
            nan = (codes.view(np.uint8) & 0x7F) == 0x7F
            codes.view(np.uint8)[nan] = 0x7E
        full = mx.dequantize(mx.array(codes), mx.array(each), group_size=group, bits=bits, mode=kind, dtype=mx.float32)
        weight = signatures.Weight(number, 0, bits, group, rows, cols, calls.address(codes), calls.address(each))
        return Stored(weight, np.array(full, np.float64), [codes, each])
    bits = int(kind.removeprefix("affine").partition("-")[0])
    codes = _words(random, rows, cols * bits)
    ways, biases = (_floats(random.standard_normal(groups, dtype=np.float32), scales) for _ in range(2))
    full = mx.dequantize(
        mx.array(codes), mx.array(ways[1]), mx.array(biases[1]), group_size=group, bits=bits, mode="affine"
    )
    weight = signatures.Weight(
        signatures.AFFINE, FLOATS[scales], bits, group, rows, cols,
        calls.address(codes), calls.address(ways[0]), calls.address(biases[0]),
    )  # fmt: skip
    return Stored(weight, np.array(full, np.float64), [codes, ways[0], biases[0]])


def of_floats(numbers: np.ndarray, kind: str = "float32") -> Stored:
    """Rows of float32, float16 or bfloat16."""
    bits, numbers = _floats(numbers, kind)
    weight = signatures.Weight(signatures.ROWS, FLOATS[kind], 0, 0, *numbers.shape, calls.address(bits))
    return Stored(weight, numbers.astype(np.float64), [bits])


def pack(library: ctypes.CDLL, stored: Stored) -> Stored:
    """The same weight as panels."""
    rows, cols, panel = stored.weight.rows, stored.weight.cols, library.mm_panel()
    packed = np.full((-(-rows // panel), cols, panel), np.nan, np.float32)
    calls.check(library.mm_pack(ctypes.byref(stored.weight), calls.address(packed)))
    weight = signatures.Weight(signatures.PACKED, signatures.FLOAT32, 0, 0, rows, cols, calls.address(packed))
    return Stored(weight, stored.numbers, [packed])


def _floats(numbers: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """How they are stored, and what they are then, as float32."""
    if kind == "bfloat16":
        bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32)
    stored = numbers.astype(kind)
    return stored, stored.astype(np.float32)


def _words(random: np.random.Generator, rows: int, bits: int) -> np.ndarray:
    return random.integers(0, 1 << 32, (rows, bits // 32), dtype=np.uint32)
