"""Build and run the C++ tests of the kernels: python native/tests/run.py [--few] [plain address thread aarch64].

plain: as they are, and that no two instruction sets share a function. address: under AddressSanitizer and
UndefinedBehaviorSanitizer. thread: under ThreadSanitizer, with several callers. aarch64: by Debian's
g++-aarch64-linux-gnu, under qemu-user, on a processor with dot products and on one without. By default all for which
there are the tools; --few tests fewer shapes.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import build  # noqa: E402

TESTS = ("kernels_test", "product_test", "attention_test", "rows_test", "grids_test")
SANITIZED = ("-O1", "-g", "-fno-omit-frame-pointer")
UNDEFINED = (  # what is left out takes most of the time to compile, and the memory around the arrays would tell, too
    "-fsanitize=address,undefined",
    "-fno-sanitize=null,object-size,pointer-overflow,vptr",
    "-fno-sanitize-recover=all",
)
ARM = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu")


@dataclass(frozen=True)
class Variant:
    """How the tests are built and run. arguments: of the kernels' test. only: of these sets."""

    flags: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    compiler: str | None = None
    machine: str | None = None
    only: tuple[str, ...] = ()
    emulators: tuple[tuple[str, ...], ...] = ((),)


VARIANTS = {
    "plain": Variant(),
    "address": Variant((*SANITIZED, *UNDEFINED)),
    "thread": Variant((*SANITIZED, "-fsanitize=thread"), ("callers",), only=("avx2", "neon")),
    "aarch64": Variant(
        ("-O1",),
        compiler="aarch64-linux-gnu-g++",
        machine="aarch64",
        emulators=((*ARM, "max"), (*ARM, "cortex-a57")),
    ),
}


def test(variant: Variant, folder: Path, few: bool) -> None:
    """Raises BuildError or CalledProcessError where something is wrong."""
    compiler = variant.compiler or build.find_compiler() or "g++"
    objects = build.compile_objects(folder, compiler, variant.machine, variant.flags, only=variant.only)
    if not variant.flags:
        check_names(objects)
    command = [*shlex.split(compiler), "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", *variant.flags]
    tests = {name: folder / f"{name}.o" for name in (*TESTS, "pool_test")}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(build.run, ([*command, "-c", f"tests/{n}.cpp", "-o", str(o)] for n, o in tests.items())))
    pool_test = tests.pop("pool_test")
    build.run([*command, *map(str, [*tests.values(), *objects]), "-o", str(folder / "kernels_test")])
    build.run([*command, str(pool_test), str(folder / "pool.o"), "-o", str(folder / "pool_test")])
    for emulator in variant.emulators:
        if not variant.machine:
            start([*emulator, str(folder / "pool_test")])
        start([*emulator, str(folder / "kernels_test"), *(["few"] if few else []), *variant.arguments])


def start(command: list[str]) -> None:
    print("+", shlex.join(command), flush=True)
    subprocess.run(command, check=True)


def check_names(objects: list[Path]) -> None:
    """A function that two sets share would be linked once, for the processor of either."""
    if not shutil.which("nm"):
        return
    for path in objects:
        if path.stem in ("library", "pool"):
            continue
        lines = [line.split() for line in build.run(["nm", "--defined-only", "--extern-only", str(path)]).splitlines()]
        names = [line[-1] for line in lines if line]
        expected = f"_ZN2mm{len(path.stem) + 8}kernels_{path.stem}E"
        if names != [expected]:
            raise build.BuildError(f"{path.name} has the names {', '.join(names)}; expected {expected} alone")


def possible(name: str) -> bool:
    compiler = VARIANTS[name].compiler or build.find_compiler()
    tools = [shlex.split(compiler)[0] if compiler else "", *(e[0] for e in VARIANTS[name].emulators if e)]
    return all(map(shutil.which, tools))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help=" ".join(VARIANTS))
    parser.add_argument("--few", action="store_true", help="fewer shapes")
    arguments = parser.parse_args()
    if unknown := set(arguments.variants) - VARIANTS.keys():
        parser.error(f"unknown: {', '.join(unknown)}; expected some of {', '.join(VARIANTS)}")
    for name in arguments.variants or filter(possible, VARIANTS):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                test(VARIANTS[name], Path(folder), arguments.few)
            except build.BuildError as error:
                sys.exit(f"error: {error}\n{error.output}")
            except subprocess.CalledProcessError as error:
                sys.exit(f"error: {name}: status {error.returncode}")
        print(f"{name}: passed in {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
