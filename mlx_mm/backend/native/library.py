"""The library of CPU kernels: found beside this file, chosen by MLX_MM_CPU, and held against NumPy before it is used.

It is compiled when the package is installed, where there is a compiler; without it everything runs as MLX has it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

from mlx_mm.backend.cpus import usable_cpus
from mlx_mm.backend.native import signatures
from mlx_mm.errors import InputError

LIBRARY = Path(__file__).with_name("libmlx_mm_native.so")
NO_LIBRARY = Path(__file__).with_name("reason.txt")  # written by the build where it could not compile
DIGEST = 32  # bytes at a library's end: the SHA-256 of the others
MOST_THREADS = 256  # of the library's pool

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


def open_library() -> ctypes.CDLL | None:
    """The library, None where it is not used.

    Raises InputError for an unknown MLX_MM_CPU or MLX_MM_THREADS.
    """
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
    """What `open_library` found. Raises InputError as it does."""
    return _open()[1]


def _open() -> tuple[ctypes.CDLL | None, NativeStatus]:
    with _LOCK:
        return _open_once()


@functools.cache
def _open_once() -> tuple[ctypes.CDLL | None, NativeStatus]:
    return find(LIBRARY.parent)


def find(folder: Path) -> tuple[ctypes.CDLL | None, NativeStatus]:
    """`open_library` and `native_status` of a folder, without their memory and their lock."""
    wanted, exact = read_settings(os.environ.get("MLX_MM_CPU", ""))
    threads = wanted_threads(os.environ.get("MLX_MM_THREADS", ""))
    if wanted == OFF:
        return None, NativeStatus(False, "turned off by MLX_MM_CPU=off")
    if sys.platform != "linux":
        return None, NativeStatus(False, "there are kernels for Linux alone; macOS has Metal and Accelerate")
    path = folder / LIBRARY.name
    if not path.exists():
        return None, NativeStatus(False, _why_not_built(folder / NO_LIBRARY.name))
    try:
        library = load(path, wanted)
    except UnusableError as stop:
        warnings.warn(f"mlx_mm runs without its CPU kernels: {stop}. Install mlx_mm again.", stacklevel=2)
        return None, NativeStatus(False, str(stop))
    library.mm_set_threads(threads)
    sets = instruction_sets(library)
    reason = f"the best of {', '.join(sets)}" if wanted == AUTO else "as MLX_MM_CPU says"
    return library, NativeStatus(True, reason, sets[0] if wanted == AUTO else wanted, threads, exact)


def read_settings(given: str) -> tuple[str, bool]:
    """What MLX_MM_CPU asks for: an instruction set, "auto" or "off", and whether numbers are exact.

    Raises InputError for anything else.
    """
    words = [word.strip() for word in given.lower().split(",")] if given.strip() else [AUTO]
    names = [word for word in words if word != EXACT] or [AUTO]
    if len(names) > 1 or names[0] not in (AUTO, OFF, *SETS):
        raise InputError(
            f"MLX_MM_CPU is {given!r}; expected one of {', '.join((AUTO, OFF, EXACT, *SETS))}, "
            "or an instruction set and exact, as in avx2,exact. Leave it out for the best of this processor."
        )
    return names[0], EXACT in words


def wanted_threads(given: str) -> int:
    """MLX_MM_THREADS, or one thread for each CPU that this process may use, a container's quota included.

    Raises InputError for another value than a number from 1.
    """
    given = given.strip()
    if given and not re.fullmatch("0{0,9}[1-9][0-9]{0,8}", given):
        raise InputError(f"MLX_MM_THREADS is {given!r}; expected a whole number from 1. Leave it out for all CPUs.")
    return min(int(given) if given else usable_cpus(), MOST_THREADS)


def load(path: Path, wanted: str = AUTO) -> ctypes.CDLL:
    """The library at a path, with an instruction set chosen and its kernels checked; UnusableError says why not.

    Raises InputError where this processor lacks the instruction set that is asked for.
    """
    _check_digest(path)
    try:
        library = ctypes.CDLL(str(path))
        signatures.declare(library)
        version = library.mm_version()
    except (OSError, AttributeError) as error:
        raise UnusableError(f"{path.name} cannot be loaded ({error})") from None
    if version != signatures.VERSION:
        raise UnusableError(f"{path.name} has version {version}, expected {signatures.VERSION}")
    sets = instruction_sets(library)
    if not sets:
        raise UnusableError(f"{path.name} has no kernels for this processor")
    if wanted != AUTO and wanted not in sets:
        raise InputError(
            f"MLX_MM_CPU is {wanted!r}, which this processor lacks; it has {', '.join(sets)}. "
            "Name one of these, or leave MLX_MM_CPU out for the first."
        )
    library.mm_choose((sets[0] if wanted == AUTO else wanted).encode())
    from mlx_mm.backend.native import check  # which calls what this file opens

    if (wrong := check.wrong_kernel(library)) is not None:
        raise UnusableError(f"{path.name} gives wrong numbers in {wrong}")
    return library


def _check_digest(path: Path) -> None:
    """A file that was cut or changed can end the process that loads it; the system's loader takes it as it is."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableError(f"{path.name} cannot be read ({error.strerror})") from None
    if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
        raise UnusableError(f"{path.name} is damaged, or not what native/build.py made")


def instruction_sets(library: ctypes.CDLL) -> list[str]:
    """Those that this processor has, the best first."""
    names: bytes | None = library.mm_instruction_sets()
    return (names or b"").decode("ascii", "replace").split()


def _why_not_built(reason: Path) -> str:
    if reason.exists():
        return reason.read_text("utf-8", "replace").strip()
    return "the kernels were not built; install mlx_mm again, or run native/build.py in its sources"
