"""Vectors in the store: float16 of length 1, hung on a content."""

import sqlite3
from collections.abc import Sequence

import numpy as np

from mlx_mm.processing.vectors import Vectors, unit_length

STORED = np.dtype("<f2")


def add_vectors(
    connection: sqlite3.Connection,
    content: int,
    space: int,
    vectors: Vectors,
    times: Sequence[tuple[float, float] | None],
) -> None:
    """The vectors (parts, dim) of a content, in place of those that it has. times: (start, stop) of each part."""
    connection.execute("DELETE FROM vectors WHERE content = ? AND space = ?", (content, space))
    for part, (vector, span) in enumerate(zip(unit_length(vectors), times, strict=True)):
        connection.execute(
            "INSERT INTO vectors(content, space, part, start, stop, vector) VALUES (?, ?, ?, ?, ?, ?)",
            (content, space, part, *(span or (None, None)), vector.astype(STORED).tobytes()),
        )


def read_vectors(connection: sqlite3.Connection, ids: Sequence[int]) -> Vectors:
    """(N, dim) float32 of vectors by their ids, in that order."""
    found = dict[int, bytes]()
    for start in range(0, len(ids), 500):
        some = [int(number) for number in ids[start : start + 500]]
        marks = ",".join("?" * len(some))
        found.update(connection.execute(f"SELECT id, vector FROM vectors WHERE id IN ({marks})", some))
    return (
        np.frombuffer(b"".join(found[int(number)] for number in ids), STORED).reshape(len(ids), -1).astype(np.float32)
    )
