"""How fast mlx_mm is beside other engines on this machine, in turns.

    python benchmarks/compare.py vit [--engines torch onnxruntime …] [--turns 5] [--json F] [--png F]

Works: see `works.py`, or --help. Each engine is a process of its own that lives to the end; in each turn each runs
once, in an order that moves on by one, and the first turn warms up. Beside every turn the machine's peaks are measured.
Engines whose packages are not here are named and left out: pip install '.[reference]' onnx onnxruntime openvino nncf
gguf, and for llama.cpp `npm install node-llama-cpp@3.21.1` in the folder that LLAMA_FOLDER names. What is written once
(checkpoints, exported models) is kept in --folder for the next time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import numpy as np
from peers import ENGINES
from reports import draw, insert, named, table
from workers import Case, Taken, Worker, serve
from works import WORKS, Work

HERE = Path(__file__).parent
FOLDER = Path(tempfile.gettempdir()) / "mlx_mm-benchmarks"


def prepare(engine: str, work: Work, folder: Path):
    """A function from the cases of a work to an engine's runs; an engine that is not here has that for its answer."""
    kind, made = ENGINES[engine], []

    def ready(case: Case):
        if not made:
            module = importlib.import_module(f"peers.{kind.file}")
            made.append(module.prepare(work.kind, folder, kind.variant))
        return made[0](case)

    return ready


def write(name: str, folder: Path, engines: list[str]) -> None:
    """What is not there yet of a work's checkpoints, each in a process of its own, so that memory is given back."""
    variants = dict.fromkeys(ENGINES[engine].variant for engine in engines if ENGINES[engine].file == "ours")
    for what in ("source", *filter(None, variants)):
        if not (folder / what / "config.json").exists():
            print(f"writing {folder / what}", file=sys.stderr, flush=True)
            subprocess.run(
                [sys.executable, __file__, name, "--write", what, "--folder", str(folder.parent)], check=True
            )


def measure(
    workers: list[Worker], case: Case, turns: int, settle: float
) -> tuple[dict[str, list[Taken]], list[dict[str, float]], dict[str, np.ndarray]]:
    """What each engine took in each turn, the machine's peaks in each, and the results."""
    taken: dict[str, list[Taken]] = {worker.name: [] for worker in workers}
    peaks, results = [], {}
    peaking = Worker("peaks", [sys.executable, str(HERE / "machine.py")], peaks_file(workers), {})
    for turn in range(turns + 1):
        moved = workers[turn % len(workers) :] + workers[: turn % len(workers)]
        round_ = {}
        for worker in moved:
            time.sleep(settle)  # idle threads of the one before spin for a while
            round_[worker.name] = worker.run(case)
        time.sleep(settle)
        if peaking.run({}) and turn:
            peaks.append(dict(zip(machine.PEAKS, peaking.result().tolist(), strict=True)))
        for worker in workers:
            if turn == 0 and round_[worker.name] and (result := worker.result()) is not None:
                results[worker.name] = result
            if turn and round_[worker.name]:
                taken[worker.name].append(round_[worker.name])
        line = ", ".join(f"{name} {1e3 * one.seconds:.0f}" for name, one in round_.items() if one)
        print(f"{named(case)}, turn {turn} of {turns}: {line} ms", file=sys.stderr, flush=True)
    peaking.stop()
    return {name: each for name, each in taken.items() if each}, peaks, results


def peaks_file(workers: list[Worker]) -> Path:
    """Where the process that measures them puts them."""
    return workers[0].out.with_name("peaks.npy")


def row(work: Work, case: Case, engine: str, taken: dict[str, list[Taken]], peaks, results) -> dict:
    """An engine's numbers in a case. Ratios are of turns, and then their median."""
    units, own = work.units(case), taken[engine]
    seconds = [one.seconds for one in own]
    found = {
        "case": case,
        "engine": engine,
        "milliseconds": spread([1e3 * s / units for s in seconds]),
        "memory_gb": max(one.memory for one in own) / 1e9,
    }
    base = taken.get(work.base)
    if base and len(base) == len(own):
        pairs = list(zip(base, own, strict=True))
        found["ratio"] = spread([a.seconds / b.seconds for a, b in pairs])
        if all(one.processor for pair in pairs for one in pair):
            found["ratio_of_processor_time"] = statistics.median(a.processor / b.processor for a, b in pairs)
    limit, rate = ("read", work.memory(case)) if work.memory(case) else (product_peak(engine), work.operations(case))
    known = [(one, turn[limit]) for one, turn in zip(own, peaks, strict=False) if turn[limit] > 0]
    if rate and known:
        found |= {"limit": limit, "rate": rate / statistics.median(seconds)}
        found["share"] = spread([rate / one.seconds / peak for one, peak in known])
        # What it would be if no other process took time from this one
        found["share_of_processor_time"] = statistics.median(
            rate * machine.cpus() / one.processor / peak for one, peak in known
        )
    if engine in results and work.base in results and engine not in work.unlike and work.base not in work.unlike:
        found["distance"] = distance(results[engine], results[work.base])
    return found


