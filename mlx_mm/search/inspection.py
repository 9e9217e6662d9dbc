"""Whether an index is whole, and making it so."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlx_mm.errors import DamagedError
from mlx_mm.search import words
from mlx_mm.search.codes import AT_ONCE, Files, encode, extend_all
from mlx_mm.search.records import CheckReport
from mlx_mm.search.relations import MISCOUNTED, drop_orphans, recount, write_words
from mlx_mm.search.rescue import rescue
from mlx_mm.search.store import THUMBNAILS, Store
from mlx_mm.search.stored_vectors import STORED

TOLERANCE = 2e-3  # of a length of 1, four times what float16 loses of one
SHOWN = 20  # complaints of SQLite's

_WORDLESS = "SELECT id FROM files WHERE state = 'here' AND id NOT IN (SELECT rowid FROM words)"
_FILELESS = "SELECT rowid FROM words WHERE rowid NOT IN (SELECT id FROM files)"


def check(store: Store, *, repair: bool = False) -> CheckReport:
    """Hold the store against itself, and what is derived against the store.

    repair: make right what can be: codes are made again, vectors that are broken are taken away, so that the next
    refresh makes them, and of a damaged file all is saved that can be read. Raises BusyError where that must wait.
    """
    try:
        found = _rescued(store, repair) if _complaints(store) else _checked(store, repair)
    except DamagedError:
        found = _rescued(store, repair)
    return replace(found, left=check(store).problems if found.repaired else found.problems)


def _rescued(store: Store, repair: bool) -> CheckReport:
    """Of a damaged file: what SQLite says of it, and what could be saved."""
    try:
        problems = _complaints(store)
    except DamagedError as error:
        problems = [str(error)]
    if not repair:
        return CheckReport(tuple(problems))
    repaired = rescue(store)
    after = _checked(store, repair=True)
    return CheckReport((*problems, *after.problems), (*repaired, *after.repaired), after.counts)


def _complaints(store: Store) -> list[str]:
    with store.reading() as rows:
        found = [row[0] for row in rows.execute(f"PRAGMA integrity_check({SHOWN})")]
    return [f"{store.database.name}: {' '.join(line.split())}" for line in found if line != "ok"]


def _checked(store: Store, repair: bool) -> CheckReport:
    """Of a file that SQLite can read."""
    with store.writer() if repair else contextlib.nullcontext():
        found = [part(store) for part in (_spaces, _relations, _vectors, _words, _thumbnails, _codes)]
        repaired = [mend() for problems, mend in found if problems and repair]
    return CheckReport(tuple(line for problems, _ in found for line in problems), tuple(repaired), _counts(store))


Found = tuple[list[str], Callable[[], str]]  # problems, and what makes them right and says how


def _spaces(store: Store) -> Found:
    """Spaces of which nobody can tell any more which model made them."""
    with store.reading() as rows:
        found = rows.execute("SELECT id, model, dim, kinds, about, canary FROM spaces").fetchall()
    broken = {number: name for number, name, *rest in found if not _tells_its_model(*rest)}
    problems = [f"what the model {name} is known by is broken" for name in broken.values()]

    def mend() -> str:
        with store.writing() as rows:
            rows.executemany("DELETE FROM spaces WHERE id = ?", [(number,) for number in broken])
        return f"{len(broken)} spaces were taken away with their vectors; the next refresh makes them again"

    return problems, mend


def _tells_its_model(dim: int, kinds: str, about: str, canary: bytes) -> bool:
    try:
        said = json.loads(about)
        vectors = np.frombuffer(canary or b"", "<f4").reshape(len(said.get("canaries", [])), dim)
        return isinstance(json.loads(kinds), list) and bool(
            (abs(np.linalg.norm(vectors, axis=1) - 1) <= TOLERANCE).all()
        )
    except (ValueError, AttributeError, TypeError):
        return False


def _relations(store: Store) -> Found:
    """Rows that name others which are not there, and contents that are counted wrongly."""
    with store.reading() as rows:
        orphans = rows.execute("PRAGMA foreign_key_check").fetchall()
        miscounted = rows.execute(MISCOUNTED).fetchall()
    problems = list[str]()
    if orphans:
        tables = ", ".join(sorted({row[0] for row in orphans}))
        problems.append(f"{len(orphans)} rows belong to others that are not there, in {tables}")
    if miscounted:
        problems.append(f"the files of {len(miscounted)} contents are counted wrongly")

    def mend() -> str:
        with store.writing() as rows:
            count = drop_orphans(rows)
            recount(rows)
        return f"{count} rows were taken away, and contents counted again"

    return problems, mend


def _vectors(store: Store) -> Found:
    """Vectors that are none, or not of length 1."""
    broken = list[int]()
    with store.reading() as rows:
        for space, dim in rows.execute("SELECT id, dim FROM spaces").fetchall():
            for ids, blobs in _blobs(rows, space):
                fits = np.array([len(blob) == dim * STORED.itemsize for blob in blobs], np.bool_)
                plain = b"".join(blob for blob, fit in zip(blobs, fits, strict=True) if fit)
                with np.errstate(over="ignore", invalid="ignore"):
                    lengths = np.linalg.norm(np.frombuffer(plain, STORED).reshape(-1, dim).astype(np.float32), axis=1)
                right = fits.copy()
                right[fits] = np.abs(lengths - 1) <= TOLERANCE
                broken += ids[~right].tolist()
    problems = [f"{len(broken)} vectors are broken, as number {broken[0]}"] if broken else []

    def mend() -> str:
        with store.writing() as rows:  # all of a content, since one part of it is not made again alone
            contents = {
                rows.execute("SELECT content, space FROM vectors WHERE id = ?", (number,)).fetchone()
                for number in broken
            }
            rows.executemany("DELETE FROM vectors WHERE content = ? AND space = ?", contents)
        return f"the vectors of {len(contents)} contents were taken away; the next refresh makes them again"

    return problems, mend


def _blobs(rows: sqlite3.Connection, space: int) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    cursor = rows.execute("SELECT id, vector FROM vectors WHERE space = ? ORDER BY id", (space,))
    while some := cursor.fetchmany(AT_ONCE):
        yield np.array([row[0] for row in some]), [bytes(row[1]) for row in some]


def _words(store: Store) -> Found:
    """Files that no word finds, and words of none."""
    with store.reading() as rows:
        wordless = [row[0] for row in rows.execute(_WORDLESS)]
        fileless = [row[0] for row in rows.execute(_FILELESS)]
    count = len(wordless) + len(fileless)
    problems = [f"the names of {count} files are not among the words, or are and should not"] if count else []

    def mend() -> str:
        with store.writing() as rows:
            write_words(rows, wordless)
            for number in fileless:
                words.take_away(rows, number)
        return f"the words of {count} files were written"

    return problems, mend


def _thumbnails(store: Store) -> Found:
    """Thumbnails that are no whole JPEG; those that are missing, or were not yet in their place when their
    writer was killed, are no problem."""
    broken = [path for path in (store.path / THUMBNAILS).glob("*/*.jpg") if not _is_jpeg(path)]

    def mend() -> str:
        for path in broken:
            path.unlink(missing_ok=True)
        return f"{len(broken)} thumbnails were taken away"

    return [f"{len(broken)} thumbnails are damaged, as {broken[0].name}"] if broken else [], mend


def _is_jpeg(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(2)
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2))
        return (start, file.read(2)) == (b"\xff\xd8", b"\xff\xd9")
    return not path.exists()  # taken away meanwhile


def _codes(store: Store) -> Found:
    """Spaces whose codes are not those of their vectors; those that are missing are no problem."""
    problems = list[str]()
    with store.reading() as rows:
        for space, dim, generation in rows.execute("SELECT id, dim, generation FROM spaces").fetchall():
            codes = Files.of(store, rows, space, dim, generation).mapped()
            place = 0
            for ids, blobs in _blobs(rows, space):
                some = codes.part(place, len(ids))
                place += len(ids)
                if not len(some):
                    break
                plain = b"".join(blob.ljust(dim * STORED.itemsize, b"\0")[: dim * STORED.itemsize] for blob in blobs)
                vectors = np.frombuffer(plain, STORED).reshape(-1, dim).astype(np.float32)[: len(some)]
                _, _, right = encode(vectors)
                if not (np.array_equal(some.ids, ids[: len(some)]) and np.array_equal(some.blocks[0], right)):
                    problems.append(f"the codes of space {space} are not those of its vectors")
                    break

    def mend() -> str:
        for path in (*store.path.glob("codes-*"), *store.path.glob("slots-*")):
            path.unlink(missing_ok=True)
        store.kept.clear()
        extend_all(store)
        return "codes were made again"

    return problems, mend


def _counts(store: Store) -> dict[str, int]:
    with store.reading() as rows:
        tables = ("roots", "spaces", "contents", "files", "vectors", "tags")
        return {table: rows.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
