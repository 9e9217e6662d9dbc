"""A store with vectors, without files or models."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import add_vectors


def make(folder: Path, vectors: Vectors, *, parts: int = 1) -> Store:
    """A new store in a folder, with one space, and `add`ed vectors."""
    store = Store(folder / "photos.mmindex", create=True)
    with store.writing() as rows:
        rows.execute(
            "INSERT INTO spaces(fingerprint, model, dim, kinds, about, canary) "
            "VALUES ('f', 'm', ?, '[\"image\"]', '{}', '')",
            (vectors.shape[1],),
        )
    add(store, vectors, parts=parts)
    return store


def add(store: Store, vectors: Vectors, *, space: int = 1, parts: int = 1) -> None:
    """Contents with so many parts each, none of which a file has."""
    with store.writing() as rows:
        for start in range(0, len(vectors), parts):
            some = vectors[start : start + parts]
            content = rows.execute(
                "INSERT INTO contents(digest, kind, size) VALUES (randomblob(16), 'image', 1) RETURNING id"
            ).fetchone()[0]
            add_vectors(rows, content, space, some, [None] * len(some))


def unit(count: int, dim: int = 32, seed: int = 0) -> Vectors:
    """(count, dim) of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
