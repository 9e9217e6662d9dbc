"""Kills at random moments of `mlx_mm index --merge`: is the index as before, or whole?

    python benchmarks/merge_kills.py [--kills 10] [--rows 10000] [--seed 0] [--folder FOLDER]

Two parts of so many rows each, with random vectors, are merged by the command, half of the times into an index that is
new and half into one that is there and has two thirds of the first. Each process gets SIGKILL at a random moment of the
time that it takes undisturbed. After each the index must hold, row by row, what it held before or what the undisturbed
one does, a check must find nothing, and the same merge, repeated, must make the undisturbed one. Kills that come too
late do not count. Exit status 1 where anything is wrong. Needs the repository's tests.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlx_mm import Index

sys.path += [str(Path(__file__).parents[1] / "tests" / "search"), str(Path(__file__).parents[1] / "tests")]


def make(path: Path, rows: int, folder: str) -> Path:
    """An index of so many files that are not there, with random vectors, the same for the same names."""
    from indexed import Item, random_vectors, write_index

    vectors = random_vectors(rows, seed=len(folder))
    write_index(path, "/photos", [Item((f"{folder}/{n:06}.jpg",), vectors[n], size=n + 1) for n in range(rows)])
    return path


def merging(index: Path, parts: list[Path]) -> subprocess.Popen:
    words = ["index", "--index", str(index), "--merge", *map(str, parts)]
    return subprocess.Popen([sys.executable, "-m", "mlx_mm", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        wrong = killed(Path(place), options)
    for line in wrong:
        print(f"wrong: {line}")
    sys.exit(bool(wrong))


def killed(folder: Path, options: argparse.Namespace) -> list[str]:
    from merged import held

    draw, rows, wrong = random.Random(options.seed), options.rows, list[str]()
    parts = [make(folder / f"{name}.mmindex", rows, name) for name in ("part", "another")]
    old, index = make(folder / "old.mmindex", rows * 2 // 3, "part"), folder / "all.mmindex"
    for there in (False, True):
        prepare(index, old if there else None)
        before = held(index) if there else None
        begun = time.monotonic()
        assert merging(index, parts).wait() == 0
        seconds, whole = time.monotonic() - begun, held(index)
        print(f"{'an index that is there' if there else 'a new one'}: undisturbed {seconds:.1f} s", flush=True)
        landed = 0
        while landed < (options.kills + there) // 2:
            beside = prepare(index, old if there else None)
            process = merging(index, parts)
            moment = draw.uniform(0.4, 1) * seconds
            time.sleep(moment)
            process.kill()
            if process.wait() != -signal.SIGKILL:
                seconds *= 0.9  # other work on the machine comes and goes
                continue
            landed += 1
            found = held(index) if index.exists() else None
            state = "as before" if found == before else "whole" if found == whole else "neither"
            problems = look(index)
            if state == "neither" or problems:
                wrong.append(f"killed after {moment:.2f} s: the index is {state}; {problems}")
            again = merging(index, parts)
            if again.wait() or held(index) != whole or look(index):
                wrong.append(f"killed after {moment:.2f} s: the repeated merge made another index; {look(index)}")
            left = sorted({path.name for path in folder.iterdir()} - beside - {index.name})
            print(f"  killed after {moment:.2f} s: {state}; left beside it at the end: {left or 'nothing'}", flush=True)
    return wrong


def prepare(index: Path, old: Path | None) -> set[str]:
    """The index as it is before each merge; the names of what lies beside it."""
    shutil.rmtree(index, ignore_errors=True)
    if old is not None:
        shutil.copytree(old, index)
    return set(os.listdir(index.parent))


def look(index: Path) -> tuple[str, ...]:
    """What a check finds."""
    if not index.exists():
        return ()
    with Index(index) as opened:
        return opened.check().problems


if __name__ == "__main__":
    main()
