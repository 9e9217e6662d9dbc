"""When a match is held to fit: a cutoff for each vector, measured against texts that fit nothing.

How alike a text and a picture must be differs from model to model and from picture to picture: some are a little like
every text. So each vector is compared with neutral texts once, and a query fits it where it lies DEVIATIONS standard
deviations above what those reach. That needs neither a model's scale nor its bias, so it holds for models that were
trained with sigmoids and with softmax, and for an index of a single picture.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlx_mm.checkpoint.atomic import new_file
from mlx_mm.errors import DamagedError, OutputError, foreign
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.spaces import Space
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import find_vectors

# Measured by benchmarks/search_quality.py on the bundled model, 42 pictures and names in 13 languages: docs/index.md,
# "When nothing fits".
DEVIATIONS = 3.4
# Of the way from what pictures of an index have in common to the same picture; measured the same way.
EXAMPLE_SHARE = 0.6
# What is common to few pictures is not known: of the 42, a quarter of all pairs is less alike than this.
FEW, USUAL_LIKENESS = 4, 0.18

# Abstract words: what no picture shows and no sound has. One more or less changes little.
NEUTRAL = (
    *("an object", "things", "stuff", "something", "a texture", "a pattern", "a surface", "an idea", "a number"),
    *("a sentence", "a question", "a rule", "a meeting", "a difference", "a reason", "an amount", "a moment"),
    *("a method", "an opinion", "a result", "a law", "a list", "a plan", "the past", "the average", "a summary"),
    *("a detail", "a version", "a category", "a part", "a quality", "a discussion", "an answer", "a condition"),
    *("the distance", "an example", "a decision", "the end", "the rest", "a fact", "a proposal", "an exception"),
    *("the order", "a forecast", "a contract", "an agreement", "a delay", "a change", "the cause", "a comparison"),
    *("the content", "a description", "a problem", "a request", "a purpose", "a report", "the height"),
    *("the beginning", "the public", "a habit", "a level", "the speed", "a type", "an effort"),
)
BLOCK = 8192  # vectors that are compared at a time


@dataclass(frozen=True)
class Cutoffs:
    """What neutral texts reach. ids: of the vectors, (N,) int64, ascending. reached: mean and spread of the
    cosines of each with those texts, (2, N) float32. neutral: vectors (64, dim) of the texts."""

    ids: npt.NDArray[np.int64]
    reached: npt.NDArray[np.float32]
    neutral: Vectors

    def of(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The cosines (N,) from which on a text fits the vectors of these ids, which are all known.

        The spread is that of all of them: of one vector, 64 texts give it too vaguely (measured: half as many queries
        for absent things find something).
        """
        all_of_them = np.array_equal(
            ids, self.ids
        )  # as a rule, and of a million the search would take most of the time
        means, spreads = self.reached if all_of_them else self.reached[:, np.searchsorted(self.ids, ids)]
        return np.asarray(means + DEVIATIONS * (spreads.mean(dtype=np.float64) if len(ids) else 0.0), np.float32)


def cutoffs_of(store: Store, space: Space, ids: npt.NDArray[np.int64], known: Cutoffs | None = None) -> Cutoffs:
    """Those of vectors (ascending ids) of a space: kept in a derived file of the index, where it can be written."""
    path, key = _path(store, space), _key(store, space)
    known = known or _read(path, key) or _none(space)
    if np.array_equal(ids, known.ids):
        return known
    missing = np.setdiff1d(ids, known.ids, assume_unique=True)
    if not len(missing):
        return known
    parts = [known.reached]
    for start in range(0, len(missing), BLOCK):
        some = missing[start : start + BLOCK]
        with store.reading() as rows:
            vectors, present = find_vectors(rows, some)
        reached = np.ones((2, len(some)), np.float32)  # nothing fits what was taken away meanwhile
        if present.any():
            cosines = vectors @ known.neutral.T
            reached[:, present] = cosines.mean(axis=1), cosines.std(axis=1)
        parts.append(reached)
    found = np.concatenate([known.ids, missing])
    order = np.argsort(found)
    new = Cutoffs(found[order], np.concatenate(parts, axis=1)[:, order], known.neutral)
    with contextlib.suppress(OutputError):  # of an index that is only read
        _write(path, key, new)
    return new


def extend_cutoffs(store: Store, space: Space) -> None:
    """Those of the newest vectors, so that the next search finds them; of a model without texts, none."""
    if "text" in space.model.modalities:
        with store.reading() as rows:
            found = rows.execute("SELECT id FROM vectors WHERE space = ? ORDER BY id", (space.id,)).fetchall()
        cutoffs_of(store, space, np.array(found, np.int64).reshape(-1))


def least_of_example(cosines: npt.NDArray[np.float32]) -> float:
    """The cosine from which on pictures or sounds (N,) are like an example."""
    usual = float(np.quantile(cosines, 0.25)) if len(cosines) >= FEW else USUAL_LIKENESS
    return usual + EXAMPLE_SHARE * (1 - usual)


def _none(space: Space) -> Cutoffs:
    return Cutoffs(np.zeros(0, np.int64), np.zeros((2, 0), np.float32), space.vectors_of_text(NEUTRAL))


def _path(store: Store, space: Space) -> Path:
    return store.path / f"cutoffs-{space.id}.npz"


def _key(store: Store, space: Space) -> str:
    """What the file was made of: this index, this space, these texts."""
    with store.reading() as rows:
        index = rows.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
        fingerprint = rows.execute("SELECT fingerprint FROM spaces WHERE id = ?", (space.id,)).fetchone()
    return hashlib.sha256(repr((index, fingerprint, NEUTRAL)).encode()).hexdigest()


def _read(path: Path, key: str) -> Cutoffs | None:
    """What a file has; None where there is none that fits."""
    net = foreign(DamagedError, f"{path} cannot be read", "expected cutoffs. Delete it.")
    with contextlib.suppress(DamagedError, OSError), path.open("rb") as file, net, np.load(file) as arrays:
        if str(arrays["key"]) == key and arrays["reached"].shape == (2, len(arrays["ids"])):
            return Cutoffs(arrays["ids"], arrays["reached"], arrays["neutral"])
    return None


def _write(path: Path, key: str, cutoffs: Cutoffs) -> None:
    with new_file(path) as new, new.open("wb") as file:
        np.savez(file, key=np.array(key), ids=cutoffs.ids, reached=cutoffs.reached, neutral=cutoffs.neutral)
