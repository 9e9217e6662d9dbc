"""All vectors of a space against the parts of a query: cosines, standard scores, and which of them fit."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.codes import Codes
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import find_vectors

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

GONE = -2.0  # less than any cosine


@dataclass
class Compared:
    """What is known of N vectors and P parts.

    codes: of the vectors. queries: (P, dim) of the parts. weights: (P,), below 0 where a part is not wanted. cosines:
    (P, N), near the exact ones until they are settled. means, spreads: of the cosines of each part over the whole
    index, (P,). least: the cosines from which on a part fits, (P, N) or (P, 1). spread: of the weighted sum.
    """

    codes: Codes
    queries: Vectors
    weights: Floats
    cosines: Floats
    means: Floats
    spreads: Floats
    least: Floats
    spread: float = 1.0

    @classmethod
    def of(cls, codes: Codes, queries: Vectors, weights: Floats, live: Flags) -> "Compared":
        """live: which vectors are of files that are there, (N,): the index over which standard scores are taken."""
        cosines = codes.scores(queries)
        there = cosines if live.all() else cosines[:, live]
        means = there.mean(axis=1, dtype=np.float64).astype(np.float32)
        spreads = _not_zero(there.std(axis=1, dtype=np.float64).astype(np.float32))
        least = np.full((len(queries), 1), np.inf, np.float32)
        found = cls(codes, queries, weights, cosines, means, spreads, least)
        if len(queries) > 1:
            found.spread = float(_not_zero(found.standard()[live].std(keepdims=True))[0])
        elif len(queries):
            found.spread = abs(float(weights[0]))
        return found

    def standard(self) -> Floats:
        """How many standard deviations each vector (N,) lies above the mean of the index, all parts weighed."""
        factors = self.weights / self.spreads
        return _weighed(factors, self.cosines - self.means[:, None]) / np.float32(self.spread)

    def standard_error(self) -> Floats:
        """By how much standard scores (N,) may be wrong before they are settled."""
        return self.codes.bounds(self.queries, self.weights / self.spreads) / np.float32(self.spread)

    def score(self) -> Floats | None:
        """The mean cosine (N,) of what is wanted, by its weights; None where nothing is."""
        shares = self._shares()
        return None if shares is None else _weighed(shares, self.cosines)

    def doubtful(self, min_score: float | None) -> Flags:
        """Which vectors (N,) lie so near to a cutoff that only their exact cosines tell on which side."""
        found = np.zeros(len(self.codes.ids), bool)
        for query, cosines, least in zip(self.queries, self.cosines, self.least, strict=True):
            found |= np.abs(cosines - least) <= self.codes.bounds(query[None], np.ones(1, np.float32))
        if min_score is not None and (shares := self._shares()) is not None:
            found |= np.abs(_weighed(shares, self.cosines) - min_score) <= self.codes.bounds(self.queries, shares)
        return found

    def _shares(self) -> Floats | None:
        """Of the parts in the score, (P,)."""
        wanted = np.maximum(self.weights, 0)
        return np.asarray(wanted / wanted.sum(), np.float32) if wanted.any() else None

    def fits(self) -> Flags:
        """Which vectors (N,) fit one of the wanted parts at least; all of them where nothing is wanted."""
        wanted = self.weights > 0
        if not wanted.any():
            return np.ones(len(self.codes.ids), bool)
        return np.asarray((self.cosines >= self.least)[wanted].any(axis=0))

    def unfit(self) -> Flags:
        """Which vectors (N,) fit a part that is not wanted."""
        return np.asarray((self.cosines >= self.least)[self.weights < 0].any(axis=0))

    def settle(self, store: Store, places: Places) -> None:
        """Put exact cosines in the place of those of some vectors, by the vectors in the store."""
        if len(places):
            with store.reading() as rows:
                vectors, present = find_vectors(rows, self.codes.ids[places])
            self.cosines[:, places] = GONE
            # Not a BLAS product, in which a row's last bits depend on the others: what is equal must tie.
            self.cosines[:, places[present]] = np.einsum("pd,nd->pn", self.queries, vectors)


def _weighed(weights: Floats, rows: Floats) -> Floats:
    """The weighed sum (N,) of rows (P, N), each number of it computed alike."""
    total = np.zeros(rows.shape[1], np.float32)
    for weight, row in zip(weights, rows, strict=True):
        total += weight * row
    return total


def _not_zero(spreads: Floats) -> Floats:
    """Of vectors that are all alike nothing stands out."""
    return np.where(spreads > 1e-6, spreads, np.float32(1))
