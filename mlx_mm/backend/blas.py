"""Matrix products on a Linux CPU: point MLX at OpenBLAS instead of the reference BLAS of its wheel.

The `mlx-cpu` wheel links netlib's BLAS, one thread of scalar code: about 4 GFLOP/s where OpenBLAS reaches
hundreds. `libmlx.so` calls `cblas_{s,d,c}gemm` through its global offset table. Those three entries stay
writable after loading (they are bound lazily), so they can be pointed at `scipy_openblas32`'s functions, which
take the same arguments. Anything unexpected leaves MLX as it is and is recorded.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_mm.backend.call_table import MACHINES, TableError, addresses, find_library, find_slots, pointer
from mlx_mm.backend.cpus import usable_cpus
from mlx_mm.errors import InputError

FUNCTIONS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
MODES = ("auto", "on", "off")

# A function that only the named library exports.
VENDORS = {
    "openblas_get_config": "OpenBLAS",
    "MKL_Get_Version_String": "MKL",
    "bli_info_get_version_str": "BLIS",
    "armplversion": "Arm Performance Libraries",
}
# Of the wheels of NumPy 2 and of 1.26, what is called to get or set the threads.
NUMPY_NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")
REFERENCE = "reference BLAS (mlx wheel)"
UNKNOWN = "MLX's own BLAS"

_LOCK = threading.Lock()


@dataclass(frozen=True)
class BlasStatus:
    """Which BLAS does MLX's matrix products on the CPU, whether `use_fast_blas` chose it, and why (not)."""

    name: str
    active: bool
    reason: str
    threads: int | None = None


class LeftAloneError(Exception):
    """Why MLX keeps the BLAS it has."""

    def __init__(self, reason: str, name: str = UNKNOWN) -> None:
        super().__init__(reason)
        self.name = name


def use_fast_blas() -> BlasStatus:
    """Point MLX's CPU matrix products at OpenBLAS where possible. Later calls return the first answer.

    The environment variable MLX_MM_BLAS is `auto` (default), `on` (also where MLX already has an optimised
    BLAS) or `off`. OpenBLAS gets one thread for each usable CPU, unless OPENBLAS_NUM_THREADS or
    OMP_NUM_THREADS says otherwise.
    Raises InputError if MLX_MM_BLAS has another value.
    """
    with _LOCK:
        return _use_fast_blas_once()


@contextlib.contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Inside, each matrix product takes `count` threads; without effect where MLX kept its own BLAS."""
    status = use_fast_blas()
    library = load_openblas() if status.active else None
    if library:
        library.scipy_openblas_set_num_threads(ctypes.c_int(count))
    try:
        yield
    finally:
        if library:  # not to what it was on entry: another thread may have limited it then
            library.scipy_openblas_set_num_threads(ctypes.c_int(status.threads or 1))


@contextlib.contextmanager
def numpy_on_one_thread() -> Iterator[None]:
    """Inside, NumPy's own products and factors take one thread; without effect where it has another BLAS than OpenBLAS.

    For many small ones: workers that wait for the next take more time than they save, above all on a busy machine.
    """
    own = _numpy_openblas()
    if own:
        own.set(ctypes.c_int(1))
    try:
        yield
    finally:
        if own:
            own.set(ctypes.c_int(own.threads))


def measure_gflops(size: int = 1024) -> float:
    """GFLOP/s of a (size, size) float32 matrix product on MLX's default device: the best of 5 runs."""
    a = mx.random.normal((size, size), key=mx.random.key(0))
    mx.eval(a, a @ a)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        mx.eval(a @ a)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


@functools.cache
def _use_fast_blas_once() -> BlasStatus:
    mode = os.environ.get("MLX_MM_BLAS", "").strip().lower() or "auto"
    if mode not in MODES:
        raise InputError(f"MLX_MM_BLAS is {mode!r}; it takes one of {', '.join(MODES)}.")
    try:
        return redirect(mode)
    except LeftAloneError as stop:
        return BlasStatus(stop.name, False, str(stop))


