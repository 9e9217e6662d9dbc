"""How fast this machine computes and reads, measured now: what no engine can pass."""

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
    if library is None:
        return Peaks(blas.measure_gflops())
    return Peaks(*(float(library.mm_peak(kind)) for kind in range(3)))
