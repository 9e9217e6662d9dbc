"""Which contents come first: exact standard scores of a few vectors of many, and names beside them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlx_mm.search.comparing import Compared, Flags, Places
from mlx_mm.search.found import Match
from mlx_mm.search.store import Store

RANKS = 60  # k of reciprocal rank fusion: Cormack, Clarke and Büttcher, SIGIR 2009


@dataclass
class Named:
    """Contents whose names or tags hold words. wanted: content -> sum of weighted reciprocal ranks. unwanted: contents.
    files: ids of those that hold what is wanted."""

    wanted: dict[int, float] = field(default_factory=dict)
    unwanted: set[int] = field(default_factory=set)
    files: set[int] = field(default_factory=set)

    def add(self, contents: Iterable[int], weight: float) -> None:
        """Another list, those that fit best first."""
        for rank, content in enumerate(dict.fromkeys(contents), 1):
            if weight > 0:
                self.wanted[content] = self.wanted.get(content, 0.0) + weight / (RANKS + rank)
            else:
                self.unwanted.add(content)


@dataclass
class Ranked:
    """A space with its query. allowed: which vectors pass the filters, (N,); strong: which of them are held to fit;
    good: which of them may be shown."""

    compared: Compared
    allowed: Flags
    strong: Flags
    good: Flags

    @classmethod
    def of(
        cls,
        store: Store,
        compared: Compared,
        allowed: Flags,
        named: Named,
        min_score: float | None,
        strong_only: bool,
    ) -> "Ranked":
        """What lies so near to a cutoff that codes cannot tell is settled by the vectors in the store."""
        contents = compared.codes.contents
        compared.settle(store, np.flatnonzero(compared.doubtful(min_score) & allowed))
        strong = (compared.fits() | among(contents, named.wanted)) & ~compared.unfit() & allowed
        strong &= ~among(contents, named.unwanted)
        good = strong if strong_only else allowed
        if min_score is not None and (score := compared.score()) is not None:
            good = good & (score >= min_score)
        return cls(compared, allowed, strong, good)

    def matches(self, store: Store, named: Named, count: int | None) -> dict[int, Match]:
        """The best `count` contents, or all, with those that tie with the last one, and all that are named."""
        compared, contents = self.compared, self.compared.codes.contents
        places = self._nearest(count)
        compared.settle(store, places)
        places = np.union1d(places, np.flatnonzero(self.good & among(contents, named.wanted)))
        z, score = compared.standard()[places], compared.score()
        found: dict[int, Match] = {}
        for place in np.argsort(-z, kind="stable").tolist():
            at = places[place]
            if (content := int(contents[at])) not in found:
                found[content] = Match(
                    content,
                    None if score is None else float(score[at]),
                    float(z[place]),
                    bool(self.strong[at]),
                    int(compared.codes.ids[at]),
                )
        return found

    def named(self, named: Named) -> set[int]:
        """Those contents with a fitting name that have vectors here."""
        contents = self.compared.codes.contents
        return set(contents[among(contents, named.wanted)].tolist())

    def _nearest(self, count: int | None) -> Places:
        """Places of vectors, among which are the best of the `count` contents that are best by their exact values."""
        places = np.flatnonzero(self.good)
        if count is None or len(places) <= count:
            return places
        values, error = self.compared.standard()[places], self.compared.standard_error()[places]
        least, size = values - error, count
        while True:  # a sound has many vectors
            top = np.argpartition(least, -size)[-size:]
            if size == len(places) or len(np.unique(self.compared.codes.contents[places[top]])) >= count:
                return places[values + error >= least[top].min()]
            size = min(2 * size, len(places))


def merged(store: Store, results: Sequence[Ranked], named: Named, count: int | None) -> list[tuple[float, Match]]:
    """The best contents of all spaces, each with what it is ordered by, more being better: its standard score, or
    where names fit, the reciprocal ranks of both lists. All that tie with the last one are among them."""
    found: dict[int, Match] = {}
    for result in results:
        for content, match in result.matches(store, named, count).items():
            if content not in found or (match.z or 0.0) > (found[content].z or 0.0):
                found[content] = match
    if not named.wanted:
        return [(match.z or 0.0, match) for match in found.values()]
    values = np.sort(
        np.concatenate([result.compared.standard()[result.good] for result in results] or [np.zeros(0, np.float32)])
    )
    weight = max((float(result.compared.weights.clip(0).sum()) for result in results), default=1.0)

    def value(match: Match) -> float:
        by_name = named.wanted.get(match.content, 0.0)
        if match.z is None:
            return by_name
        return by_name + weight / (RANKS + 1 + len(values) - int(np.searchsorted(values, match.z, side="right")))

    return [(value(match), match) for match in found.values()]


def among(contents: Places, wanted: Collection[int] | Places) -> Flags:
    """Which of the contents (N,) are among others."""
    if not len(wanted):
        return np.zeros(len(contents), bool)
    others = wanted if isinstance(wanted, np.ndarray) else np.fromiter(wanted, np.int64, len(wanted))
    return np.isin(contents, others)


def count_contents(results: Iterable[tuple[Places, Flags]]) -> int:
    """How many contents there are, given those of vectors and which of these count."""
    several = [contents[flags] for contents, flags in results]
    return int(np.count_nonzero(np.bincount(np.concatenate(several)))) if several else 0