def redirect(mode: str) -> BlasStatus:
    """`use_fast_blas` without its memory and its lock; LeftAloneError where MLX keeps what it has."""
    if sys.platform == "darwin":
        raise LeftAloneError("MLX uses Apple's Accelerate on macOS", "Accelerate")
    if sys.platform != "linux":
        raise LeftAloneError(f"only Linux is supported, this is {sys.platform}")
    machine = platform.machine()
    if machine not in MACHINES:
        raise LeftAloneError(f"the processor type {machine} is not one of {', '.join(MACHINES)}")
    try:
        path, ranges = find_library("libmlx.so")
    except TableError as stop:
        raise LeftAloneError(str(stop)) from None
    current = current_name(path)
    if mode == "off":
        raise LeftAloneError("turned off by MLX_MM_BLAS=off", current)
    if current != REFERENCE and mode != "on":
        raise LeftAloneError("MLX is already linked with an optimised BLAS", current)
    try:
        slots = find_slots(path, ranges, FUNCTIONS, *MACHINES[machine])
        library = load_openblas()
        targets = addresses(library, FUNCTIONS, "scipy_")
    except (TableError, LeftAloneError) as stop:
        raise LeftAloneError(str(stop), current) from None
    before = {name: pointer(slot).value for name, slot in slots.items()}
    for name, slot in slots.items():
        pointer(slot).value = targets[name]
    _set_threads(library)
    if not products_agree():
        for name, slot in slots.items():
            pointer(slot).value = before[name]
        raise LeftAloneError("a test product through OpenBLAS was wrong, so it was put back", current)
    version = _config(library).split()[1]
    name = f"OpenBLAS {'.'.join(version.split('.')[:3])} (scipy-openblas32)"
    return BlasStatus(name, True, "replaces " + current, int(library.scipy_openblas_get_num_threads()))


def current_name(path: str) -> str:
    """The name of the BLAS that the library at `path` or one of the libraries it needs provides."""
    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD)
    except OSError as error:
        raise LeftAloneError(f"libmlx.so cannot be opened: {error}") from None
    return next((name for symbol, name in VENDORS.items() if hasattr(library, symbol)), REFERENCE)


@functools.cache
def load_openblas() -> ctypes.CDLL:
    """The library of the package scipy-openblas32; LeftAloneError where it is missing or of another kind."""
    try:
        # Importing the package would read its metadata, which takes longer than loading the library.
        package = importlib.util.find_spec("scipy_openblas32")
        if package is None or package.origin is None:
            raise LeftAloneError("scipy-openblas32 is not installed (pip install scipy-openblas32)")
        (path,) = Path(package.origin).with_name("lib").glob("libscipy_openblas*")
        library = ctypes.CDLL(str(path))
        config = _config(library)
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise LeftAloneError(f"scipy-openblas32 cannot be loaded: {error}") from None
    if not config.startswith("OpenBLAS ") or "USE64BITINT" in config:
        raise LeftAloneError(f"scipy-openblas32 is not the 32-bit-integer build: {config}")
    return library


@dataclass(frozen=True)
class _NumpyOpenblas:
    """What sets its threads, and how many it had at first."""

    set: Callable[[ctypes.c_int], object]
    threads: int


@functools.cache
def _numpy_openblas() -> _NumpyOpenblas | None:
    """That of NumPy's wheels, another one than MLX's: it has integers of 64 bits, and names of its own."""
    package = Path(np.__file__).parent
    for file in (*package.with_name("numpy.libs").glob("*openblas*"), *package.glob(".dylibs/*openblas*")):
        library = ctypes.CDLL(str(file))  # loaded already
        for name in NUMPY_NAMES:
            with contextlib.suppress(AttributeError):
                return _NumpyOpenblas(library[name.format("set")], int(library[name.format("get")]()))
    return None


def _config(library: ctypes.CDLL) -> str:
    library.scipy_openblas_get_config.restype = ctypes.c_char_p
    text: bytes = library.scipy_openblas_get_config()
    return text.decode()


def _set_threads(library: ctypes.CDLL) -> None:
    """One thread for each CPU this process may use; OpenBLAS itself counts those of the whole machine."""
    if not any(os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")):
        library.scipy_openblas_set_num_threads(ctypes.c_int(usable_cpus()))


def products_agree() -> bool:
    """Small products of each type, plain and with a transposed operand, against NumPy."""
    random, stream = np.random.default_rng(0), mx.new_thread_unsafe_stream(mx.cpu)  # this may be any thread
    left, right = random.standard_normal((2, 33, 18)), random.standard_normal((2, 18, 29))
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-10), ("complex64", 1e-4)):
        a, b = ((x[0] + (1j * x[1] if dtype == "complex64" else 0)).astype(dtype) for x in (left, right))
        with mx.stream(stream):
            kind = getattr(mx, dtype)
            x, y, z = (mx.array(part, dtype=kind) for part in (a, b, np.ascontiguousarray(b.T)))
            products = (x @ y, x @ z.T, x.T @ x)
            mx.eval(products)
        for product, expected in zip(products, (a @ b, a @ b, a.T @ a), strict=True):
            if not np.allclose(np.array(product), expected, rtol=0, atol=tolerance):
                return False
    return True
