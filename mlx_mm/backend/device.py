"""Which device computes, and what follows from it."""

import mlx.core as mx

from mlx_mm.backend.blas import BlasStatus, usable_cpus, use_fast_blas
from mlx_mm.backend.memory import keep_freed_memory
from mlx_mm.backend.native.library import open_library


def prepare() -> BlasStatus:
    """Get ready to run a model: on a Linux CPU the kernels, the fast BLAS and memory that is used again. Cheap when
    repeated.

    Raises InputError if MLX_MM_CPU, MLX_MM_THREADS or MLX_MM_BLAS has an unknown value.
    """
    if on_cpu():
        keep_freed_memory()
        open_library()
    return use_fast_blas()


def on_cpu() -> bool:
    """Whether MLX's default device is a CPU."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def compute_dtype(stored: mx.Dtype, *, float16: bool = False) -> mx.Dtype:
    """The dtype to compute in with a weight that is stored in one. float16: whether float16 is accurate enough for it.

    Half-precision products are 10 to 140 times slower than float32 on a CPU. Where float16 is too little, bfloat16
    would drop digits that the file has.
    """
    return mx.float32 if on_cpu() or (stored == mx.float16 and not float16) else stored


def has_kernels() -> bool:
    """Whether the default device is a CPU for which the library of kernels is in use."""
    return on_cpu() and open_library() is not None


def dequantize_encoders() -> bool:
    """Whether quantised layers of an encoder are turned into float32 once, at load.

    MLX's own quantised product on a CPU is a scalar loop: for 16 rows or more, float32 is 50 times faster.
    """
    return on_cpu() and not has_kernels()


def processors() -> int:
    """How many threads are worth starting."""
    return use_fast_blas().threads or usable_cpus()