def product_peak(engine: str) -> str:
    """Which peak the products of an engine have for a limit."""
    return "int8" if any(word in engine for word in ("bit", "int8", "Q4")) else "float32"


def distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """1 − cosine of the rows that are farthest apart; None for other shapes."""
    if a.size != b.size:
        return None
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (a, b))
    cosines = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return float(1 - cosines.min())


def spread(values: list[float]) -> list[float]:
    """Median, least, most."""
    return [statistics.median(values), min(values), max(values)]


def compare(
    name: str, folder: Path, engines: list[str] | None, cases: list[Case] | None, turns: int | None, settle: float
) -> dict:
    """Everything that is known of a work afterwards. engines, cases, turns: None for those of the work."""
    work = WORKS[name]
    engines, cases, turns = engines or list(work.engines), cases or list(work.cases), turns or work.turns
    (folder / name).mkdir(parents=True, exist_ok=True)
    write(name, folder / name, engines)
    before, start = os.getloadavg(), time.perf_counter()
    rows, left_out, all_peaks = [], {}, []
    with tempfile.TemporaryDirectory() as temporary:
        workers = []
        for number, engine in enumerate(engines):
            command = [sys.executable, str(HERE / "compare.py"), name, "--serve", engine, "--folder", str(folder)]
            out = Path(temporary) / f"{number}.npy"
            workers.append(Worker(engine, command, out, dict(ENGINES[engine].environment)))
        for case in cases:
            able = [worker for worker in workers if work.takes(worker.name, case) and not worker.why_not]
            taken, peaks, results = measure(able, case, turns, settle) if able else ({}, [], {})
            all_peaks += peaks
            rows += [row(work, case, engine, taken, peaks, results) for engine in taken]
            for worker in able:
                if worker.why_not:
                    left_out[f"{worker.name}, {named(case)}"] = worker.why_not
                    worker.why_not = "" if worker.process.poll() is None else worker.why_not
        for worker in workers:
            worker.stop()
    return {
        "work": name,
        "about": work.about,
        "unit": work.unit,
        "base": work.base,
        "turns": turns,
        "rows": rows,
        "left_out": left_out,
        "peaks": {key: spread([turn[key] for turn in all_peaks]) for key in machine.PEAKS} if all_peaks else {},
        "load": {"before": before, "after": os.getloadavg()},
        "seconds": time.perf_counter() - start,
        **machine.describe(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=WORKS, nargs="+", help="what is timed")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, metavar="NAME", help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--cases", nargs="+", metavar="VALUE", help="only those with such a value, as 8 or decode")
    parser.add_argument("--turns", type=int, help="after the first one (default: 5, of long works fewer)")
    parser.add_argument("--settle", type=float, default=0.2, help="seconds of rest before a run (default: 0.2)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"of checkpoints (default: {FOLDER})")
    parser.add_argument("--document", type=Path, help="put the tables there, between the marks of each work")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--png", type=Path, help="draw the medians there; needs matplotlib")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    name = arguments.work[0]
    if arguments.serve:
        out = Path(os.environ["MLX_MM_BENCHMARK_OUT"])
        serve(prepare(arguments.serve, WORKS[name], arguments.folder / name), out)
    elif arguments.write == "source":
        whole = arguments.folder / name / "source"
        part = whole.with_name("source.part")  # what is there under its own name is complete
        shutil.rmtree(part, ignore_errors=True)
        WORKS[name].write(part)
        part.rename(whole)
    elif arguments.write:
        from peers import ours

        ours.convert(arguments.folder / name, arguments.write, everything=WORKS[name].kind == "patches")
    else:
        found = []
        for name in arguments.work:
            wanted = {*(arguments.cases or ())}
            cases = [case for case in WORKS[name].cases if not wanted or wanted & {*map(str, case.values())}]
            options = (arguments.engines, cases, arguments.turns, arguments.settle)
            found.append(compare(name, arguments.folder, *options))
            print(table(found[-1]), flush=True)
            if arguments.document:
                insert(arguments.document, name, table(found[-1]))
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1))
        if arguments.png:
            draw(found, arguments.png)


if __name__ == "__main__":
    main()
