"""How large an index is, making it smaller, and forgetting what is in it."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlx_mm.errors import InputError
from mlx_mm.search.codes import extend_all
from mlx_mm.search.store import THUMBNAILS, Store

_UNUSED = "DELETE FROM contents WHERE id NOT IN (SELECT content FROM files WHERE content IS NOT NULL)"


def compact(store: Store, wait: float = 0.0) -> None:
    """Take away contents that no file has, give the room of what was taken away back to the disk, and make codes again.
    Raises BusyError while somebody else writes, OutputError where the disk has no room for a copy of the file."""
    with store.reading():  # there is one
        pass
    with store.writer(wait):
        with store.writing() as rows:
            rows.execute(_UNUSED)
            known = {row[0].hex() for row in rows.execute("SELECT digest FROM contents")}
            rows.execute("INSERT INTO words(words) VALUES ('optimize')")
        with store.alone() as rows:
            rows.execute("VACUUM")
            rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for path in (store.path / THUMBNAILS).glob("*/*"):
            if path.suffix != ".jpg" or path.stem not in known:  # or half-written by a process that was killed
                path.unlink(missing_ok=True)
        extend_all(store)


def stats(store: Store) -> dict[str, object]:
    """Counts of files by their state, of contents by their kind, of vectors by their model; and bytes on the disk."""
    with store.reading() as rows:
        spaces = rows.execute(
            "SELECT model, dim, (SELECT count(*) FROM vectors WHERE space = spaces.id) FROM spaces ORDER BY id"
        ).fetchall()
        found: dict[str, object] = {
            "path": str(store.path),
            "folders": [os.fsdecode(row[0]) for row in rows.execute("SELECT path FROM roots ORDER BY path")],
            "files": dict(rows.execute("SELECT state, count(*) FROM files GROUP BY state").fetchall()),
            "contents": dict(rows.execute("SELECT kind, count(*) FROM contents GROUP BY kind").fetchall()),
            "hidden": rows.execute("SELECT count(*) FROM contents WHERE live = 0").fetchone()[0],
            "tags": rows.execute("SELECT count(DISTINCT label) FROM tags").fetchone()[0],
            "spaces": [{"model": model, "dim": dim, "vectors": vectors} for model, dim, vectors in spaces],
        }
    derived = ("codes-*", "slots-*", "cutoffs-*")
    found["bytes"] = {
        "index": _bytes(store.path.glob(f"{store.database.name}*")),
        "codes": _bytes(path for pattern in derived for path in store.path.glob(pattern)),
        "thumbnails": _bytes((store.path / THUMBNAILS).glob("*/*")),
    }
    return found


def _bytes(paths: Iterator[Path]) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a writer takes some away
            total += path.stat().st_size
    return total


def forget(store: Store, *, missing: bool, folders: Sequence[Path], wait: float = 0.0) -> int:
    """Take away files that are gone, and all below some folders, with what was known of them; how many files.

    A folder within one of the index comes back with the next refresh, unless it is excluded. Raises InputError for a
    folder of which the index has nothing.
    """
    with store.reading():  # there is an index
        pass
    with store.writer(wait), store.writing() as rows:
        before = rows.execute("SELECT count(*) FROM files").fetchone()[0]
        if missing:
            rows.execute("DELETE FROM files WHERE state = 'missing'")
        for folder in folders:
            _forget_folder(rows, os.fsencode(os.path.abspath(folder.expanduser())), str(folder))
        digests = rows.execute(f"{_UNUSED} RETURNING digest").fetchall()
        left: int = rows.execute("SELECT count(*) FROM files").fetchone()[0]
    for (digest,) in digests:
        for path in (store.path / THUMBNAILS / digest.hex()[:2]).glob(f"{digest.hex()}.*"):
            path.unlink(missing_ok=True)
    return int(before) - left


def _forget_folder(rows: sqlite3.Connection, folder: bytes, shown: str) -> None:
    found = False
    for root, path in rows.execute("SELECT id, path FROM roots").fetchall():
        if path == folder or path.startswith(folder.rstrip(b"/") + b"/"):
            rows.execute("DELETE FROM roots WHERE id = ?", (root,))
            found = True
        elif folder.startswith(path.rstrip(b"/") + b"/"):
            below = folder[len(path.rstrip(b"/")) + 1 :] + b"/"
            files = rows.execute(
                "DELETE FROM files WHERE root = ? AND substr(path, 1, ?) = ? RETURNING id", (root, len(below), below)
            ).fetchall()
            found = found or bool(files)
    if not found:
        known = [os.fsdecode(row[0]) for row in rows.execute("SELECT path FROM roots ORDER BY path LIMIT 5")]
        raise InputError(
            f"{shown} is no folder of the index; expected one of {', '.join(known) or 'none, since it has none'}, or "
            "one below them. Name another."
        )
