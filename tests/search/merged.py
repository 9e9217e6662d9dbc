"""What an index holds, but for the ids of its rows: two that hold the same are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_mm.search.store import Store

QUESTIONS = (
    "SELECT digest, kind, size, width, height, seconds, dhash, taken_at, latitude, longitude, camera, live"
    " FROM contents",
    "SELECT digest, fingerprint, part, start, stop, vector FROM vectors JOIN contents ON contents.id = content"
    " JOIN spaces ON spaces.id = space",
    "SELECT roots.path, files.path, name, files.size, mtime_ns, files.device, inode, digest, state, error FROM files"
    " JOIN roots ON roots.id = root LEFT JOIN contents ON contents.id = content",
    "SELECT path, tags FROM words",
    "SELECT digest, label, score FROM tags JOIN contents ON contents.id = content",
    "SELECT fingerprint, model, revision, dim, kinds, canary FROM spaces",
    "SELECT path, device, options FROM roots",
)


def held(path: Path) -> list[list[tuple[Any, ...]]]:
    """All rows, each table in an order of its own."""
    store = Store(path)
    with store.reading() as rows:
        found = [sorted(rows.execute(question).fetchall(), key=repr) for question in QUESTIONS]
    store.close()
    return found
