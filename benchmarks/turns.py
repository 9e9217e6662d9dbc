"""Two sides of a benchmark, each in a process of its own so that their thread pools do not meet, taking turns.

Taking turns, the other load of the machine falls on both. A benchmark calls `serve` in the process that `Worker`
starts, and `compare` in its own.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

VARIABLES = (
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
    *("MLX_MM_BLAS", "GLIBC_TUNABLES"),
)


def cpus() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


def describe_machine() -> None:
    """Everything that changes the result."""
    names = ("mlx", "torch", "transformers", "scipy-openblas32")
    print("Versions:", ", ".join(f"{name} {metadata.version(name)}" for name in names))
    print(f"Machine: {platform.machine()}, {cpus()} CPUs, load {os.getloadavg()[0]:.1f}")
    print("Environment:", ", ".join(f"{name}={os.environ.get(name, 'not set')}" for name in VARIABLES), end="\n\n")


def serve(make: Callable[[str, int], Callable[[], np.ndarray]], out: Path) -> None:
    """A worker: read a kind and a size per line, answer with the seconds of make(kind, size)(): wall, processor."""
    print("ready", flush=True)
    for line in sys.stdin:
        kind, size = line.split()
        run = make(kind, int(size))
        start = time.perf_counter(), time.process_time()
        result = run()
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
        np.save(out, result)
        print(*taken, flush=True)


class Worker:
    """The other end of `serve`. command: the arguments of the Python process; out: where it saves its results."""

    def __init__(self, command: Sequence[str], out: Path) -> None:
        environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.out = out
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit("a worker did not start")

    def seconds(self, kind: str, size: int) -> tuple[float, float]:
        print(kind, size, file=self.process.stdin, flush=True)
        wall, processor = self.process.stdout.readline().split()
        return float(wall), float(processor)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(ours: Worker, theirs: Worker, kind: str, sizes: Sequence[int], runs: int, settle: float) -> None:
    """Print a table: how many per second, the ratio, and how far the results lie apart."""
    print(f"| {kind}s, batch | mlx_mm {kind}s/s | torch {kind}s/s | ratio (range) | ratio of CPU time | difference |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in sizes:
        rounds = []
        for _ in range(runs + 1):
            taken = []
            for worker in (ours, theirs):
                time.sleep(settle)  # idle threads of the other side spin for a while
                taken.append(worker.seconds(kind, size))
            rounds.append(taken)
        rounds = rounds[1:]  # the first one warms up
        speeds = [size / statistics.median(pair[side][0] for pair in rounds) for side in (0, 1)]
        ratios = sorted(b[0] / a[0] for a, b in rounds)
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})"
        processor = statistics.median(b[1] / a[1] for a, b in rounds)
        difference = np.abs(np.load(ours.out) - np.load(theirs.out)).max()
        print(
            f"| {size} | {speeds[0]:.2f} | {speeds[1]:.2f} | {spread} | {processor:.2f} | {difference:.1e} |",
            flush=True,
        )
    print()
