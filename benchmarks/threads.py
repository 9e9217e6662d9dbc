"""Threads of the system and memory over many calls from one thread and from 16, which should stay as they are.

    python benchmarks/threads.py [--calls 10000] [--generate FOLDER] [--audio FOLDER] [--tokens 8]

Texts, pictures and labels go to the bundled emoji-siglip2. FOLDER: a checkpoint that answers, one that hears. A tenth
as many answers as other calls are made. Every result is compared, to the bit, with the first one. Linux only.
"""

import argparse
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import mlx_mm

THREADS = (1, 16)
REPORTS = 5  # of each kind of call


def megabytes() -> int:
    """Resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def make_calls(args: argparse.Namespace) -> dict[str, tuple[Callable[[], object], int]]:
    """Name -> call and how many of it."""
    random = np.random.default_rng(0)
    pictures = [(random.random((64, 64, 3)) * 255).astype(np.uint8) for _ in range(3)]
    sounds = [(random.standard_normal(24000).astype(np.float32), 48000) for _ in range(2)]
    model, processor = mlx_mm.load("emoji-siglip2")
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "encode_text": (lambda: mlx_mm.encode_text(model, processor, ["a cat", "two dogs"]).tobytes(), args.calls),
        "encode_image": (lambda: mlx_mm.encode_image(model, processor, pictures).tobytes(), args.calls),
        "classify": (lambda: mlx_mm.classify(model, processor, pictures[0], ["a cat", "a dog"]), args.calls),
    }
    if args.audio:
        hearing, listener = mlx_mm.load(args.audio)
        calls["encode_audio"] = lambda: mlx_mm.encode_audio(hearing, listener, sounds).tobytes(), args.calls
    if args.generate:
        answering, chat = mlx_mm.load(args.generate)
        answer = lambda: mlx_mm.generate(answering, chat, "hello", max_tokens=args.tokens).raw  # noqa: E731
        calls["generate"] = answer, max(1, args.calls // 10)
    return calls


def run(name: str, call: Callable[[], object], count: int, threads: int) -> None:
    """Make the calls, each in turn by another of so many new threads, and print what there is now and then."""
    right, wrong, lock = call(), 0, threading.Lock()
    start = time.perf_counter()

    def compare(_: int) -> None:
        nonlocal wrong
        if call() != right:
            with lock:
                wrong += 1

    for report in range(1, REPORTS + 1):
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(compare, i) for i in range(max(1, count // REPORTS))]:
                future.result()
        seconds = time.perf_counter() - start
        print(
            f"{name:13} {threads:2} threads {report * max(1, count // REPORTS):6} calls {seconds:7.1f} s "
            f"{len(os.listdir('/proc/self/task')):4} OS threads {megabytes():6} MB {wrong} wrong",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10000)
    parser.add_argument("--generate", type=Path)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--tokens", type=int, default=8)
    args = parser.parse_args()
    for threads in THREADS:
        for name, (call, count) in make_calls(args).items():
            run(name, call, count, threads)


if __name__ == "__main__":
    main()
