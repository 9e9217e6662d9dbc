"""Compile the kernels: python native/build.py --help."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "mlx_mm" / "backend" / "native" / "libmlx_mm_native.so"
COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
# Best first: name -> flags. Those of a machine that are all without flags run on each of its kind.
SETS = {
    "x86_64": {"avx512-vnni": [*AVX512, "-mavx512vnni"], "avx512": AVX512, "avx2": AVX2, "generic": []},
    "aarch64": {"neon-dotprod": ["-march=armv8.2-a+dotprod"], "neon": []},
}
SECONDS = 600


def find_compiler() -> str | None:
    """CXX, or the first compiler on PATH; None where there is none."""
    return os.environ.get("CXX") or next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)


def build(
    output: Path, compiler: str, machine: str | None = None, extra: tuple[str, ...] = (), jobs: int | None = None
) -> None:
    """Compile each instruction set of `machine`, by default this one, and link them into `output`.

    Raises ValueError for a machine without kernels, subprocess.CalledProcessError or OSError where the compiler fails.
    """
    sets = SETS.get(machine or platform.machine())
    if sets is None:
        raise ValueError(
            f"there are kernels for {', '.join(SETS)}, and this machine is {machine or platform.machine()}"
        )
    names = {name: name.replace("-", "_") for name in sets}
    each = " ".join(f'X("{name}",{identifier})' for name, identifier in names.items())
    with tempfile.TemporaryDirectory() as folder:
        objects = [os.path.join(folder, f"{part}.o") for part in ("library", "pool", *names.values())]
        options = [
            [f"-DMM_EACH_SET(X)={each}", "library.cpp"],
            ["pool.cpp"],
            *([*flags, f"-DMM_SET={names[name]}", "kernels.cpp"] for name, flags in sets.items()),
        ]
        commands = [
            [*compiler.split(), *COMMON, *extra, *option, "-c", "-o", target]
            for option, target in zip(options, objects, strict=True)
        ]
        with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        linked = os.path.join(folder, "linked.so")
        _run([*compiler.split(), "-shared", "-pthread", *extra, *objects, "-o", linked])
        shutil.move(linked, output)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    parser.add_argument("--compiler", default=find_compiler())
    parser.add_argument("--machine")
    parser.add_argument("--sanitize", help="address,undefined or thread")
    arguments = parser.parse_args()
    extra = ("-g", f"-fsanitize={arguments.sanitize}", "-fno-omit-frame-pointer") if arguments.sanitize else ()
    if arguments.compiler is None:
        sys.exit("error: no C++ compiler on PATH; install g++ or clang++, or set CXX.")
    try:
        build(arguments.output, arguments.compiler, arguments.machine, extra)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(error.cmd)}\n{error.stderr}")


if __name__ == "__main__":
    main()
