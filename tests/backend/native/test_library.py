"""Which library is used, and that a damaged, foreign or wrong one is not."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_mm.backend.native import check, library, signatures
from mlx_mm.errors import InputError

COMPILER = next(filter(shutil.which, ("g++", "clang++", "c++")), None)

built = pytest.mark.skipif(not library.LIBRARY.exists(), reason="the kernels were not compiled here")
linux = pytest.mark.skipif(sys.platform != "linux", reason="there are kernels for Linux alone")
compiles = pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nobody sets anything."""
    monkeypatch.delenv("MLX_MM_CPU", raising=False)
    monkeypatch.delenv("MLX_MM_THREADS", raising=False)


def sealed(content: bytes) -> bytes:
    """As native/build.py writes a library."""
    return content + hashlib.sha256(content).digest()


def refused(path: Path) -> str:
    """Why a library is not used, which is also what the one warning says."""
    with pytest.raises(library.UnusableError) as caught:
        library.load(path)
    with pytest.warns(UserWarning, match="without its CPU kernels") as warned:
        opened, status = library.find(path.parent)
    assert opened is None
    assert not status.active
    assert status.reason == str(caught.value)
    (warning,) = warned
    assert status.reason in str(warning.message)
    return status.reason


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ("auto", False)),
        (" ", ("auto", False)),
        ("auto", ("auto", False)),
        ("OFF", ("off", False)),
        ("exact", ("auto", True)),
        ("avx512-vnni", ("avx512-vnni", False)),
        ("avx2, exact", ("avx2", True)),
        ("exact,neon", ("neon", True)),
    ],
)
def test_settings(given: str, expected: tuple[str, bool]) -> None:
    assert library.read_settings(given) == expected


@pytest.mark.parametrize("given", ["sse9", "avx2,avx512", "avx2,", ",", "none", "exactly", "avx2 exact"])
def test_unknown_settings(given: str) -> None:
    with pytest.raises(InputError) as caught:
        library.read_settings(given)
    assert str(caught.value).startswith(f"MLX_MM_CPU is {given!r}; expected one of auto, off, exact, generic, avx2")


@pytest.mark.parametrize(("given", "expected"), [("1", 1), (" 3 ", 3), ("007", 7), ("400", 256), ("999999999", 256)])
def test_threads(given: str, expected: int) -> None:
    assert library.wanted_threads(given) == expected


@pytest.mark.parametrize("given", ["0", "00", "-1", "1.5", "two", "1e3", "٣", "9" * 5000, "1 2"])
def test_wrong_threads(given: str) -> None:
    with pytest.raises(InputError, match=r"MLX_MM_THREADS is .*; expected a whole number from 1\."):
        library.wanted_threads(given)


@linux
def test_a_wrong_setting_ends_the_command_with_one_line() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MLX_MM_CPU": "sse9"}
    command = [sys.executable, "-m", "mlx_mm", "info"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: MLX_MM_CPU is 'sse9'; expected one of ")
    assert done.stderr.count("\n") == 1


# --- which is used ----------------------------------------------------------------------------------------------


@built
@linux
def test_the_best_instruction_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_MM_THREADS", "3")
    opened, status = library.find(library.LIBRARY.parent)
    assert opened is not None
    sets = library.instruction_sets(opened)
    assert set(sets) <= set(library.SETS)
    assert status == library.NativeStatus(True, f"the best of {', '.join(sets)}", sets[0], 3, False)
    assert opened.mm_threads() == 3
    opened.mm_set_threads(library.wanted_threads(""))


@built
@linux
def test_every_instruction_set_of_this_processor_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = library.load(library.LIBRARY)
    for name in library.instruction_sets(opened):
        monkeypatch.setenv("MLX_MM_CPU", f"{name},exact")
        status = library.find(library.LIBRARY.parent)[1]
        assert (status.active, status.instruction_set, status.exact) == (True, name, True)
    library.load(library.LIBRARY)  # the best again, for other tests


@built
@linux
def test_an_instruction_set_that_this_processor_lacks() -> None:
    lacking = next(name for name in library.SETS if name not in library.instruction_sets(library.load(library.LIBRARY)))
    with pytest.raises(InputError, match=f"MLX_MM_CPU is '{lacking}', which this processor lacks; it has "):
        library.load(library.LIBRARY, lacking)
    assert library.load(library.LIBRARY).mm_choose(lacking.encode()) == signatures.UNSUPPORTED


@linux
def test_turned_off_and_never_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.find(tmp_path)[1].reason.startswith("the kernels were not built; install mlx_mm again")
    (tmp_path / library.NO_LIBRARY.name).write_text("no C++ compiler was found\n")
    assert library.find(tmp_path) == (None, library.NativeStatus(False, "no C++ compiler was found"))
    monkeypatch.setenv("MLX_MM_CPU", "off")
    assert library.find(tmp_path) == (None, library.NativeStatus(False, "turned off by MLX_MM_CPU=off"))


def test_other_systems_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / library.LIBRARY.name).write_bytes(b"\0" * 100)
    assert library.find(tmp_path)[1].reason.startswith("there are kernels for Linux alone")


