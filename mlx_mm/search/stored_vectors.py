"""Vectors in the store: float16 of length 1, hung on a content."""

import json
import sqlite3
import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

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
    put_stored(connection, content, space, as_stored(vectors), times)


def as_stored(vectors: Vectors) -> list[bytes]:
    """Vectors (parts, dim) as the store has them."""
    return [vector.astype(STORED).tobytes() for vector in unit_length(vectors)]


def put_stored(
    connection: sqlite3.Connection,
    content: int,
    space: int,
    stored: Sequence[bytes],
    times: Sequence[tuple[float, float] | None],
) -> None:
    """Write the vectors, one for each part, of a content that has none in that space."""
    connection.executemany(
        "INSERT INTO vectors(content, space, part, start, stop, vector) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (content, space, part, *(span or (None, None)), vector)
            for part, (vector, span) in enumerate(zip(stored, times, strict=True))
        ],
    )


def find_vectors(connection: sqlite3.Connection, ids: npt.NDArray[np.int64]) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """The float32 (n, dim) of those of the vectors (N,) of a space that there are, in that order, and (N,) which.

    What has another length than the others is broken, and not there.
    """
    found = dict(
        connection.execute(
            "SELECT id, vector FROM vectors WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids.tolist()),)
        )
    )
    size = statistics.mode(map(len, found.values())) if found else STORED.itemsize
    present = np.array([len(found.get(number, b"")) == size for number in ids.tolist()], np.bool_)
    plain = b"".join(found[number] for number in ids[present].tolist())
    return np.frombuffer(plain, STORED).reshape(-1, size // STORED.itemsize).astype(np.float32), present
