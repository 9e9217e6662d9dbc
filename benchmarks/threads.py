"""Threads of the system, memory and exit status over many calls from one thread and from 16.

    python benchmarks/threads.py [--calls 10000] [--exits 100] [--results FILE]

Calls texts, pictures, sounds and labels so often, and asks for a tenth as many answers, of tiny random models: first
from one thread, then from 16 new ones at a time. Every result is compared, to the bit, with the first one. Then
processes are started whose threads call until just before the end, or beyond it, and their exit status is counted.
FILE gets a line of JSON for each measurement, and is gone on with where it has some; docs/threads.png and
docs/threads.md are made from it. Linux only.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from recipes import RECIPES  # noqa: E402

import mlx_mm  # noqa: E402

THREADS = (1, 16)
REPORTS = 20  # of each kind of call
ANSWERS = 10  # one for so many calls of another kind
TOKENS = 4
LATE = 4  # one process that ends while threads call, for so many that end after them

ENDS = {
    "threads that have just ended": """
threads = [threading.Thread(target=use, args=(i,)) for i in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""",
    "daemon threads that still call": """
def on(number):
    while True:
        use(number)
[threading.Thread(target=on, args=(i,), daemon=True).start() for i in range(16)]
time.sleep(1 + random.random())
""",
    "threads that outlive the main one": """
[threading.Thread(target=use, args=(i,)).start() for i in range(16)]
""",
}
MEMORY = """\
Memory rises once where more threads prepare inputs at the same time, by the work arrays of each, and stays there:
`backend/memory.py` lets glibc keep what is freed for the next call. Two sounds of 11 s at 44.1 kHz:
91 MB after 20 calls from one thread, 226 MB after 64, 96 and 128 calls from 16, of them 37 MB in use (`mallinfo2`), and
`malloc_trim` gave back 97 MB. `MALLOC_TRIM_THRESHOLD_` in the environment sets another limit."""
BEFORE_END = """
import random, sys, threading, time, warnings
warnings.simplefilter("ignore")
sys.path[:0] = [{root!r}, {benchmarks!r}]
import threads as benchmark
calls = list(benchmark.make_calls(benchmark.Path({folder!r})).values())

def use(number):
    benchmark.mlx_mm.load(benchmark.Path({folder!r}) / "siglip2", lazy=True)
    calls[number % len(calls)]()
    calls[(number + 1) % len(calls)]()
"""


def megabytes() -> int:
    """Resident memory of this process, but for pages of files, which the system drops and reads again as it likes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024


def os_threads() -> int:
    """Those of this process, once the system has dropped what has ended: the fewest in 0.2 s."""
    counts = []
    for _ in range(20):
        counts.append(len(os.listdir("/proc/self/task")))
        time.sleep(0.01)
    return min(counts)


def write_models(folder: Path) -> None:
    for name in ("siglip2", "clap", "glm4v"):
        RECIPES[name].write(folder / name)


def make_calls(folder: Path) -> dict[str, Callable[[], object]]:
    random = np.random.default_rng(0)
    pictures = [(random.random((64, 64, 3)) * 255).astype(np.uint8) for _ in range(2)]
    sound = random.standard_normal(24000).astype(np.float32), 48000
    seeing, hearing, answering = (mlx_mm.load(folder / name) for name in ("siglip2", "clap", "glm4v"))
    sampling = {"temperature": 1.0, "top_k": 20, "seed": 3}
    return {
        "encode_text": lambda: mlx_mm.encode_text(*seeing, ["a cat", "two dogs"]).tobytes(),
        "encode_image": lambda: mlx_mm.encode_image(*seeing, pictures).tobytes(),
        "encode_audio": lambda: mlx_mm.encode_audio(*hearing, [sound]).tobytes(),
        "classify": lambda: mlx_mm.classify(*seeing, pictures, ["a cat", "a dog"]),
        "generate": lambda: mlx_mm.generate(*answering, "hello", max_tokens=TOKENS, **sampling).raw,
    }


def measure_calls(calls: dict[str, Callable[[], object]], most: int, done: set[tuple[int, str]]) -> Iterator[dict]:
    """A measurement after each twentieth of the calls of a kind, but for (threads, kind) that are done."""
    right = {name: call() for name, call in calls.items()}
    for threads, (name, call) in itertools.product(THREADS, calls.items()):
        if (threads, name) in done:
            continue
        count = max(threads, most // (ANSWERS if name == "generate" else 1))
        steps = [count * step // REPORTS for step in range(REPORTS + 1)]
        for before, after in itertools.pairwise(steps):
            start = time.perf_counter()
            wrong = compare(call, right[name], after - before, threads)
            yield {
                "threads": threads,
                "call": name,
                "calls": after,
                "last": after == count,
                "seconds": round(time.perf_counter() - start, 1),
                "os_threads": os_threads(),
                "megabytes": megabytes(),
                "wrong": wrong,
            }


def compare(call: Callable[[], object], right: object, count: int, threads: int) -> int:
    """How many of the calls, made by so many new threads, give something else."""
    wrong, lock = 0, threading.Lock()

    def run(_: int) -> None:
        nonlocal wrong
        if call() != right:
            with lock:
                wrong += 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(count)))
    return wrong


def measure_exits(folder: Path, most: int, done: dict[str, int]) -> Iterator[dict]:
    """The exit status of processes, of which so many of a kind are done."""
    paths = {"root": str(ROOT), "benchmarks": str(Path(__file__).parent), "folder": str(folder)}
    before = BEFORE_END.format(**paths)
    for kind, end in ENDS.items():
        count = most if end is ENDS["threads that have just ended"] else most // LATE
        for _ in range(done.get(kind, 0), count):
            ran = subprocess.run([sys.executable, "-c", before + end], capture_output=True, text=True, check=False)
            yield {"exit": kind, "status": ran.returncode, "stderr": ran.stderr[-300:]}


def draw(rows: list[dict], path: Path) -> None:
    """Memory and threads of the system over all calls, the kinds beside each other."""
    blocks = [list(block) for _, block in itertools.groupby(rows, lambda row: (row["threads"], row["call"]))]
    width, height, left, right, top, panel, gap = 1400, 860, 90, 30, 96, 270, 110
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    small, large = (ImageFont.load_default(size) for size in (17, 24))
    span = (width - left - right) / len(blocks)
    pen.text((left, 18), "Threads of the system and memory over many calls", "#222222", font=large)
    total = sum(block[-1]["calls"] for block in blocks)
    legend = f"{total:,} calls of tiny models in one process; a point after each twentieth of a kind"
    pen.text((left, 54), legend, "#555555", font=small)
    curves = {"megabytes": ("resident memory, MB", "#1f6fb4"), "os_threads": ("threads of the system", "#c2571a")}
    for number, (key, (title, colour)) in enumerate(curves.items()):
        above = top + number * (panel + gap)
        below = above + panel
        most = max(row[key] for row in rows) * 1.25
        step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if most / step <= 6)
        for tick in range(0, int(most) + 1, step):
            y = below - panel * tick / most
            pen.line([(left, y), (width - right, y)], "#e4e4e4")
            pen.text((left - 10, y), f"{tick}", "#444444", font=small, anchor="rm")
        points = []
        for place, block in enumerate(blocks):
            x = left + place * span
            pen.line(
                [(x, above), (x, below)],
                "#222222" if place and block[0]["threads"] != blocks[place - 1][0]["threads"] else "#d0d0d0",
            )
            calls, name = block[-1]["calls"], block[0]["call"]
            pen.text((x + span / 2, below + 8), name, "#222222", font=small, anchor="ma")
            pen.text((x + span / 2, below + 29), f"{calls:,} calls", "#555555", font=small, anchor="ma")
            points += [(x + span * row["calls"] / calls, below - panel * row[key] / most) for row in block]
        pen.line(points, colour, width=3)
        for x, y in points:
            pen.ellipse([x - 3, y - 3, x + 3, y + 3], colour)
        pen.line([(left, below), (width - right, below)], "#222222")
        pen.line([(left, above), (left, below)], "#222222")
        pen.line([(left + 10, above + 12), (left + 40, above + 12)], colour, width=3)
        pen.text((left + 48, above + 12), title, colour, font=small, anchor="lm")
        for threads in sorted({block[0]["threads"] for block in blocks}):
            places = [place for place, block in enumerate(blocks) if block[0]["threads"] == threads]
            x = left + span * (places[0] + places[-1] + 1) / 2
            words = "from one thread" if threads == 1 else f"from {threads} threads"
            pen.text((x, below + 54), words, "#222222", font=small, anchor="ma")
    image.quantize(64).save(path, optimize=True)


