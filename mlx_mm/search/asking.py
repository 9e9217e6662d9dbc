"""What is asked of an index, and the vectors of it in each of its spaces."""

import math
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np

from mlx_mm.errors import InputError, MediaError, ModalityError, is_number, shown
from mlx_mm.processing.arguments import listed, strings
from mlx_mm.processing.audio import AudioSource
from mlx_mm.processing.image import ImageSource
from mlx_mm.processing.vectors import Vectors, unit_length
from mlx_mm.search.spaces import Space
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import STORED

Example: TypeAlias = ImageSource | AudioSource
PartKind: TypeAlias = Literal["words", "example"]

MOST_CHARACTERS = 10_000  # of words: twenty pages, of which models read the first at most
MOST_PARTS = 100


@dataclass(frozen=True)
class Part:
    """One thing that is asked. weight: below 0 where it is not wanted."""

    kind: PartKind
    value: object
    weight: float

    @property
    def noun(self) -> str:
        """As a message calls it."""
        return "words" if self.kind == "words" else "such an example"


@dataclass(frozen=True)
class Query:
    """The parts of a query; none of them where only filters are asked."""

    parts: tuple[Part, ...] = ()

    @classmethod
    def of(
        cls,
        words: str | Iterable[str] = (),
        like: Example | Sequence[Example] = (),
        unlike: Example | Sequence[Example] = (),
        without: str | Iterable[str] = (),
        weights: Sequence[float] | None = None,
    ) -> "Query":
        """From what users give. weights: of each of `words` and then of each of `like`, 1 by default.

        Raises InputError for words that are empty or too long, and for weights that are not as many or not above 0.
        """
        texts, against = _words("words", words), _words("without", without)
        examples, strangers = _examples(like), _examples(unlike)
        wanted: list[tuple[PartKind, object]] = [
            *(("words", text) for text in texts),
            *(("example", example) for example in examples),
        ]
        unwanted: list[tuple[PartKind, object]] = [
            *(("words", text) for text in against),
            *(("example", example) for example in strangers),
        ]
        if len(wanted) + len(unwanted) > MOST_PARTS:
            raise InputError(
                f"The query has {len(wanted) + len(unwanted)} parts; expected {MOST_PARTS} at most. Leave some out."
            )
        signed = [*_weights(weights, len(wanted)), *[-1.0] * len(unwanted)]
        return cls(
            tuple(Part(kind, value, weight) for (kind, value), weight in zip(wanted + unwanted, signed, strict=True))
        )


def vectors_of(store: Store, spaces: Sequence[Space], part: Part) -> list[Vectors | None]:
    """The unit vector (dim,) of a part in each space, None in those whose models cannot take it.

    An example that is a path in the index has its vector there, and no model runs. Raises MediaError for one that
    nobody can read, ModalityError where no model takes such a thing.
    """
    if part.kind == "words":
        takers = [space if "text" in space.model.modalities else None for space in spaces]
        found = [None if space is None else space.vectors_of_text([str(part.value)])[0] for space in takers]
    else:
        found = _vectors_of_example(store, spaces, part.value)
    if spaces and all(vector is None for vector in found):
        raise ModalityError(
            f"No model of the index takes {part.noun}; expected one that does. Refresh it with another, or leave "
            "that out."
        )
    return found


def _vectors_of_example(store: Store, spaces: Sequence[Space], example: object) -> list[Vectors | None]:
    """What one model cannot read as a picture, another may as a sound."""
    found, errors = list[Vectors | None](), list[MediaError]()
    for space in spaces:
        vector = _stored(store, space, example)
        if vector is None:
            try:
                vector = _encoded(space, example)
            except MediaError as error:
                errors.append(error)
        found.append(vector)
    if errors and all(vector is None for vector in found):
        raise errors[0]
    return found


def _encoded(space: Space, example: object) -> Vectors | None:
    """By the model; None for samples where it takes pictures, and for an array where it takes sounds."""
    if "image" in space.kinds and not isinstance(example, tuple):
        return space.vectors_of_images([cast(ImageSource, example)])[0]
    if "audio" in space.kinds and not isinstance(example, np.ndarray):
        return space.vectors_of_audio([cast(AudioSource, example)])[0]
    return None


def _stored(store: Store, space: Space, example: object) -> Vectors | None:
    """The vector of a file that the index has as it is now; of several parts, their mean."""
    if not isinstance(example, str | os.PathLike) or not isinstance(os.fspath(example), str):
        return None
    with store.reading() as rows:
        content = content_of(rows, cast(str, os.fspath(example)))
        blobs = rows.execute(
            "SELECT vector FROM vectors WHERE content = ? AND space = ? ORDER BY part", (content, space.id)
        ).fetchall()
    if not blobs:
        return None
    vectors = np.frombuffer(b"".join(blob for (blob,) in blobs), STORED).reshape(len(blobs), -1)
    return unit_length(vectors.astype(np.float32).mean(axis=0))


def content_of(rows: sqlite3.Connection, path: str) -> int | None:
    """The content of a file in the index; None where it is not there, or has changed since. A file that cannot be
    looked at, such as one of a disk that is away, is held to be as it was."""
    try:
        there = os.stat(path)
    except (OSError, ValueError):
        there = None
    tops = rows.execute("SELECT id, path FROM roots").fetchall()
    for place in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))) if "\0" not in path else ():
        for root, top in tops:
            start = os.path.join(top, b"")
            name = os.fsencode(place)
            row = (
                name.startswith(start)
                and rows.execute(
                    "SELECT content, size, mtime_ns FROM files WHERE root = ? AND path = ? AND state = 'here'",
                    (root, name.removeprefix(start)),
                ).fetchone()
            )
            if row and (there is None or (there.st_size, there.st_mtime_ns) == row[1:]):
                return int(row[0])
    return None


def _words(name: str, given: str | Iterable[str]) -> list[str]:
    texts = strings(given, "Text")[0]
    for text in texts:
        if not text.strip():
            raise InputError(f"{name} is {shown(text)}; expected some text. Leave it out to ask for filters alone.")
        if len(text) > MOST_CHARACTERS:
            raise InputError(
                f"{name} has {len(text):,} characters; expected {MOST_CHARACTERS:,} at most. Shorten it to what is to "
                "be seen or heard."
            )
    return texts


def _examples(given: Example | Sequence[Example]) -> list[object]:
    pair = isinstance(given, tuple) and len(given) == 2 and is_number(given[1])
    return [given] if pair else listed(given, batch_axes=4)


def _weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """One for each part that is wanted."""
    if weights is None:
        return [1.0] * count
    found = listed(weights)
    if len(found) != count or not all(is_number(weight) and 0 < weight < math.inf for weight in found):
        raise InputError(
            f"weights is {shown(weights)}; expected {count} numbers above 0, of the words and then of the examples. "
            "Leave it out to weigh all alike."
        )
    return [float(cast(float, weight)) for weight in found]
