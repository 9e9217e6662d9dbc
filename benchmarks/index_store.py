"""The store of an index with so many vectors: how long a query takes, cold and warm, its memory, disk and recall.

    python benchmarks/index_store.py 100000 [--dim 768] [--queries 200] [--folder FOLDER]

Vectors and queries are drawn as models give them: pictures around one direction, in 5,000 clusters of 64 dimensions
each, and texts around another one, in the place of those of a model. Each measurement is a process of its own: `warm`
opens the index once and asks one query after the other, as `Index.search` does; `cold` is a process that opens it and
asks one. CPU time stands beside wall time, since other work on the machine makes the latter longer. The folder is taken
away at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import types
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlx_mm.processing.vectors import Vectors, unit_length
from mlx_mm.search.asking import Query
from mlx_mm.search.codes import extend_codes, open_codes
from mlx_mm.search.cutoffs import extend_cutoffs
from mlx_mm.search.inspection import check
from mlx_mm.search.query import Limits, Searcher
from mlx_mm.search.records import Hit, Where
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import STORED, find_vectors

TOP = 20
CLUSTERS, LATENT, BATCH = 5000, 64, 20_000
GIVEN_QUERIES = "queries.npy"


def pictures(dim: int) -> Callable[[int, int], Vectors]:
    random = np.random.default_rng(0)
    cone = random.standard_normal(dim, dtype=np.float32) * 1.2
    latent = random.standard_normal((LATENT, dim), dtype=np.float32) / 8
    centres = random.standard_normal((CLUSTERS, LATENT), dtype=np.float32) @ latent

    def some(start: int, size: int) -> Vectors:
        own = np.random.default_rng([1, start])
        noise = own.standard_normal((size, dim), dtype=np.float32) * 0.5
        return unit_length(cone + centres[own.integers(0, CLUSTERS, size)] + noise)

    return some


def texts(count: int, dim: int) -> Vectors:
    random = np.random.default_rng(0)
    random.standard_normal(dim, dtype=np.float32)
    latent = random.standard_normal((LATENT, dim), dtype=np.float32) / 8
    own = np.random.default_rng(2)
    cone = own.standard_normal(dim, dtype=np.float32) * 1.5
    found = cone + own.standard_normal((count, LATENT), dtype=np.float32) @ latent * 0.7
    return unit_length(found + own.standard_normal((count, dim), dtype=np.float32) * 0.2)


# --- what is measured -----------------------------------------------------------------------------------------------


def add_files(rows: sqlite3.Connection, numbers: range) -> None:
    rows.executemany(
        "INSERT INTO files(root, path, name, size, mtime_ns, device, inode, content, state) "
        "VALUES (1, ?1, cast(?1 AS TEXT), 1, 1, 1, ?2, ?2, 'here')",
        ((b"2024/IMG_%d.jpg" % number, number) for number in numbers),
    )
    rows.execute(
        "INSERT INTO words(rowid, path, tags) SELECT id, name, '' FROM files WHERE id BETWEEN ? AND ?",
        (numbers[0], numbers[-1]),
    )


class Texts:
    """The one space of the index, and the only one of its spaces: its model is a table of vectors."""

    id, name, kinds, model = 1, "texts", ("image",), types.SimpleNamespace(modalities=("text", "image"))

    def __init__(self, folder: Path):
        self.queries = np.load(folder.parent / GIVEN_QUERIES)

    def all(self) -> list[Texts]:
        return [self]

    def vectors_of_text(self, words: Sequence[str]) -> Vectors:
        """Of "text 7" the seventh; of neutral ones others."""
        places = [int(text.split()[-1]) if text.startswith("text ") else zlib.crc32(text.encode()) for text in words]
        return self.queries[np.array(places) % len(self.queries)]


def asking(folder: Path) -> Callable[[int], list[Hit]]:
    """What finds the best TOP for a query by its number."""
    searcher, limits = Searcher(Store(folder), Texts(folder)), Limits(top=TOP, strong_only=False)
    return lambda number: searcher.search(Query.of(f"text {number}"), Where(), limits)


def fill(folder: Path, count: int, dim: int) -> dict[str, float]:
    store = Store(folder, create=True)
    draw = pictures(dim)
    seconds = codes = 0.0
    with store.writer():
        with store.writing() as rows:
            rows.execute(
                "INSERT INTO spaces(fingerprint, model, dim, kinds, about, canary) "
                "VALUES ('f', 'm', ?, '[\"image\"]', '{}', '')",
                (dim,),
            )
            rows.execute("INSERT INTO roots(path) VALUES (?)", (b"/photos",))
        for start in range(0, count, BATCH):
            vectors = draw(start, min(BATCH, count - start)).astype(STORED)
            began = time.process_time()
            numbers = range(start + 1, start + len(vectors) + 1)
            with store.writing() as rows:
                rows.executemany(
                    "INSERT INTO contents(id, digest, kind, size) VALUES (?, randomblob(16), 'image', 1)",
                    ((number,) for number in numbers),
                )
                add_files(rows, numbers)
                rows.executemany(
                    "INSERT INTO vectors(content, space, part, vector) VALUES (?, 1, 0, ?)",
                    ((number, vector.tobytes()) for number, vector in zip(numbers, vectors, strict=True)),
                )
            seconds += time.process_time() - began
        began = time.process_time()
        extend_codes(store, 1)
        codes = time.process_time() - began
        began = time.process_time()
        extend_cutoffs(store, Texts(folder))
        cutoffs = time.process_time() - began
    store.close()
    return {"rows written, CPU s": seconds, "codes written, CPU s": codes, "cutoffs written, CPU s": cutoffs}


def warm(folder: Path) -> dict[str, float]:
    store, ask, queries = Store(folder), asking(folder), np.load(folder.parent / GIVEN_QUERIES)
    ask(0)
    wall, cpu, scans = [], [], []
    for number, query in enumerate(queries):
        used = time.process_time()
        open_codes(store, 1).scores(query[None])
        scans.append(time.process_time() - used)
        began, used = time.perf_counter(), time.process_time()
        ask(number)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    found = {f"{name} p{part}, ms": 1e3 * float(np.percentile(times, part)) for name, times in
             (("wall", wall), ("CPU", cpu), ("CPU of the scan alone", scans)) for part in (50, 95)}  # fmt: skip
    return {**found, **memory()}


def cold(folder: Path) -> dict[str, float]:
    imported, began = time.process_time(), time.perf_counter()
    asking(folder)(0)
    return {
        "imports, CPU s": imported,
        "open and first query, wall ms": 1e3 * (time.perf_counter() - began),
        "open and first query, CPU ms": 1e3 * (time.process_time() - imported),
    }


def memory() -> dict[str, float]:
    """On Linux; elsewhere nothing is said."""
    path = Path("/proc/self/status")
    status = dict(line.split(":", 1) for line in path.read_text("utf-8").splitlines()) if path.exists() else {}
    names = {"VmHWM": "greatest RSS, MB", "RssAnon": "not of files, MB"}
    return {name: float(status[key].split()[0]) / 1e3 for key, name in names.items() if key in status}


def recall(folder: Path) -> dict[str, float]:
    """Of the best TOP by all float16 vectors, how many are found: by bytes alone, and as a search finds them."""
    store, queries = Store(folder), np.load(folder.parent / GIVEN_QUERIES)
    codes, ask = open_codes(store, 1), asking(folder)
    exact = np.empty((len(queries), len(codes)), np.float32)
    with store.reading() as rows:
        for start in range(0, len(codes), BATCH):
            vectors, _ = find_vectors(rows, codes.ids[start : start + BATCH])
            exact[:, start : start + BATCH] = queries @ vectors.T
    by_bytes, found = 0, 0
    for number, (query, own) in enumerate(zip(queries, exact, strict=True)):
        least = np.partition(own, -TOP)[-TOP]
        rough = codes.scores(query[None])[0]
        by_bytes += int((own[np.argpartition(rough, -TOP)[-TOP:]] >= least).sum())
        scores = np.array([hit.score for hit in ask(number)])
        found += int((scores >= least - 2e-7).sum())
    return {"recall": found / TOP / len(queries), "recall of bytes alone": by_bytes / TOP / len(queries)}


def sizes(folder: Path) -> dict[str, float]:
    return {f"{path.name.split('-')[0]}, MB": path.stat().st_size / 1e6 for path in sorted(folder.iterdir())}


def checked(folder: Path) -> dict[str, float]:
    began = time.process_time()
    report = check(Store(folder))
    if report.problems:
        sys.exit(f"error: {report.problems}")
    return {"check, CPU s": time.process_time() - began}


ROLES = {"warm": warm, "cold": cold, "recall": recall, "check": checked}


def apart(role: str, folder: Path, **environment: str) -> dict[str, float]:
    """What a process of its own finds."""
    run = subprocess.run(
        [sys.executable, __file__, "0", "--role", role, "--folder", str(folder)],
        env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(run.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where there is room")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        print(json.dumps(ROLES[options.role](options.folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place) / "vectors.mmindex"
        np.save(Path(place) / GIVEN_QUERIES, texts(options.queries, options.dim))
        print(f"{options.count:,} vectors of {options.dim}, {options.queries} queries")
        tell("filling", fill(folder, options.count, options.dim))
        tell("disk", sizes(folder))
        for name, environment in (("kernels", {}), ("NumPy", {"MLX_MM_CPU": "off"})):
            tell(f"cold, {name}", apart("cold", folder, **environment))
            tell(f"warm, {name}", apart("warm", folder, **environment))
        tell("recall", apart("recall", folder))
        tell("check", apart("check", folder))
        shutil.rmtree(folder)


def tell(what: str, found: dict[str, float]) -> None:
    print(f"{what}: " + ", ".join(f"{name} {value:,.3f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
