"""The machine under a benchmark: what it is, and how fast it computes and reads at that moment."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from workers import OUT, cpus, serve

PEAKS = ("float32", "int8", "read")  # operations, operations and bytes a second
PACKAGES = (
    *("mlx_mm", "mlx", "mlx-lm", "numpy", "scipy-openblas32", "torch", "transformers", "onnxruntime", "openvino"),
    *("nncf", "gguf"),
)
VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "GLIBC_TUNABLES")


def describe() -> dict:
    """Versions, processor and the variables that change the result."""
    return {
        "versions": {name: version for name in PACKAGES if (version := version_of(name))},
        "processor": processor(),
        "cpus": cpus(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name in VARIABLES or name.startswith("MLX_MM_")
        },
        "kernels": kernels(),
    }


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def kernels() -> str:
    from mlx_mm.backend.native.library import native_status

    return native_status().reason


def measure_peaks() -> np.ndarray:
    """PEAKS, by the kernels' own loops; without them the product of NumPy's BLAS stands for float32, and 0 elsewhere."""
    from mlx_mm.backend.native.library import open_library

    library = open_library()
    if library is not None and hasattr(library, "mm_peak"):
        import ctypes

        library.mm_peak.restype, library.mm_peak.argtypes = ctypes.c_double, [ctypes.c_int32]
        return 1e9 * np.array([library.mm_peak(kind) for kind in range(3)])
    a = np.ones((1024, 1024), np.float32)
    a @ a
    best = min(seconds(lambda: a @ a) for _ in range(5))
    return np.array([2 * 1024**3 / best, 0.0, 0.0])


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    serve(lambda case: measure_peaks, Path(os.environ[OUT]))
