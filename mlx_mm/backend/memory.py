"""Memory: freed arrays that a CPU uses again, and weights that Metal keeps at hand."""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import cast

import mlx.core as mx

# glibc's mallopt: parameter number -> bytes (malloc.h). The second is the free memory kept for the next layer.
# The third is a count: with an arena for each thread, each would keep as much.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX = -3, -1, -8
MALLOC = {M_MMAP_THRESHOLD: 256 << 20, M_TRIM_THRESHOLD: 512 << 20, M_ARENA_MAX: 1}
SMALL_PAGE = 4096  # or a multiple of it, which then is no error: the call just fails
HUGE_PAGE, MADV_DONTNEED, MADV_HUGEPAGE = 2 << 20, 4, 14  # of Linux (asm-generic/mman-common.h)
_expected: list[tuple[int, int]] = []  # where `expect` had huge pages, from and to
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


def expect(size: int) -> None:
    """Have the next `size` bytes of arrays lie in pages of 2 MB, where Linux gives them.

    To fill 4 kB after 4 kB takes longer than to read weights from a file that is in memory. So memory of that size is
    taken, marked, and given back at once, from where the arrays will have it.
    """
    madvise = _madvise()
    if madvise is None or size < HUGE_PAGE or size > MALLOC[M_MMAP_THRESHOLD] or not keep_freed_memory():
        return
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    size += HUGE_PAGE  # for what stands between arrays
    address = library.malloc(size)
    if address:
        start = address // SMALL_PAGE * SMALL_PAGE
        if madvise(start, address + size - start, MADV_HUGEPAGE) == 0:
            _expected.append((start, address + size))
        library.free(address)


def in_huge_pages(address: int, size: int) -> bool:
    """Whether `size` bytes at an address lie where `expect` had them lie."""
    return any(start <= address and address + size <= end for start, end in _joined(_expected))


def use_huge_pages(address: int, size: int) -> None:
    """Ask Linux for pages of 2 MB where `size` bytes at an address lie, whose contents are lost.

    What is read once and as fast as memory gives it, such as the weights of a token, is read a third faster than from
    pages of 4 kB: fewer addresses to look up, and a processor that reads ahead stops at the end of a page.
    """
    if in_huge_pages(address, size):
        return
    start = -(-address // HUGE_PAGE) * HUGE_PAGE
    length = (address + size) // HUGE_PAGE * HUGE_PAGE - start
    madvise = _madvise()
    if madvise is not None and length > 0 and madvise(start, length, MADV_HUGEPAGE) == 0:
        madvise(start, length, MADV_DONTNEED)  # small pages that were there already


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same, those that overlap made one, in place."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1] + SMALL_PAGE:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    ranges[:] = joined
    return joined


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The C library's; None elsewhere than on Linux."""
    if sys.platform != "linux":
        return None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return cast(Callable[[int, int, int], int], madvise)


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


def memory_for_answers() -> int:
    """Bytes that keys and values may have where nobody says: a quarter of what Metal recommends, or of what is free."""
    if mx.metal.is_available():
        return int(mx.device_info()["max_recommended_working_set_size"]) // 4
    return _free_memory() // 4


def _free_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # where what the system keeps of files counts as free
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
