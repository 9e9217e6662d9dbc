"""Matrix products on a Linux CPU: point MLX at OpenBLAS instead of the reference BLAS of its wheel.

The `mlx-cpu` wheel links netlib's BLAS, one thread of scalar code: about 4 GFLOP/s where OpenBLAS reaches
hundreds. `libmlx.so` calls `cblas_{s,d,c}gemm` through its global offset table. Those three entries stay
writable after loading (they are bound lazily), so they can be pointed at `scipy_openblas32`'s functions, which
take the same arguments. The file's layout is that of the ELF-64 specification with its x86-64 and AArch64
supplements. No page's protection is changed, and anything unexpected leaves MLX as it is and is recorded.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import functools
import importlib
import mmap
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import mlx.core as mx
import numpy as np

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
REFERENCE = "reference BLAS (mlx wheel)"
UNKNOWN = "MLX's own BLAS"

# machine -> (e_machine, relocation type JUMP_SLOT)
MACHINES = {"x86_64": (62, 7), "aarch64": (183, 1026)}
PT_LOAD, PT_DYNAMIC = 1, 2
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_PLTREL, DT_JMPREL = 2, 5, 6, 20, 23
DT_RELA = 7

_LOCK = threading.Lock()


@dataclass(frozen=True)
class BlasStatus:
    """Which BLAS does MLX's matrix products on the CPU, whether `use_fast_blas` chose it, and why (not)."""

    name: str
    active: bool
    reason: str
    threads: int | None = None


class _LeftAloneError(Exception):
    """Why MLX keeps the BLAS it has."""

    def __init__(self, reason: str, name: str = UNKNOWN) -> None:
        super().__init__(reason)
        self.name = name


@dataclass(frozen=True)
class _Mapping:
    start: int
    end: int
    perms: str
    offset: int


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
    library = _load_openblas() if status.active else None
    if library:
        library.scipy_openblas_set_num_threads(ctypes.c_int(count))
    try:
        yield
    finally:
        if library:  # not to what it was on entry: another thread may have limited it then
            library.scipy_openblas_set_num_threads(ctypes.c_int(status.threads or 1))


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
        return _redirect(mode)
    except _LeftAloneError as stop:
        return BlasStatus(stop.name, False, str(stop))


def _redirect(mode: str) -> BlasStatus:
    if sys.platform == "darwin":
        raise _LeftAloneError("MLX uses Apple's Accelerate on macOS", "Accelerate")
    if sys.platform != "linux":
        raise _LeftAloneError(f"only Linux is supported, this is {sys.platform}")
    machine = platform.machine()
    if machine not in MACHINES:
        raise _LeftAloneError(f"the processor type {machine} is not one of {', '.join(MACHINES)}")
    path, mappings = _find_library()
    current = _current_name(path)
    if mode == "off":
        raise _LeftAloneError("turned off by MLX_MM_BLAS=off", current)
    if current != REFERENCE and mode != "on":
        raise _LeftAloneError("MLX is already linked with an optimised BLAS", current)
    try:
        slots = _find_slots(path, mappings, *MACHINES[machine])
        library = _load_openblas()
        targets = _addresses(library, "scipy_")
    except _LeftAloneError as stop:
        raise _LeftAloneError(str(stop), current) from None
    before = {name: _pointer(slot).value for name, slot in slots.items()}
    for name, slot in slots.items():
        _pointer(slot).value = targets[name]
    _set_threads(library)
    if not _products_agree():
        for name, slot in slots.items():
            _pointer(slot).value = before[name]
        raise _LeftAloneError("a test product through OpenBLAS was wrong, so it was put back", current)
    version = _config(library).split()[1]
    name = f"OpenBLAS {'.'.join(version.split('.')[:3])} (scipy-openblas32)"
    return BlasStatus(name, True, "replaces " + current, int(library.scipy_openblas_get_num_threads()))


def _find_library() -> tuple[str, list[_Mapping]]:
    """The path of the loaded libmlx.so and its memory mappings, in order of address."""
    found: dict[str, list[_Mapping]] = {}
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and os.path.basename(fields[5]) == "libmlx.so":
                start, end = (int(part, 16) for part in fields[0].split("-"))
                found.setdefault(fields[5], []).append(_Mapping(start, end, fields[1], int(fields[2], 16)))
    if len(found) != 1:
        raise _LeftAloneError(f"{len(found)} files named libmlx.so are loaded, expected one")
    return next(iter(found.items()))


def _current_name(path: str) -> str:
    """The name of the BLAS that the library at `path` or one of the libraries it needs provides."""
    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD)
    except OSError as error:
        raise _LeftAloneError(f"libmlx.so cannot be opened: {error}") from None
    return next((name for symbol, name in VENDORS.items() if hasattr(library, symbol)), REFERENCE)


