"""Compile the kernels: python native/build.py --help.

`install` does it for the package, and says why where it cannot. The last 32 bytes of a library are the SHA-256 of the
others: a damaged one can end the process that loads it, so they are compared before.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "mlx_mm" / "backend" / "native"
LIBRARY, REASON = "libmlx_mm_native.so", "reason.txt"
COMPILERS = ("g++", "clang++", "c++")
COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
NO_EXCEPTIONS = ["-fno-exceptions"]  # kernels throw none, and their handling is a name that sets would share
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
# Best first: name -> flags. Those of a machine that are all without flags run on each of its kind.
SETS = {
    "x86_64": {"avx512-vnni": [*AVX512, "-mavx512vnni"], "avx512": AVX512, "avx2": AVX2, "generic": []},
    "aarch64": {"neon-dotprod": ["-march=armv8.2-a+dotprod"], "neon": []},
}
SECONDS = 600
LONGEST = 200  # characters of a reason


class BuildError(Exception):
    """Why there is no library, in one line; `output` is what the compiler said."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


def find_compiler() -> str | None:
    """CXX, or the first compiler on PATH; None where there is none."""
    return os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)


def install(folder: Path) -> str | None:
    """Compile this machine's library into a folder. Where that cannot be, a file says why, which is returned."""
    library, why = folder / LIBRARY, folder / REASON
    try:
        _check_machine()
        build(library)
    except BuildError as error:
        library.unlink(missing_ok=True)  # of an earlier installation
        why.write_text(f"{error}\n", "utf-8")
        return str(error)
    why.unlink(missing_ok=True)
    return None


def _check_machine() -> None:
    if os.environ.get("MLX_MM_NO_NATIVE", "0") not in ("", "0"):
        raise BuildError("MLX_MM_NO_NATIVE was set when mlx_mm was installed")
    if sys.platform != "linux":
        raise BuildError(f"mlx_mm was installed on {sys.platform}, and there are kernels for Linux alone")
    if sys.maxsize < 2**32:
        raise BuildError("this Python has 32 bits, and the kernels take 64")


def build(
    output: Path, compiler: str | None = None, machine: str | None = None, extra: Sequence[str] = (), jobs: int = 0
) -> None:
    """Compile each instruction set of `machine`, by default this one, and link them into `output`.

    Raises BuildError for a machine without kernels, and where there is no compiler or it fails.
    """
    compiler = compiler or find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler was found; install g++ or clang++, and then mlx_mm again")
    with tempfile.TemporaryDirectory() as folder:
        objects = compile_objects(Path(folder), compiler, machine, extra, jobs)
        linked = os.path.join(folder, LIBRARY)
        run([*shlex.split(compiler), "-shared", "-pthread", *extra, *map(str, objects), "-o", linked])
        code = Path(linked).read_bytes()
    # Beside it, then in its place: a process may have the old one mapped.
    beside = output.with_name(f"{output.name}.{os.getpid()}")
    try:
        beside.write_bytes(code + hashlib.sha256(code).digest())
        beside.chmod(0o755)
        beside.replace(output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise BuildError(f"the library cannot be written ({error})") from None


def compile_objects(
    folder: Path,
    compiler: str,
    machine: str | None = None,
    extra: Sequence[str] = (),
    jobs: int = 0,
    only: Sequence[str] = (),
) -> list[Path]:
    """The object files, in `folder`: library.o, pool.o, and one for each instruction set. only: some of the sets."""
    machine = machine or platform.machine()
    if machine not in SETS:
        raise BuildError(f"there are kernels for {' and '.join(SETS)}, and this is {machine}")
    sets = {name: flags for name, flags in SETS[machine].items() if not only or name in only}
    names = {name: name.replace("-", "_") for name in sets}
    each = " ".join(f'X("{name}",{identifier})' for name, identifier in names.items())
    parts = {
        **{
            names[name]: [*flags, *NO_EXCEPTIONS, f"-DMM_SET={names[name]}", "kernels.cpp"]
            for name, flags in sets.items()
        },  # longest
        "library": [f"-DMM_EACH_SET(X)={each}", "library.cpp"],
        "pool": ["pool.cpp"],
    }
    start = [*shlex.split(compiler), *COMMON, *extra, "-c"]
    commands = [[*start, *options, "-o", str(folder / f"{name}.o")] for name, options in parts.items()]
    with ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
        list(pool.map(run, commands))
    return [folder / f"{name}.o" for name in parts]


def run(command: Sequence[str], seconds: float = SECONDS) -> str:
    """What a command prints, run in the folder of the sources. Raises BuildError."""
    try:
        done = subprocess.run(
            command, cwd=HERE, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not be run ({error})"[:LONGEST]) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [f"status {done.returncode}"]
        raise BuildError(f"{command[0]} failed: {lines[0].strip()}"[:LONGEST], f"{shlex.join(command)}\n{done.stderr}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=PACKAGE / LIBRARY)
    parser.add_argument("--compiler", help="default: CXX, or the first of " + ", ".join(COMPILERS))
    parser.add_argument("--machine", choices=SETS, help="default: this one; another needs its compiler")
    parser.add_argument("--sanitize", help="address,undefined or thread")
    arguments = parser.parse_args()
    extra = ("-g", f"-fsanitize={arguments.sanitize}", "-fno-omit-frame-pointer") if arguments.sanitize else ()
    try:
        build(arguments.output, arguments.compiler, arguments.machine, extra)
    except BuildError as error:
        sys.exit(f"error: {error}\n{error.output}")


if __name__ == "__main__":
    main()