# --- libraries that are not used --------------------------------------------------------------------------------


@built
@linux
def test_damaged(tmp_path: Path) -> None:
    path, whole = tmp_path / library.LIBRARY.name, library.LIBRARY.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for content in (whole[: len(whole) // 2], whole[:-1], whole + b"\0", bytes(changed), b"", b"a text", whole[:20]):
        path.write_bytes(content)
        assert refused(path) == f"{path.name} is damaged, or not what native/build.py made"


@linux
def test_not_a_library(tmp_path: Path) -> None:
    path = tmp_path / library.LIBRARY.name
    path.write_bytes(sealed(b"#!/bin/sh\n" * 100))
    assert refused(path).startswith(f"{path.name} cannot be loaded (")
    path.unlink()
    path.mkdir()
    assert refused(path) == f"{path.name} cannot be read (Is a directory)"


def stub(folder: Path, source: str) -> Path:
    """A library with the functions of ours, which return what the source says, or nothing."""
    path = folder / library.LIBRARY.name
    names = [name for name in signatures.FUNCTIONS if f"{name}(" not in source]
    rest = "".join(f'extern "C" long {name}() {{ return 0; }}\n' for name in names if "no functions" not in source)
    (folder / "stub.cpp").write_text(source + "\n" + rest)
    command = [str(COMPILER), "-shared", "-fPIC", "-nostdlib", "-o", str(path), str(folder / "stub.cpp")]
    subprocess.run(command, check=True, timeout=60)
    path.write_bytes(sealed(path.read_bytes()))
    return path


VERSION = f'extern "C" int mm_version() {{ return {signatures.VERSION}; }}\n'
SETS = 'extern "C" const char* mm_instruction_sets() { return "generic"; }\n'
PANEL = 'extern "C" long mm_panel() { return 8; }\n'
STATUS = 'extern "C" int mm_pack() { return 2; }\n'


@compiles
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("// no functions", "cannot be loaded ("),
        ('extern "C" int mm_version() { return 99; }', f"has version 99, expected {signatures.VERSION}"),
        (VERSION, "has no kernels for this processor"),
        (VERSION + SETS, "gives wrong numbers in mm_panel"),
        (VERSION + SETS + PANEL + STATUS, "gives wrong numbers in a kernel (a kernel does not know what it was given)"),
        (VERSION + SETS + PANEL, "gives wrong numbers in mm_product"),
    ],
)
def test_foreign_or_wrong(tmp_path: Path, source: str, reason: str) -> None:
    path = stub(tmp_path, source)
    assert refused(path).startswith(f"{path.name} {reason}")


SETTINGS = {
    f"mm_{name}" for name in ("version", "instruction_sets", "choose", "set_threads", "threads", "panel", "peak")
}


class OneNumberOff:
    """A library, of which one kernel's first number is a little more than it should be."""

    def __init__(self, whole: ctypes.CDLL, wrong: str) -> None:
        self.whole, self.wrong = whole, wrong

    def __getattr__(self, name: str) -> object:
        function = getattr(self.whole, name)

        def changed(*arguments: object) -> int:
            status: int = function(*arguments)
            kind = signatures.FUNCTIONS[name][1][-1]  # a result's address, or a call that has it
            call = None if kind is ctypes.c_void_p else ctypes.cast(arguments[-1], kind).contents
            first = next(
                (getattr(call, field) for field in ("out", "y", "scales") if hasattr(call, field)), arguments[-1]
            )
            number = ctypes.c_double if name == "mm_mel" else ctypes.c_float
            number.from_address(first).value += 1
            return status

        return changed if name == self.wrong else function


@built
@linux
@pytest.mark.parametrize("kernel", sorted(signatures.FUNCTIONS.keys() - SETTINGS))
def test_one_wrong_number_of_any_kernel_is_noticed(kernel: str) -> None:
    opened = library.load(library.LIBRARY)
    assert check.wrong_kernel(opened) is None
    expected = "mm_product" if kernel == "mm_pack" else kernel
    assert check.wrong_kernel(OneNumberOff(opened, kernel)) == expected
