"""Pairs of things that are alike, by hashes and by vectors, and groups in which each is like each other."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import InputError
from mlx_mm.processing.vectors import Vectors, unit_length

Places = npt.NDArray[np.int64]
Halves = npt.NDArray[np.float16]

BLOCK = 2048  # rows of a product of vectors with vectors
AT_ONCE = 1 << 22  # pairs of hashes
BANDS = 8  # of a hash, 8 bits each. Of 8 bands 6 bits can touch 6, so two at least are equal
_BITS = np.array([value.bit_count() for value in range(256)], np.uint8)


@dataclass(frozen=True)
class Pairs:
    """Places a, b (N,) with a < b of what is alike, and the cosines (N,) float32."""

    a: Places
    b: Places
    cosines: npt.NDArray[np.float32]


def count_bits(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """How many bits are set in each of (N,)."""
    return _BITS[np.ascontiguousarray(values).view(np.uint8)].reshape(len(values), 8).sum(axis=1, dtype=np.int64)


def near_hashes(hashes: npt.NDArray[np.uint64], is_flat: npt.NDArray[np.bool_]) -> tuple[Places, Places]:
    """All pairs of places that differ in 6 bits of 64 at most, but for those of which both are flat.

    Found by what two bands of 8 bits have in common, so that not each is compared with each.
    """
    found: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    count = len(hashes)
    bands = np.ascontiguousarray(hashes).view(np.uint8).reshape(count, BANDS).astype(np.int64)
    for first, second in itertools.combinations(range(BANDS), 2):
        key = bands[:, first] << 8 | bands[:, second]
        order = np.lexsort((is_flat, key))
        for left, right in _in_runs(key[order], ~is_flat[order]):
            a, b = order[left], order[right]
            near = count_bits(hashes[a] ^ hashes[b]) <= BANDS - 2
            a, b = a[near], b[near]
            found.append(np.minimum(a, b) * count + np.maximum(a, b))
    pairs = np.unique(np.concatenate(found))
    return pairs // max(1, count), pairs % max(1, count)


def near_vectors(vectors: Halves, least: float, most_pairs: int) -> Pairs:
    """All pairs of places of vectors (N, dim) whose cosine is `least` or more; InputError for more than most_pairs."""
    found = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    total = 0
    for top in range(0, len(vectors), BLOCK):
        rows = unit(vectors[top : top + BLOCK])
        for left in range(top, len(vectors), BLOCK):
            columns = rows if left == top else unit(vectors[left : left + BLOCK])
            cosines = rows @ columns.T
            near = np.flatnonzero(cosines.max(axis=1, initial=-1) >= least - 1e-6)  # few rows, as a rule
            a, b = np.nonzero(cosines[near] >= least - 1e-6)
            a = near[a]
            if left == top:
                a, b = a[a < b], b[a < b]
            total += len(a)
            if total > most_pairs:
                raise InputError(
                    f"More than {most_pairs:,} pairs have a cosine of {least:g} or more; expected fewer. Raise the "
                    "threshold."
                )
            found.append(Pairs(a + top, b + left, cosines[a, b]))
    return joined(found)


def joined(several: Sequence[Pairs]) -> Pairs:
    """All of them in one."""
    return Pairs(
        np.concatenate([pairs.a for pairs in several]),
        np.concatenate([pairs.b for pairs in several]),
        np.concatenate([pairs.cosines for pairs in several]),
    )


def unit(vectors: Halves) -> Vectors:
    """float32 of length 1, where float16 has lost a little of it."""
    return unit_length(vectors.astype(np.float32))


def complete_groups(pairs: Pairs, apart: Collection[tuple[int, int]]) -> list[tuple[list[int], float]]:
    """Groups of places of which each two are a pair, with the least cosine in each; no place is in two of them.

    Pairs are taken from the most alike on, and two groups become one only where all of their pairs are known, so that
    no chain leads from one thing to a quite different one. apart: pairs (a, b), a < b, that are none.
    """
    known: dict[tuple[int, int], float] = {}
    order = np.lexsort((pairs.b, pairs.a, -pairs.cosines))
    for a, b, cosine in zip(
        pairs.a[order].tolist(), pairs.b[order].tolist(), pairs.cosines[order].tolist(), strict=True
    ):
        if (a, b) not in apart:
            known[a, b] = cosine
    group_of: dict[int, list[int]] = {}
    for a, b in known:
        left, right = group_of.setdefault(a, [a]), group_of.setdefault(b, [b])
        if left is not right and all((min(x, y), max(x, y)) in known for x in left for y in right):
            left += right
            group_of.update(dict.fromkeys(right, left))
    groups = {id(group): sorted(group) for group in group_of.values() if len(group) > 1}
    return [(group, min(known[pair] for pair in itertools.combinations(group, 2))) for group in groups.values()]


def _in_runs(keys: Places, leads: npt.NDArray[np.bool_]) -> Iterator[tuple[Places, Places]]:
    """All pairs of positions, in blocks, that have the same of the sorted keys, the first of which leads."""
    count = len(keys)
    ends = np.searchsorted(keys, keys, side="right")
    partners = np.where(leads, ends - np.arange(count) - 1, 0)
    totals = np.cumsum(partners)
    start = 0
    while start < count:
        before = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, before + AT_ONCE, side="right")))
        some = partners[start:stop]
        left = np.repeat(np.arange(start, stop), some)
        if len(left):
            first = np.repeat(np.cumsum(some) - some, some)
            yield left, left + 1 + np.arange(len(left)) - first
        start = stop
