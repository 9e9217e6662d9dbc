"""Kills at random moments of a refresh, beside a reader and a second writer; and a disk that is full: what is left?

    python benchmarks/index_kills.py [--kills 100] [--files 300] [--seed 0] [--folder FOLDER] [--full SMALL_DISK]

Each refresh is a process that indexes small pictures with the bundled model and gets SIGKILL at a random moment of the
time that it takes undisturbed, or seems to. After each, the index is checked; every vector that was there before must
be there, and every one must be, byte for byte, that of the undisturbed run. An index that is complete is followed by a
new one, and kills that come too late do not count.
Meanwhile one process reads (the nearest of random queries, whose vectors must be right, and the counts of one view) and
one counts in the same index as its writer, whenever it can be. --full: a small file system, by default a bound on the
size of files, under which a refresh must fail in one line and leave what it committed. Exit status 1 where anything is
wrong. Linux and macOS.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import mlx_mm
from mlx_mm.errors import BusyError, MlxMmError, StoreError
from mlx_mm.search.codes import open_codes
from mlx_mm.search.inspection import check
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import find_vectors

FULL_BYTES = 200_000  # of a file, where there is no small disk
PAUSE = 0.002  # seconds between what the second writer does


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--full", type=Path, help="an empty folder on a small file system")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        draw_pictures(folder / "photos", options.files)
        whole = folder / "whole.mmindex"
        began = time.monotonic()
        wait_for(start(lambda: refresh(whole, folder / "photos")))
        seconds = time.monotonic() - began
        expected = told(lambda: vectors_of(whole))
        print(f"undisturbed: {len(expected)} vectors in {seconds:.1f} s", flush=True)
        wrong = killed(folder, options, expected, seconds)
        wrong += full(folder, options.full, expected)
    for line in wrong:
        print(f"wrong: {line}")
    sys.exit(bool(wrong))


def draw_pictures(folder: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        rough = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((48, 48)).save(folder / f"{number}.png")
        os.utime(folder / f"{number}.png", (1e9, 1e9))


def refresh(index: Path, photos: Path) -> None:
    with mlx_mm.Index(index) as opened:
        opened.refresh(photos, wait=60.0)


# --- kills ----------------------------------------------------------------------------------------------------------


def killed(folder: Path, options: argparse.Namespace, expected: dict[str, str], seconds: float) -> list[str]:
    draw, photos, current = random.Random(options.seed), folder / "photos", folder / "current"
    wrong, kept, rounds, landed = list[str](), 0, 1, 0
    index = folder / "1.mmindex"
    current.write_text(str(index))
    others = [start(lambda: read(folder, expected)), start(lambda: count(folder))]
    number = 0
    while landed < options.kills:
        number += 1
        process = start(partial(refresh, index, photos))
        time.sleep(draw.uniform(0.05, 0.9) * seconds)
        os.kill(process, signal.SIGKILL)
        in_time = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        landed += in_time
        report = told(partial(look, index, expected))
        if report["vectors"] < kept:
            report["wrong"].append(f"{kept - report['vectors']} vectors were lost")
        for line in report["wrong"]:
            wrong.append(f"kill {number}: {line}")
            print(f"wrong: {wrong[-1]}", flush=True)
        kept = report["vectors"]
        seconds *= 0.85 if not in_time else 1.0 if kept else 1.2  # other work on the machine comes and goes
        if number % 10 == 0 or kept == len(expected):
            print(f"{landed} kills before the end, of {number}; index {rounds} has {kept} vectors", flush=True)
        if kept == len(expected):
            rounds, kept = rounds + 1, 0
            index = folder / f"{rounds}.mmindex"
            current.write_text(str(index))
    wait_for(start(lambda: refresh(index, photos)))
    last = told(lambda: look(index, expected))
    wrong += last["wrong"]
    if last["vectors"] != len(expected):
        wrong.append(f"the last refresh left {last['vectors']} of {len(expected)} vectors")
    (folder / "stop").touch()
    for process in others:
        os.waitpid(process, 0)
    for name in ("reader", "writer"):
        found = json.loads((folder / name).read_text())
        print(f"{name}: {found['counts']}")
        wrong += [f"{name}: {line}" for line in found["wrong"]]
    return wrong


def look(index: Path, expected: dict[str, str]) -> dict:
    """What is wrong with an index after a kill, and how many vectors it has."""
    if not Store(index).exists():
        return {"wrong": [], "vectors": 0}
    wrong = list(check(Store(index)).problems)
    found = vectors_of(index)
    wrong += [
        f"the vector of {digest} is another" for digest, vector in found.items() if expected.get(digest) != vector
    ]
    return {"wrong": wrong, "vectors": len(found)}


def vectors_of(index: Path) -> dict[str, str]:
    with Store(index).reading() as rows:
        found = rows.execute("SELECT digest, vector FROM vectors JOIN contents ON contents.id = content").fetchall()
    return {digest.hex(): vector.hex() for digest, vector in found}


def read(folder: Path, expected: dict[str, str]) -> None:
    """Ask one index after the other for what is nearest, until told to stop."""
    draw = np.random.default_rng(1)
    counts, wrong = {"queries": 0, "vectors": 0, "no index yet": 0}, list[str]()
    store: Store | None = None
    while not (folder / "stop").exists() and len(wrong) < 10:
        path = Path((folder / "current").read_text() or folder / "none")
        try:
            if store is None or store.path != path:
                store = Store(path)
            with store.reading() as rows:
                spaces = rows.execute("SELECT id, dim FROM spaces").fetchall()
                for space, dim in spaces:
                    codes = open_codes(store, space)
                    there = rows.execute("SELECT count(*) FROM vectors WHERE space = ?", (space,)).fetchone()[0]
                    if len(codes) != there:
                        wrong.append(f"{len(codes)} codes of {there} vectors")
                    best = np.argsort(-codes.scores(draw.standard_normal((1, dim), dtype=np.float32))[0])[:5]
                    vectors, present = find_vectors(rows, codes.ids[best])
                    for content, vector in zip(codes.contents[best][present].tolist(), vectors, strict=True):
                        digest = rows.execute("SELECT digest FROM contents WHERE id = ?", (content,)).fetchone()[0]
                        if expected.get(digest.hex()) != vector.astype("<f2").tobytes().hex():
                            wrong.append(f"the vector of {digest.hex()} is another")
                    counts["queries"] += 1
                    counts["vectors"] += len(best)
            time.sleep(PAUSE)
        except StoreError as error:
            if "no index" not in str(error):
                wrong.append(str(error))
            counts["no index yet"] += 1
            time.sleep(0.05)
    (folder / "reader").write_text(json.dumps({"counts": counts, "wrong": wrong}))


def count(folder: Path) -> None:
    """Be the writer of each index now and then, and count in it, until told to stop."""
    counts, wrong, path = {"transactions": 0, "busy": 0}, list[str](), Path()
    own = 0
    while not (folder / "stop").exists() and len(wrong) < 10:
        now = Path((folder / "current").read_text() or folder / "none")
        if now != path:
            path, own = now, 0
        try:
            store = Store(path)
            if not store.exists():
                time.sleep(0.05)
                continue
            with store.writer(), store.writing() as rows:
                rows.execute("INSERT OR IGNORE INTO meta VALUES ('count', '0')")
                found = int(rows.execute("SELECT value FROM meta WHERE key = 'count'").fetchone()[0])
                if found != own:
                    wrong.append(f"it counted to {own}, and found {found}")
                rows.execute("UPDATE meta SET value = ? WHERE key = 'count'", (str(found + 1),))
            own, counts["transactions"] = own + 1, counts["transactions"] + 1
            store.close()
        except BusyError:
            counts["busy"] += 1
        except StoreError as error:
            wrong.append(str(error))
        time.sleep(PAUSE)
    (folder / "writer").write_text(json.dumps({"counts": counts, "wrong": wrong}))


# --- a full disk ----------------------------------------------------------------------------------------------------


def full(folder: Path, small: Path | None, expected: dict[str, str]) -> list[str]:
    """Refreshes with less and less room, each of which is refused at another place."""
    wrong, photos = list[str](), folder / "photos"
    for room in (20, 40, 80, 120, 160, 200, 250, 300, 400, 500) if small else (FULL_BYTES // 1024,):
        index = (small or folder) / f"{room}.mmindex"
        filler = index.with_suffix(".filler")
        if small:
            filler.write_bytes(bytes(max(0, shutil.disk_usage(small).free - room * 1024)))
        said = told(partial(refused, index, photos, bound=small is None))
        filler.unlink(missing_ok=True)  # there is room again
        report = told(partial(look, index, expected))
        print(f"room of {room} KB: {report['vectors']} vectors committed; {said}", flush=True)
        wrong += [f"room of {room} KB: {line}" for line in report["wrong"]]
        if not said or "\n" in said:
            wrong.append(f"room of {room} KB: it said {said!r}")
        if small:
            shutil.rmtree(index, ignore_errors=True)
            continue
        wait_for(start(partial(refresh, index, photos)))
        if told(partial(look, index, expected)) != {"wrong": [], "vectors": len(expected)}:
            wrong.append("after a full disk the next refresh did not end with the same vectors")
    return wrong


def refused(index: Path, photos: Path, *, bound: bool) -> str:
    if bound:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
    try:
        refresh(index, photos)
    except MlxMmError as error:
        return f"{type(error).__name__}: {error}"
    return ""


# --- processes ------------------------------------------------------------------------------------------------------
# They are forked from one that has imported the package and computed nothing.


def start(work: Callable[[], object]) -> int:
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stderr.flush()
            os._exit(status)
    return process


def wait_for(process: int) -> None:
    if status := os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        sys.exit(f"error: a process ended with {status}")


def told(work: Callable[[], object]):
    """What another process finds."""
    ours, theirs = os.pipe()

    def tell() -> None:
        with os.fdopen(theirs, "w") as file:
            json.dump(work(), file)

    process = start(tell)
    os.close(theirs)
    with os.fdopen(ours) as file:
        said = file.read()
    wait_for(process)
    return json.loads(said)


if __name__ == "__main__":
    main()
