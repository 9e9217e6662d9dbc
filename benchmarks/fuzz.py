"""Hostile and damaged inputs of every kind: how many end in a clear error or in a result, and how many in neither.

    python benchmarks/fuzz.py [--count 10000] [--seed 0] [--jobs 2] [--kinds picture,url] [--json OUT] [--report OUT.md]
    python benchmarks/fuzz.py --kind picture --index 12     # repeats one input and shows what became of it

Which input has which number depends on the seed alone. Linux, for its /proc. The exit status is 1 where one fails.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzz.kinds import KINDS, PATIENCE, SHARES
from fuzz.outcome import FAULTS, GOOD, Outcome
from fuzz.place import Place, Seeds, remove
from fuzz.workers import HANG_SECONDS, Job, limit_process, prepare, run_many, run_one

VERSIONS = ("mlx", "numpy", "pillow", "soundfile", "tokenizers", "safetensors", "jinja2", "sentencepiece")
Results = Sequence[tuple[Job, Outcome]]


def jobs(count: int, kinds: Sequence[str], limit: float) -> Iterator[Job]:
    """So many inputs, kinds mixed, each kind's in their order."""
    weights = {kind: SHARES.get(kind, 1.0) for kind in kinds}
    shares = {kind: round(count * weight / sum(weights.values())) for kind, weight in weights.items()}
    order = sorted((index / share, kind, index) for kind, share in shares.items() for index in range(share))
    for _, kind, index in order:
        yield Job(kind, index, limit + PATIENCE.get(kind, 0.0))


def table(results: Results) -> list[str]:
    """How many of each kind ended how, in Markdown."""
    counts = collections.Counter((job.kind, outcome.what) for job, outcome in results)
    kinds = [kind for kind in KINDS if any((kind, what) in counts for what in (*GOOD, *FAULTS))]
    lines = [f"| kind | inputs | {' | '.join((*GOOD, *FAULTS))} |", f"|---|{'---:|' * (1 + len(GOOD) + len(FAULTS))}"]
    for kind in [*kinds, "all"]:
        row = [sum(counts[one, what] for one in ([kind] if kind != "all" else kinds)) for what in (*GOOD, *FAULTS)]
        lines.append(f"| {kind} | {sum(row):,} | {' | '.join(f'{number:,}' for number in row)} |")
    return lines


def faults(results: Results) -> list[tuple[int, str, str, str, list[str]]]:
    """How often, class, exception and place of every fault, and the inputs that show it."""
    found: dict[tuple[str, str, str], list[tuple[Job, str]]] = collections.defaultdict(list)
    for job, outcome in results:
        if outcome.what in FAULTS:
            name = outcome.error.split(":")[0] if outcome.frame.startswith("mlx_mm") else job.kind
            found[outcome.what, name, outcome.frame].append((job, outcome.error))
    rows = []
    for (what, _, frame), shown in found.items():
        places = [f"--kind '{job.kind}' --index {job.index}" for job, _ in shown[:4]]
        rows.append((len(shown), what, shown[0][1][:160], frame, places))
    return sorted(rows, key=lambda row: (row[1], row[3]))


def report(results: Results, seed: int, seconds: float) -> str:
    """What is printed, and what docs/fuzz.md holds."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in VERSIONS)
    memory = max(outcome.megabytes for _, outcome in results)
    longest = sorted(outcome.seconds for _, outcome in results)
    lines = [
        "# Hostile and damaged inputs",
        "",
        f"{len(results):,} inputs of {len({job.kind for job, _ in results})} kinds, made from seed {seed} out of files "
        "without fault, and what became of each. A clear error is one of the package's own; what was accepted was also "
        "used, and its numbers were finite. An input hangs after 20 s (where it waits for a server, or starts another "
        "process, later), and counts as over 1 GB where it takes so much more than the process had. Left behind: a "
        "half-made file; reached out: something written, run or called beyond the input's folder.",
        "",
        "Made by `python benchmarks/fuzz.py --report docs/fuzz.md`; the inputs themselves are described in "
        "`tests/fuzz/kinds/`.",
        "",
        *table(results),
        "",
        f"{seconds / 60:.1f} minutes; the longest input took {longest[-1]:.1f} s, half of them less than "
        f"{longest[len(longest) // 2] * 1000:.0f} ms; the largest grew by {memory} MB.",
        f"{platform.machine()}, Python {platform.python_version()}, {versions}.",
    ]
    found = faults(results)
    if found:
        lines += ["", "## Faults", ""]
        lines += [
            f"- {count} × {what}: {error} [{frame}] {'; '.join(shown)}" for count, what, error, frame, shown in found
        ]
    return "\n".join(lines) + "\n"


def repeat(kind: str, index: int, seed: int) -> int:
    """One input, in this process."""
    limit_process()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        outcome = run_one(kind, index, seed=seed, place=Place(Seeds(folder / "seeds"), folder / "root"))
    finally:
        remove(folder)
    print(outcome.trace, end="")
    print(f"{outcome.what}: {outcome.error} [{outcome.frame}] {outcome.seconds:.1f} s, {outcome.megabytes} MB")
    return int(outcome.what in FAULTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--limit", type=float, default=HANG_SECONDS, help="seconds of an input; more if others compute")
    parser.add_argument("--kinds", help=f"some of: {', '.join(KINDS)}")
    parser.add_argument("--json", type=Path, help="file for every outcome")
    parser.add_argument("--report", type=Path, help="file for the table")
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--index", type=int)
    args = parser.parse_args()
    if args.kind is not None and args.index is not None:
        return repeat(args.kind, args.index, args.seed)
    kinds = args.kinds.split(",") if args.kinds else [args.kind] if args.kind else list(KINDS)
    folder, start, results = Path(tempfile.mkdtemp(prefix="fuzz-")), time.monotonic(), []
    try:
        for job, outcome in run_many(
            jobs(args.count, kinds, args.limit), folder, functools.partial(prepare, folder, args.seed), args.jobs
        ):
            results.append((job, outcome))
            if outcome.what in FAULTS or len(results) % 500 == 0:
                mark = f"{outcome.what}: {outcome.error[:150]} [{outcome.frame}]" if outcome.what in FAULTS else ""
                print(f"{len(results):6} {time.monotonic() - start:6.0f} s  {job.kind} {job.index} {mark}", flush=True)
    finally:
        remove(folder)
    text = report(results, args.seed, time.monotonic() - start)
    print(text)
    if args.report:
        args.report.write_text(text, "utf-8")
    if args.json:
        rows = [{**dataclasses.asdict(job), **dataclasses.asdict(outcome)} for job, outcome in results]
        args.json.write_text(json.dumps(rows, indent=1), "utf-8")
    return int(any(outcome.what in FAULTS for _, outcome in results))


if __name__ == "__main__":
    sys.exit(main())
