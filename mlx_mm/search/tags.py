"""Labels that a model holds to fit, kept in the index."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import get_args

import mlx.core as mx
import numpy as np

from mlx_mm.backend.streams import compute
from mlx_mm.classify import check_labels, encode_labels
from mlx_mm.errors import InputError, is_number, shown
from mlx_mm.models.contracts import Encoder
from mlx_mm.processing.arguments import strings
from mlx_mm.processing.vectors import Vectors
from mlx_mm.progress import Progress, progressing
from mlx_mm.search import words
from mlx_mm.search.records import MediaKind
from mlx_mm.search.spaces import Space, Spaces
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import STORED

# A probability, as `classify` gives it: more likely than not.
LEAST = 0.5
MOST_CHARACTERS = 200  # of a label
OF_KIND = "FROM vectors v JOIN contents c ON c.id = v.content WHERE v.space = ? AND c.kind = ?"
ROWS = 1024  # vectors at a time: with 10,000 labels, 40 MB of scores


def tag(
    store: Store, spaces: Spaces, labels: Sequence[str], least: float | None, kind: MediaKind, progress: Progress
) -> dict[str, int]:
    """Give each content of a kind the labels that fit it, in place of what these labels were given to before; how many
    files each label has.

    least: of the score, which is that of `classify`: of SigLIP how likely a label fits, of CLIP and CLAP how likely it
    fits best of all of these. A sound or a video has a label where a part of it has. Other labels stay.
    Raises InputError for labels that are none, empty or too long, StoreError without files of this kind.
    """
    labels, least = _labels(labels), _least(least)
    if kind not in get_args(MediaKind):
        raise InputError(f"kind is {shown(kind)}; expected one of {', '.join(get_args(MediaKind))}. Choose one.")
    space = spaces.of(kind)
    model, processor = space.opened("text")
    check_labels(model, labels)
    if model.kind != "encoder":
        raise InputError(f"{space.name} gives no vectors of texts; expected a model that does. Choose another.")
    targets = encode_labels(model, processor, labels)
    given: dict[tuple[int, str], float] = {}
    with store.writer(), store.writing() as rows:
        total = rows.execute(f"SELECT COUNT(*) {OF_KIND}", (space.id, kind)).fetchone()[0]
        with progressing(progress, total, "tagging", "part") as advance:
            for contents, vectors in _vectors(rows, space, kind):
                scores = _score(model, vectors, targets)
                for row, column in np.argwhere(scores >= least).tolist():
                    key, score = (contents[row], labels[column]), float(scores[row, column])
                    given[key] = max(score, given.get(key, 0.0))
                advance(len(contents))
        return _replace(rows, kind, labels, given)


def set_tags(store: Store, content: int, labels: Sequence[str]) -> None:
    """Give a content these labels, in place of all that it has. Raises InputError for labels that are none."""
    found = _checked(labels) if labels else []
    with store.writer(), store.writing() as rows:
        rows.execute("DELETE FROM tags WHERE content = ?", (content,))
        rows.executemany("INSERT INTO tags(content, label, score) VALUES (?, ?, 1)", ((content, one) for one in found))
        for (file,) in rows.execute("SELECT id FROM files WHERE content = ?", (content,)).fetchall():
            words.put_tags(rows, file, found)


def _labels(labels: Sequence[str]) -> list[str]:
    """Each once, and at least one."""
    found = _checked(labels)
    if not found:
        raise InputError("There are no labels; expected one or more. Give a list of words.")
    return found


def _checked(labels: Sequence[str]) -> list[str]:
    """Each once, without blanks around it."""
    found = list(dict.fromkeys(label.strip() for label in strings(labels, "Label")[0]))
    for label in found:
        if not label or len(label) > MOST_CHARACTERS or not label.isprintable():
            raise InputError(
                f"A label is {shown(label)}; expected 1 to {MOST_CHARACTERS} printable characters. Correct it or "
                "leave it out."
            )
    return found


def _least(least: float | None) -> float:
    if least is None:
        return LEAST
    if not is_number(least) or not 0 < least <= 1:
        raise InputError(f"least is {shown(least)}; expected a probability, above 0 and at most 1. Leave it out.")
    return float(least)


def _vectors(rows: sqlite3.Connection, space: Space, kind: MediaKind) -> Iterator[tuple[list[int], Vectors]]:
    """Contents of a kind with their vectors, some at a time."""
    found = rows.execute(f"SELECT v.content, v.vector {OF_KIND}", (space.id, kind))
    while some := found.fetchmany(ROWS):
        blobs = b"".join(blob for _, blob in some)
        yield [content for content, _ in some], np.frombuffer(blobs, STORED).reshape(len(some), -1).astype(np.float32)


def _score(model: Encoder, vectors: Vectors, targets: Vectors) -> Vectors:
    return compute(lambda: np.array(model.score(mx.array(vectors), mx.array(targets))), model)


def _replace(
    rows: sqlite3.Connection, kind: MediaKind, labels: Sequence[str], given: dict[tuple[int, str], float]
) -> dict[str, int]:
    """Put the labels of contents of a kind in the place of those that were there; how many files have each."""
    asked = json.dumps(labels)
    of_kind = "content IN (SELECT id FROM contents WHERE kind = ?) AND label IN (SELECT value FROM json_each(?))"
    before = rows.execute(f"SELECT DISTINCT content FROM tags WHERE {of_kind}", (kind, asked)).fetchall()
    rows.execute(f"DELETE FROM tags WHERE {of_kind}", (kind, asked))
    rows.executemany(
        "INSERT INTO tags(content, label, score) VALUES (?, ?, ?)",
        ((content, label, score) for (content, label), score in given.items()),
    )
    counts = dict.fromkeys(labels, 0)
    for content in sorted({row[0] for row in before} | {content for content, _ in given}):
        now = [
            label for (label,) in rows.execute("SELECT label FROM tags WHERE content = ? ORDER BY label", (content,))
        ]
        for file, state in rows.execute("SELECT id, state FROM files WHERE content = ?", (content,)).fetchall():
            words.put_tags(rows, file, now)
            for label in now if state == "here" else ():
                if label in counts:
                    counts[label] += 1
    return counts
