"""What an index has, as a whole: all contents in columns, what they can be filtered by, and what could not be read."""

import json
import os
import sqlite3
from dataclasses import dataclass

from mlx_mm.search.filters import MOMENT, keep
from mlx_mm.search.records import Where
from mlx_mm.search.store import Store

MOST_NAMES = 200  # of cameras, folders and labels each


@dataclass(frozen=True)
class Outline:
    """Contents that are there, the newest first; the n-th of each column is of the n-th one.

    ids: their numbers in the index. names: of their files, without folders. contents: their digests. kinds: a letter
    each, i, a or v. ratios: width by height, 0.0 where it is not known. moments: seconds since 1970 of the wall clock,
    when they were taken or changed.
    """

    ids: list[int]
    names: list[str]
    contents: list[str]
    kinds: str
    ratios: list[float]
    moments: list[int]


@dataclass(frozen=True)
class Facets:
    """What filters can name, with how many contents each has: kinds, cameras, folders (those of the index and the ones
    right below them), labels and years, each the most frequent first but the years, which go back. places: how many
    have one."""

    kinds: dict[str, int]
    cameras: dict[str, int]
    folders: dict[str, int]
    tags: dict[str, int]
    years: dict[str, int]
    places: int


def outline(store: Store, where: Where, top: int | None = None) -> Outline:
    """The contents that pass, or the first so many. Raises InputError as `filters.check` does."""
    with store.reading() as rows:
        passing, values = "", list[object]()
        if where != Where():
            passing = " AND f.id IN (SELECT value FROM json_each(?))"
            values = [json.dumps(keep(rows, where).files.tolist())]
        found = rows.execute(
            f"SELECT c.id, c.digest, c.kind, c.width, c.height, MIN({MOMENT}) AS moment, f.name FROM files f "
            f"JOIN contents c ON c.id = f.content WHERE f.state = 'here'{passing} GROUP BY c.id "
            "ORDER BY moment DESC, c.id LIMIT ?",
            [*values, -1 if top is None else top],
        ).fetchall()
    return Outline(
        ids=[row[0] for row in found],
        names=[row[6].rpartition("/")[2] for row in found],
        contents=[row[1].hex() for row in found],
        kinds="".join(row[2][0] for row in found),
        ratios=[round(row[3] / row[4], 3) if row[3] and row[4] else 0.0 for row in found],
        moments=[int(row[5]) for row in found],
    )


def facets(store: Store) -> Facets:
    """Counts over all contents that are there."""
    with store.reading() as rows:
        live = "FROM contents c WHERE c.live > 0"
        return Facets(
            kinds=_counts(rows, f"SELECT c.kind, COUNT(*) {live} GROUP BY 1 ORDER BY 2 DESC"),
            cameras=_counts(
                rows, f"SELECT c.camera, COUNT(*) {live} AND c.camera IS NOT NULL GROUP BY 1 ORDER BY 2 DESC"
            ),
            folders=_folders(rows),
            tags=_counts(
                rows,
                "SELECT t.label, COUNT(*) FROM tags t JOIN contents c ON c.id = t.content WHERE c.live > 0 "
                "GROUP BY 1 ORDER BY 2 DESC, 1",
            ),
            years=_counts(
                rows,
                f"SELECT strftime('%Y', {MOMENT}, 'unixepoch'), COUNT(DISTINCT c.id) FROM files f "
                "JOIN contents c ON c.id = f.content WHERE f.state = 'here' GROUP BY 1 ORDER BY 1 DESC",
            ),
            places=rows.execute(f"SELECT COUNT(c.latitude) {live}").fetchone()[0],
        )


def unreadable(store: Store, most: int) -> list[tuple[str, str]]:
    """Files that could not be read, by their paths, each with the reason; so many at most."""
    with store.reading() as rows:
        found = rows.execute(
            "SELECT r.path, f.path, f.error FROM files f JOIN roots r ON r.id = f.root WHERE f.state = 'error' "
            "ORDER BY r.path, f.path LIMIT ?",
            (most,),
        )
        return [(os.fsdecode(os.path.join(root, path)), error or "") for root, path, error in found]


def _counts(rows: sqlite3.Connection, query: str) -> dict[str, int]:
    return {str(name): count for name, count in rows.execute(f"{query} LIMIT {MOST_NAMES}") if name is not None}


def _folders(rows: sqlite3.Connection) -> dict[str, int]:
    """Of each file the folder of the index, and the one right below in which it is."""
    found: dict[str, int] = {}
    for root, path in rows.execute(
        "SELECT r.path, f.path FROM files f JOIN roots r ON r.id = f.root WHERE f.state = 'here'"
    ):
        above = os.fsdecode(root)
        first, slash, _ = os.fsdecode(path).partition("/")
        for folder in (above, os.path.join(above, first)) if slash else (above,):
            found[folder] = found.get(folder, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_NAMES])
