"""Memory: freed arrays that a CPU uses again, and weights that Metal keeps at hand."""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator

import mlx.core as mx

# glibc's mallopt: parameter number -> bytes (malloc.h). The second is the free memory kept for the next layer.
# The third is a count: with an arena for each thread, each would keep as much.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX = -3, -1, -8
MALLOC = {M_MMAP_THRESHOLD: 256 << 20, M_TRIM_THRESHOLD: 512 << 20, M_ARENA_MAX: 1}
MALLOC_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed arrays, up to MALLOC's limits, instead of returning them to the system at once.

    Without it each layer's arrays are mapped and zeroed anew: a quarter of a ViT's time. Settings that the user
    made win. Returns whether anything was set.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in MALLOC_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and all(mallopt(*setting) for setting in MALLOC.items())


@contextlib.contextmanager
def wired_memory(finish: Callable[[], None]) -> Iterator[None]:
    """Inside, as much of the weights as Metal recommends stays in memory, as mlx_lm has it while it generates.

    finish: waits for what runs, before the limit is as it was.
    """
    if not mx.metal.is_available():
        yield
        return
    usual = mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
    try:
        yield
    finally:
        finish()
        mx.set_wired_limit(usual)
