"""Vectors in the store: float16 of length 1, hung on a content."""

import sqlite3
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import DamagedError
from mlx_mm.processing.vectors import Vectors, unit_length

STORED = np.dtype("<f2")
AT_ONCE = 500  # ids in one question; SQLite takes 999 in all of its versions


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
    """(N, dim) float32 of vectors by their ids, in that order; DamagedError where one is missing."""
    vectors, present = find_vectors(connection, np.array(ids, np.int64))
    if not present.all():
        raise DamagedError(
            f"The index has no vector number {ids[int(np.argmin(present))]}; expected it. See what is lost: mlx_mm "
            "index --check."
        )
    return vectors


def find_vectors(connection: sqlite3.Connection, ids: npt.NDArray[np.int64]) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """The float32 (n, dim) of those of the vectors (N,) that there are, in that order, and (N,) which."""
    found = dict[int, bytes]()
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE].tolist()
        marks = ",".join("?" * len(some))
        found.update(connection.execute(f"SELECT id, vector FROM vectors WHERE id IN ({marks})", some))
    present = np.array([number in found for number in ids.tolist()], np.bool_)
    plain = b"".join(found[number] for number in ids[present].tolist())
    dim = len(plain) // STORED.itemsize // max(1, int(present.sum()))
    return np.frombuffer(plain, STORED).reshape(-1, max(1, dim)).astype(np.float32), present