def tell(rows: list[dict], exits: list[dict]) -> str:
    """docs/threads.md."""
    lines = [
        "# Threads",
        "",
        "Made by `python benchmarks/threads.py`. Many calls of tiny models in one process, first from one thread, then",
        "from 16 new threads at a time; every result is compared to the bit with the one of the first call.",
        "",
        "![Threads of the system and memory over the calls](threads.png)",
        "",
        "| from | call | calls | threads of the system | memory, MB | results that differ |",
        "|---|---|---|---|---|---|",
    ]
    for (threads, name), group in itertools.groupby(rows, lambda row: (row["threads"], row["call"])):
        block = list(group)
        columns = (_range(block, "os_threads"), _range(block, "megabytes"), sum(row["wrong"] for row in block))
        cells = " | ".join(map(str, columns))
        lines.append(f"| {threads} thread{'s' * (threads > 1)} | `{name}` | {block[-1]['calls']:,} | {cells} |")
    lines += ["", "First → last measurement, and the highest between them where it is higher.", "", MEMORY, ""]
    lines += ["| a process that ends with | exit status 0 |", "|---|---|"]
    for kind in ENDS:
        statuses = [row["status"] for row in exits if row["exit"] == kind]
        if statuses:
            lines.append(f"| {kind} | {statuses.count(0)} of {len(statuses)} |")
    return "\n".join(lines) + "\n"


def _range(block: list[dict], key: str) -> str:
    first, last, most = block[0][key], block[-1][key], max(row[key] for row in block)
    return f"{first} → {last}" + (f" ({most})" if most > max(first, last) else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10000)
    parser.add_argument("--exits", type=int, default=100)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        results = args.results or Path(folder) / "results.jsonl"
        found = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
        done = {(row["threads"], row["call"]) for row in found if row.get("last")}
        found = [row for row in found if "exit" in row or (row["threads"], row["call"]) in done]
        exits = [row["exit"] for row in found if "exit" in row]
        new = itertools.chain(
            measure_calls(make_calls(Path(folder)), args.calls, done) if args.calls else (),
            measure_exits(Path(folder), args.exits, {kind: exits.count(kind) for kind in ENDS}),
        )
        with results.open("w") as file:
            for row in itertools.chain(found, new):
                print(json.dumps(row), file=file, flush=True)
                print(json.dumps(row), flush=True)
        rows = [json.loads(line) for line in results.read_text().splitlines()]
    calls = [row for row in rows if "call" in row]
    if calls:
        draw(calls, args.docs / "threads.png")
    (args.docs / "threads.md").write_text(tell(calls, [row for row in rows if "exit" in row]), "utf-8")


if __name__ == "__main__":
    main()
