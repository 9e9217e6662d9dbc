"""The library of CPU kernels: found beside this file, chosen by MLX_MM_CPU, and held against NumPy before it is used.

It is compiled when the package is installed, where there is a compiler; without it everything runs as MLX has it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

from mlx_mm.backend.blas import usable_cpus
from mlx_mm.backend.native import signatures
from mlx_mm.errors import InputError

LIBRARY = Path(__file__).with_name("libmlx_mm_native.so")
NO_LIBRARY = Path(__file__).with_name("reason.txt")  # written by the build where it could not compile

AUTO, OFF, EXACT = "auto", "off", "exact"
SETS = ("generic", "avx2", "avx512", "avx512-vnni", "neon", "neon-dotprod")

_LOCK = threading.Lock()


@dataclass(frozen=True)
class NativeStatus:
    """Whether the kernels compute on a CPU, with which instruction set and how many threads, and why (not).

    exact: products with quantised weights take float32 inputs as they are.
    """

    active: bool
    reason: str
    instruction_set: str = ""
    threads: int = 1
    exact: bool = False


class UnusableError(Exception):
    """Why the library is not used."""


@functools.cache
def _settings() -> tuple[str, bool]:
    """What MLX_MM_CPU asks for: an instruction set, "auto" or "off", and whether numbers are exact."""
    given = os.environ.get("MLX_MM_CPU", "").strip().lower() or AUTO
    words = [word.strip() for word in given.split(",")]
    exact = EXACT in words
    names = [word for word in words if word != EXACT] or [AUTO]
    if len(names) > 1 or names[0] not in (AUTO, OFF, *SETS):
        raise InputError(
            f"MLX_MM_CPU is {given!r}; expected one of {', '.join((AUTO, OFF, EXACT, *SETS))}, "
            "or an instruction set and exact, as in avx2,exact."
        )
    return names[0], exact


def open_library() -> ctypes.CDLL | None:
    """The library, None where it is not used. Raises InputError for an unknown MLX_MM_CPU."""
    return _open()[0]


def kernels() -> ctypes.CDLL:
    """The library, for who computes with views, which there are only where it is used."""
    library = open_library()
    if library is None:
        raise UnusableError("a view of numbers was given to a layer where no kernels are in use")
    return library


def inputs_of(usual: int) -> int:
    """How a product with a quantised weight takes its inputs: `usual`, or as they are with MLX_MM_CPU=exact."""
    return signatures.INPUTS_EXACT if native_status().exact else usual


def native_status() -> NativeStatus:
    """What `open_library` found. Raises InputError for an unknown MLX_MM_CPU."""
    return _open()[1]


def _open() -> tuple[ctypes.CDLL | None, NativeStatus]:
    with _LOCK:
        return _open_once()


@functools.cache
def _open_once() -> tuple[ctypes.CDLL | None, NativeStatus]:
    wanted, exact = _settings()
    if wanted == OFF:
        return None, NativeStatus(False, "turned off by MLX_MM_CPU=off")
    if sys.platform != "linux":
        return None, NativeStatus(False, "there are kernels for Linux; macOS has Metal and Accelerate")
    if not LIBRARY.exists():
        reason = NO_LIBRARY.read_text("utf-8").strip() if NO_LIBRARY.exists() else "it was not built"
        return None, NativeStatus(False, f"{reason}; install mlx_mm again with g++ or clang++ at hand")
    try:
        library = load(LIBRARY, wanted)
    except UnusableError as stop:
        warnings.warn(f"mlx_mm runs without its CPU kernels: {stop}. Install mlx_mm again.", stacklevel=2)
        return None, NativeStatus(False, str(stop))
    threads = wanted_threads()
    library.mm_set_threads(threads)
    name = wanted if wanted != AUTO else instruction_sets(library)[0]
    return library, NativeStatus(True, f"instruction set {name}", name, threads, exact)


def load(path: Path, wanted: str = AUTO) -> ctypes.CDLL:
    """The library at a path, with an instruction set chosen and its kernels checked; UnusableError says why not.

    Raises InputError where this processor lacks the instruction set that is asked for.
    """
    try:
        library = ctypes.CDLL(str(path))
        signatures.declare(library)
        version = library.mm_version()
    except (OSError, AttributeError) as error:
        raise UnusableError(f"{path.name} cannot be loaded ({error})") from None
    if version != signatures.VERSION:
        raise UnusableError(f"{path.name} has version {version}, expected {signatures.VERSION}")
    sets = instruction_sets(library)
    if wanted != AUTO and wanted not in sets:
        raise InputError(f"MLX_MM_CPU is {wanted!r}, which this processor lacks; it has {', '.join(sets)}.")
    library.mm_choose((sets[0] if wanted == AUTO else wanted).encode())
    from mlx_mm.backend.native import check  # which calls what this file opens

    if (wrong := check.wrong_kernel(library)) is not None:
        raise UnusableError(f"{path.name} gives wrong numbers in {wrong}")
    return library


def instruction_sets(library: ctypes.CDLL) -> list[str]:
    """Those that this processor has, the best first."""
    names: bytes = library.mm_instruction_sets()
    return names.decode().split()


def wanted_threads() -> int:
    """MLX_MM_THREADS, or one thread for each CPU that this process may use, a container's quota included.

    Raises InputError for another value than a number from 1.
    """
    given = os.environ.get("MLX_MM_THREADS", "").strip()
    if not given:
        return usable_cpus()
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"MLX_MM_THREADS is {given!r}; expected a whole number from 1. Leave it out for all CPUs.")
    return int(given)
