"""The contents that score highest, exactly: candidates by bytes, then the vectors themselves."""

import sqlite3
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.codes import Codes, Ids
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import find_vectors

MORE = 64  # candidates beyond what is asked for
AT_ONCE = 4096  # vectors that are read at once


@dataclass(frozen=True)
class Nearest:
    """Contents, best first, of which equal ones are in the order of ids: of each its best vector. ids, contents: (n,).
    scores: (n,) as float32 products of the query and the stored vectors."""

    ids: Ids
    contents: Ids
    scores: Vectors


def nearest(
    store: Store,
    codes: Codes,
    queries: Vectors,
    count: int,
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    weights: Vectors | None = None,
    scores: Vectors | None = None,
) -> Nearest:
    """The `count` contents, or all where there are fewer, that score highest in the weighted sum of queries (Q, dim).

    mask: (N,) which of the codes' vectors count. weights: (Q,), by default 1 each. scores: (Q, N) of `codes.scores`,
    where they are known already. Exact: no content is left out whose score could be higher, by the bounds of the codes.
    Vectors that the view of the store lacks are left out.
    """
    queries = np.atleast_2d(queries).astype(np.float32)
    weights = np.ones(len(queries), np.float32) if weights is None else np.asarray(weights, np.float32)
    found = codes.scores(queries) if scores is None else scores
    highest = weights @ found + codes.bounds(queries, weights)
    if mask is not None:
        highest = np.where(mask, highest, -np.inf)
    with store.reading() as rows:
        return _Search(rows, codes, weights @ queries, count, highest).best()


class _Search:
    """highest: (N,) what the score of each vector can be at most, -inf of those that do not count."""

    def __init__(self, rows: sqlite3.Connection, codes: Codes, query: Vectors, count: int, highest: Vectors):
        self._rows, self._codes, self._query, self._count, self._highest = rows, codes, query, count, highest
        self._seen = np.zeros(len(highest), np.bool_)
        self._places, self._exact = np.empty(0, np.int64), np.empty(0, np.float32)

    def best(self) -> Nearest:
        counting = int(np.count_nonzero(self._highest > -np.inf))
        size = self._count + MORE
        while self._count and counting:
            self._read(_greatest(self._highest, min(size, counting)))
            if self._threshold() > -np.inf:
                self._read(np.flatnonzero(self._highest >= self._threshold()))
                break
            if size >= counting:
                break
            size *= 4  # many vectors are parts of a few contents
        chosen = self._order()[: self._count]
        places = self._places[chosen]
        return Nearest(self._codes.ids[places], self._codes.contents[places], self._exact[chosen])

    def _read(self, places: Ids) -> None:
        """The exact scores of vectors that may be among the best, the most promising first."""
        places = places[~self._seen[places]]
        places = places[np.argsort(-self._highest[places], kind="stable")]
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            some = some[self._highest[some] >= self._threshold()]
            if not len(some):
                break
            self._seen[some] = True
            vectors, present = find_vectors(self._rows, self._codes.ids[some])
            exact = vectors.reshape(-1, self._codes.dim) @ self._query
            self._places = np.concatenate([self._places, some[present]])
            self._exact = np.concatenate([self._exact, np.where(np.isnan(exact), -np.inf, exact)])

    def _order(self) -> Ids:
        """The best vector of each content, best first."""
        order = np.lexsort((self._codes.ids[self._places], -self._exact))
        _, firsts = np.unique(self._codes.contents[self._places[order]], return_index=True)
        best: Ids = order[np.sort(firsts)]
        return best

    def _threshold(self) -> float:
        """A score that so many contents have, or a better one."""
        best = self._order()
        return float(self._exact[best[self._count - 1]]) if len(best) >= self._count else -np.inf


def _greatest(numbers: Vectors, count: int) -> Ids:
    """The places of the `count` greatest."""
    return np.argpartition(numbers, len(numbers) - count)[len(numbers) - count :]
