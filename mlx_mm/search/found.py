"""From what was found to what a user is shown: paths, copies, dates, sizes and tags of contents."""

import json
import os
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mlx_mm.search.filters import EPOCH
from mlx_mm.search.records import Hit, MediaKind


@dataclass(frozen=True)
class Match:
    """A content that was found, with what is known of how well it fits. vector: which of its vectors fits best."""

    content: int
    score: float | None = None
    z: float | None = None
    strong: bool = True
    vector: int | None = None


@dataclass
class File:
    """A content of which a file is there. moment: when it was taken or changed, in seconds of the wall clock."""

    digest: str
    kind: MediaKind
    width: int | None
    height: int | None
    paths: list[str] = field(default_factory=list)
    moment: datetime | None = None
    tags: list[str] = field(default_factory=list)


def files_of(
    connection: sqlite3.Connection, contents: Collection[int], wanted: Collection[int] = ()
) -> dict[int, File]:
    """Of each content, if a file that holds it is there. wanted: ids of files whose paths come first; of the others,
    and of several, the shortest does."""
    asked = (json.dumps([int(content) for content in contents]),)
    found: dict[int, File] = {}
    rows = connection.execute(
        "SELECT c.id, c.digest, c.kind, c.width, c.height, c.taken_at, f.id, f.path, r.path, f.mtime_ns "
        "FROM contents c JOIN files f ON f.content = c.id JOIN roots r ON r.id = f.root "
        "WHERE f.state = 'here' AND c.id IN (SELECT value FROM json_each(?))",
        asked,
    )
    ranked: dict[int, list[tuple[bool, int, str]]] = {}
    for content, digest, kind, width, height, taken_at, file, path, root, mtime_ns in rows:
        one = found.setdefault(content, File(digest.hex(), kind, width, height))
        name = os.fsdecode(os.path.join(root, path))
        ranked.setdefault(content, []).append((file not in wanted, len(name), name))
        moment = _wall_clock(mtime_ns / 1e9) if taken_at is None else _moment(taken_at)
        one.moment = moment if one.moment is None or moment is None else min(one.moment, moment)
    for content, names in ranked.items():
        found[content].paths = [name for *_, name in sorted(names)]
    labels = connection.execute(
        "SELECT content, label FROM tags WHERE content IN (SELECT value FROM json_each(?)) ORDER BY score DESC, label",
        asked,
    )
    for content, label in labels:
        if content in found:
            found[content].tags.append(label)
    return found


def times_of(connection: sqlite3.Connection, vectors: Collection[int]) -> dict[int, tuple[float | None, float | None]]:
    """When the parts of these vectors start and stop, in seconds."""
    asked = (json.dumps([int(vector) for vector in vectors]),)
    rows = connection.execute("SELECT id, start, stop FROM vectors WHERE id IN (SELECT value FROM json_each(?))", asked)
    return {vector: (start, stop) for vector, start, stop in rows}


def hits_of(connection: sqlite3.Connection, matches: Sequence[Match], files: dict[int, File]) -> list[Hit]:
    """In that order; contents of which no file is there any more are left out."""
    times = times_of(connection, [match.vector for match in matches if match.vector is not None])
    hits = []
    for match in matches:
        if (file := files.get(match.content)) is not None:
            start, stop = times.get(match.vector, (None, None)) if match.vector is not None else (None, None)
            hits.append(
                Hit(
                    path=file.paths[0],
                    score=match.score,
                    z=match.z,
                    strong=match.strong,
                    kind=file.kind,
                    content=file.digest,
                    copies=tuple(file.paths[1:]),
                    start=start,
                    stop=stop,
                    taken_at=None if file.moment is None else file.moment.isoformat(timespec="seconds"),
                    width=file.width,
                    height=file.height,
                    tags=tuple(file.tags),
                )
            )
    return hits


def _moment(seconds: float) -> datetime | None:
    try:
        return EPOCH + timedelta(seconds=seconds)
    except OverflowError:  # of a damaged file
        return None


def _wall_clock(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds)
    except (OverflowError, OSError, ValueError):  # beyond what the system can say
        return None
