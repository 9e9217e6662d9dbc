"""The machine under a benchmark: what it is, and how fast it computes and reads at that moment."""

from __future__ import annotations

import os
import platform
import sys
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


def peaks() -> np.ndarray:
    """PEAKS; 0 where it is not known."""
    from mlx_mm.backend.native.peaks import measure_peaks

    return 1e9 * np.array([value or 0.0 for value in measure_peaks()])


if __name__ == "__main__":
    serve(lambda case: peaks, Path(os.environ[OUT]))
