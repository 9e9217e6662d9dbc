"""How fast this machine computes and reads, measured now: what no engine can pass."""

import ctypes
from typing import NamedTuple

from mlx_mm.backend import blas
from mlx_mm.backend.native.library import open_library


class Peaks(NamedTuple):
    """With all threads: 1e9 float32 operations, 8-bit integer operations and bytes read a second; None where unknown.

    Without the kernels float_gflops is what a product of MLX's reaches.
    """

    float_gflops: float
    int8_gops: float | None = None
    read_gbytes: float | None = None


def measure_peaks() -> Peaks:
    """Some tenths of a second of work."""
    library = open_library()
    peak = None if library is None else getattr(library, "mm_peak", None)
    if peak is None:
        return Peaks(blas.measure_gflops())
    peak.restype, peak.argtypes = ctypes.c_double, [ctypes.c_int32]
    return Peaks(*(float(peak(kind)) for kind in range(3)))