def _find_slots(path: str, mappings: list[_Mapping], machine: int, jump_slot: int) -> dict[str, int]:
    """The addresses of the table entries through which libmlx.so calls FUNCTIONS, each checked."""
    base = mappings[0].start
    if mappings[0].offset != 0:
        raise _LeftAloneError("the start of libmlx.so is not mapped")
    try:
        offsets = _jump_slots(path, machine, jump_slot)
    except (OSError, ValueError, struct.error, LookupError, StopIteration) as error:
        raise _LeftAloneError(f"libmlx.so cannot be read as expected: {error!r}") from None
    missing = [name for name in FUNCTIONS if name not in offsets]
    if missing:
        raise _LeftAloneError(f"libmlx.so has no lazily bound entry for {', '.join(missing)}")
    slots = {name: base + offsets[name] for name in FUNCTIONS}
    bound = _addresses(ctypes.CDLL(path, mode=os.RTLD_NOLOAD), "")
    for name, slot in slots.items():
        page = _mapping_at(mappings, slot)
        if slot % 8 or page is None or not page.perms.startswith("rw"):
            raise _LeftAloneError(f"the table entry for {name} is not writable")
        value = _pointer(slot).value or 0
        stub = _mapping_at(mappings, value)
        # Not yet called: it points into libmlx.so itself. Called: at the library that libmlx.so names.
        if value != bound[name] and (stub is None or "x" not in stub.perms):
            raise _LeftAloneError(f"another library already provides {name}")
    return slots


def _jump_slots(path: str, machine: int, jump_slot: int) -> dict[str, int]:
    """Function name -> address of its table entry relative to the library's base (ELF-64, little endian)."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18)[0] != machine:
            raise ValueError("not a 64-bit library for this processor")
        (table,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        segments = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
        loaded = sorted((vaddr, offset, length) for kind, _, offset, vaddr, _, length in segments if kind == PT_LOAD)
        if loaded[0][0] != 0:
            raise ValueError("the first segment does not start at address 0")

        def at(address: int) -> int:
            vaddr, offset, length = loaded[bisect.bisect(loaded, address, key=lambda item: item[0]) - 1]
            if address >= vaddr + length:
                raise ValueError(f"address {address:#x} is not in the file")
            return int(offset + address - vaddr)

        start, length = next((offset, length) for kind, _, offset, _, _, length in segments if kind == PT_DYNAMIC)
        dynamic = dict(struct.iter_unpack("<qQ", data[start : start + length]))
        if dynamic[DT_PLTREL] != DT_RELA:
            raise ValueError("relocations without addends")
        symbols, strings, relocations = (at(dynamic[tag]) for tag in (DT_SYMTAB, DT_STRTAB, DT_JMPREL))
        wanted = {name.encode(): name for name in FUNCTIONS}
        slots = {}
        for address, info, _ in struct.iter_unpack("<QQq", data[relocations : relocations + dynamic[DT_PLTRELSZ]]):
            if info & 0xFFFFFFFF != jump_slot:
                continue
            (name_at,) = struct.unpack_from("<I", data, symbols + 24 * (info >> 32))
            begin = strings + name_at
            name = data[begin : data.find(b"\0", begin)]
            if name in wanted:
                slots[wanted[name]] = address
        return slots


@functools.cache
def _load_openblas() -> ctypes.CDLL:
    try:
        package: ModuleType = importlib.import_module("scipy_openblas32")
        library = ctypes.CDLL(os.path.join(package.get_lib_dir(), package.get_library(fullname=True)))
        config = _config(library)
    except ImportError:
        raise _LeftAloneError("scipy-openblas32 is not installed (pip install scipy-openblas32)") from None
    except (OSError, AttributeError, IndexError) as error:
        raise _LeftAloneError(f"scipy-openblas32 cannot be loaded: {error}") from None
    if not config.startswith("OpenBLAS ") or "USE64BITINT" in config:
        raise _LeftAloneError(f"scipy-openblas32 is not the 32-bit-integer build: {config}")
    return library


def _config(library: ctypes.CDLL) -> str:
    library.scipy_openblas_get_config.restype = ctypes.c_char_p
    text: bytes = library.scipy_openblas_get_config()
    return text.decode()


def _addresses(library: ctypes.CDLL, prefix: str) -> dict[str, int]:
    try:
        functions = {name: library[prefix + name] for name in FUNCTIONS}
    except AttributeError as error:
        raise _LeftAloneError(f"a BLAS function is missing: {error}") from None
    return {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in functions.items()}


def _mapping_at(mappings: list[_Mapping], address: int) -> _Mapping | None:
    return next((part for part in mappings if part.start <= address < part.end), None)


def _pointer(address: int) -> ctypes.c_void_p:
    return ctypes.c_void_p.from_address(address)


def _set_threads(library: ctypes.CDLL) -> None:
    """One thread for each CPU this process may use; OpenBLAS itself counts those of the whole machine."""
    if not any(os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")):
        library.scipy_openblas_set_num_threads(ctypes.c_int(usable_cpus()))


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _products_agree() -> bool:
    """Small products of each type, plain and with a transposed operand, against NumPy."""
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 33, 18)), random.standard_normal((2, 18, 29))
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-10), ("complex64", 1e-4)):
        a, b = ((x[0] + (1j * x[1] if dtype == "complex64" else 0)).astype(dtype) for x in (left, right))
        with mx.stream(mx.cpu):
            kind = getattr(mx, dtype)
            x, y, z = (mx.array(part, dtype=kind) for part in (a, b, np.ascontiguousarray(b.T)))
            products = (x @ y, x @ z.T, x.T @ x)
        for product, expected in zip(products, (a @ b, a @ b, a.T @ a), strict=True):
            if not np.allclose(np.array(product), expected, rtol=0, atol=tolerance):
                return False
    return True
