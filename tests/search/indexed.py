"""An index as a refresh would leave it, of rows that a test names: no files are read, and no model runs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import mlx_mm
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search import words
from mlx_mm.search.spaces import Spaces
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import add_vectors

MODEL = "emoji-siglip2"
DIM = 128
BUNDLED = Path(mlx_mm.__file__).parent / "bundled"
PICTURES = sorted((BUNDLED / "pictures").glob("*.png"))


@dataclass
class Item:
    """A content with the files that hold it. paths: below the root. taken_at: of the camera; changed: of the files, in
    seconds since 1970. place: degrees north and east."""

    paths: tuple[str | bytes, ...]
    vectors: Vectors | None = None
    spans: Sequence[tuple[float, float] | None] = (None,)
    kind: str = "image"
    size: int = 1000
    pixels: tuple[int, int] | None = (100, 80)
    dhash: int | None = None
    taken_at: float | None = None
    changed: float = 1_600_000_000.0
    place: tuple[float, float] | None = None
    camera: str | None = None
    tags: tuple[str, ...] = field(default=())
    state: str = "here"


def random_vectors(count: int, seed: int = 0) -> Vectors:
    """(count, DIM) of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_index(path: Path, root: str, items: Sequence[Item]) -> None:
    """Write an index with one root, and the space of the bundled model, whose vectors have 128 numbers."""
    store = Store(path, create=True)
    with store.writer(), store.writing() as rows:
        rows.execute(
            "INSERT INTO spaces(fingerprint, model, revision, dim, kinds, about, canary) VALUES (?, ?, ?, ?, ?, ?, ?)",
            _space(),
        )
        _write(rows, root, items)
    store.close()


@functools.cache
def _space() -> tuple[object, ...]:
    """The row of the bundled model's space, which takes running it."""
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "a.mmindex", create=True)
        with store.writer():
            Spaces(store, MODEL).prepared(None, add=False, anew=False)
        with store.reading() as rows:
            found = rows.execute(
                "SELECT fingerprint, model, revision, dim, kinds, about, canary FROM spaces"
            ).fetchone()
        store.close()
    return tuple(found)


def _write(rows: sqlite3.Connection, root: str, items: Sequence[Item]) -> None:
    rows.execute("INSERT INTO roots(id, path) VALUES (1, ?)", (os.fsencode(root),))
    rows.execute("UPDATE spaces SET kinds = ?", (json.dumps(["image", "audio", "video"]),))
    for number, item in enumerate(items):
        north, east = item.place or (None, None)
        width, height = item.pixels or (None, None)
        digest = hashlib.blake2b(repr((number, item.paths)).encode(), digest_size=16).digest()
        content = rows.execute(
            "INSERT INTO contents(digest, kind, size, width, height, dhash, taken_at, latitude, longitude, camera) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (digest, item.kind, item.size, width, height, item.dhash, item.taken_at, north, east, item.camera),
        ).lastrowid
        assert content is not None
        for place, name in enumerate(item.paths):
            raw = os.fsencode(name)
            file = rows.execute(
                "INSERT INTO files(root, path, name, size, mtime_ns, device, inode, content, state) "
                "VALUES (1, ?, ?, ?, ?, 1, ?, ?, ?)",
                (
                    *(raw, raw.decode("utf-8", "replace"), item.size, int(item.changed * 1e9)),
                    *(1000 * number + place + 1, content, item.state),
                ),
            ).lastrowid
            assert file is not None
            words.put(rows, file, raw.decode("utf-8", "replace"), item.tags)
        for label in item.tags:
            rows.execute("INSERT INTO tags(content, label, score) VALUES (?, ?, 0.9)", (content, label))
        if item.vectors is not None:
            add_vectors(rows, content, 1, np.atleast_2d(item.vectors), item.spans)
