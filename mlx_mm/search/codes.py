"""What of all vectors is kept ready for a scan: one byte a number. Derived from the store, and rebuilt at any time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import read_vectors


@dataclass(frozen=True)
class Codes:
    """The vectors of a space as bytes. ids, contents: of each vector in the store, (N,) int64.

    error: no score differs by more from that of the vector itself.
    """

    ids: npt.NDArray[np.int64]
    contents: npt.NDArray[np.int64]
    vectors: Vectors
    error: float = 0.0

    def scores(self, queries: Vectors) -> npt.NDArray[np.float32]:
        """Cosines (Q, N) of unit vectors (Q, dim) with all vectors, within `error`."""
        return np.asarray(queries @ self.vectors.T, np.float32)


def open_codes(store: Store, space: int) -> Codes:
    """Those of a space, as of now: what is missing of the derived files is computed."""
    with store.reading() as rows:
        found = rows.execute("SELECT id, content FROM vectors WHERE space = ? ORDER BY id", (space,)).fetchall()
        ids: Sequence[int] = [row[0] for row in found]
        vectors = read_vectors(rows, ids)
    return Codes(np.array(ids, np.int64), np.array([row[1] for row in found], np.int64), vectors)


def extend_codes(store: Store, space: int) -> None:
    """Add the newest vectors to the derived files; the caller is the writer."""
