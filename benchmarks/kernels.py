"""Speed of each CPU kernel beside what the processor can do at most, measured in the same run.

Times are the best of many. Those of one thread are its own time, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mlx_mm.backend.native import calls, library, signatures

PEAKS = {
    "GF/s": ("float32 multiply-adds", signatures.PEAK_FLOATS),
    "Gop/s": ("sums of products of bytes", signatures.PEAK_BYTES),
    "GB/s": ("reading of memory", signatures.PEAK_MEMORY),
}
SECONDS = 0.4  # for each kernel
FEWEST = 5  # runs
SHAPES = ((196, 768, 768), (196, 3072, 768), (196, 768, 3072), (1568, 3072, 768), (1568, 768, 3072))
FEW_ROWS = ((1, 4096, 4096), (4, 4096, 4096))
FLOATS = {"float32": signatures.FLOAT32, "float16": signatures.FLOAT16, "bfloat16": signatures.BFLOAT16}


@dataclass
class Work:
    """One kernel at one shape: `amount` of what `unit` counts, in each run."""

    name: str
    unit: str
    amount: float
    run: Callable[[], object]


def matrix(kind: str, rows: int, cols: int) -> tuple[signatures.Weight, int, tuple[np.ndarray, ...]]:
    """A random weight, the bytes that a product reads of it, and the arrays that it points to."""
    random = np.random.default_rng(0)
    if kind in FLOATS:
        numbers = random.standard_normal((rows, cols), dtype=np.float32)
        array = (numbers.view(np.uint32) >> 16).astype(np.uint16) if kind == "bfloat16" else numbers.astype(kind)
        weight = signatures.Weight(signatures.ROWS, FLOATS[kind], 0, 0, rows, cols, calls.address(array))
        return weight, array.nbytes, (array,)
    bits, group = int(kind.partition(" ")[0]), 64
    codes = random.integers(0, 1 << 32, (rows, cols * bits // 32), dtype=np.uint32)
    scales, biases = (random.standard_normal((rows, cols // group)).astype(np.float16) for _ in range(2))
    weight = signatures.Weight(
        signatures.AFFINE, signatures.FLOAT16, bits, group, rows, cols, *map(calls.address, (codes, scales, biases))
    )
    return weight, codes.nbytes + scales.nbytes + biases.nbytes, (codes, scales, biases)


def packed(kernels: ctypes.CDLL, weight: signatures.Weight) -> tuple[signatures.Weight, np.ndarray]:
    """A weight as panels, and the array that they are in."""
    panel = kernels.mm_panel()
    panels = np.empty((-(-weight.rows // panel), weight.cols, panel), np.float32)
    calls.check(kernels.mm_pack(ctypes.byref(weight), calls.address(panels)))
    address = calls.address(panels)
    return signatures.Weight(signatures.PACKED, signatures.FLOAT32, 0, 0, weight.rows, weight.cols, address), panels


def products(kernels: ctypes.CDLL) -> Iterator[Work]:
    """With weights of many kinds; of few rows, how fast the weight is read."""
    for rows, outputs, width in (*SHAPES, *FEW_ROWS):
        x = np.random.default_rng(1).standard_normal((rows, width), dtype=np.float32)
        for kind in ("packed", *FLOATS, "8 bits", "4 bits", "3 bits"):
            weight, size, keep = matrix("float32" if kind == "packed" else kind, outputs, width)
            if kind == "packed":
                weight, *keep = packed(kernels, weight)

            def run(weight: signatures.Weight = weight, x: np.ndarray = x, keep: object = keep) -> object:
                return calls.product(kernels, weight, x)

            unit, amount = (
                ("GB/s", size) if (rows, outputs, width) in FEW_ROWS else ("GF/s", 2 * rows * outputs * width)
            )
            yield Work(f"product {rows}x{outputs}x{width}, {kind}", unit, amount, run)


def packing(kernels: ctypes.CDLL) -> Iterator[Work]:
    """What is read and what is written."""
    for kind in ("float32", "bfloat16"):
        weight, size, keep = matrix(kind, 3072, 3072)
        _, panels = packed(kernels, weight)

        def run(weight: signatures.Weight = weight, panels: np.ndarray = panels, keep: object = keep) -> object:
            return kernels.mm_pack(ctypes.byref(weight), calls.address(panels))

        yield Work(f"pack 3072x3072, {kind}", "GB/s", size + panels.nbytes, run)


def scans(kernels: ctypes.CDLL) -> Iterator[Work]:
    """How fast rows of bytes are read, by one query and by several."""
    draw = np.random.default_rng(2)
    codes = draw.integers(-127, 128, (200_000, 768), dtype=np.int8)
    for count in (1, 4):
        high, low = draw.integers(-127, 128, (2, count, 768), dtype=np.int8)

        def run(high: np.ndarray = high, low: np.ndarray = low) -> object:
            return calls.scan(kernels, codes, high, low)

        yield Work(f"scan 200000x768, {count} queries", "GB/s", codes.nbytes, run)


KERNELS = {"product": products, "pack": packing, "scan": scans}


def best(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the shortest run."""
    shortest, end, runs = float("inf"), time.monotonic() + SECONDS, 0
    while runs < FEWEST or time.monotonic() < end:
        begin = clock()
        run()
        shortest, runs = min(shortest, clock() - begin), runs + 1
    return shortest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", help="an instruction set; by default the best")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=KERNELS)
    arguments = parser.parse_args()
    kernels = library.load(library.LIBRARY, arguments.set or library.AUTO)
    kernels.mm_set_threads(arguments.threads)
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    name = arguments.set or library.instruction_sets(kernels)[0]
    print(f"{platform.machine()}, {name}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    peaks = {unit: kernels.mm_peak(number) for unit, (_, number) in PEAKS.items()}
    for unit, (what, _) in PEAKS.items():
        print(f"{what:50} {peaks[unit]:8.1f} {unit}")
    for kernel, works in KERNELS.items():
        if arguments.only in (None, kernel):
            for work in works(kernels):
                speed = 1e-9 * work.amount / best(work.run, clock)
                print(f"{work.name:50} {speed:8.1f} {work.unit:6} {speed / peaks[work.unit]:5.0%}", flush=True)


if __name__ == "__main__":
    main()
