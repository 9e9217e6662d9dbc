"""Single items of an index: a content by its number, with its files, its thumbnail, and the labels there are."""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mlx_mm.errors import MlxMmError
from mlx_mm.search.found import files_of
from mlx_mm.search.records import MediaKind
from mlx_mm.search.store import Store
from mlx_mm.search.thumbnail_files import thumbnail_path


class NoItemError(MlxMmError):
    """An index does not have what was asked for, or has it no more."""


@dataclass(frozen=True)
class Item:
    """A content of which a file is there.

    id: its number in this index, which no other content gets. content: the digest of its bytes. paths: of its files,
    the shortest first. size: bytes. seconds: of sounds and videos. taken_at: as of `Hit`. place: degrees north and
    east, as the camera noted them.
    """

    id: int
    kind: MediaKind
    content: str
    paths: tuple[str, ...]
    size: int
    width: int | None
    height: int | None
    seconds: float | None
    taken_at: str | None
    place: tuple[float, float] | None
    camera: str | None
    tags: tuple[str, ...]


def item(store: Store, number: int) -> Item:
    """NoItemError for a number that no content has, or one of which no file is there."""
    with store.reading() as rows:
        row = rows.execute(
            "SELECT kind, digest, size, width, height, seconds, latitude, longitude, camera FROM contents WHERE id = ?",
            (number,),
        ).fetchone()
        file = files_of(rows, [number]).get(number)
    if row is None or file is None:
        raise NoItemError(f"The index has no item {number}; expected the id of one that a search gave. Search again.")
    kind, digest, size, width, height, seconds, north, east, camera = row
    return Item(
        id=number,
        kind=kind,
        content=digest.hex(),
        paths=tuple(file.paths),
        size=size,
        width=width,
        height=height,
        seconds=seconds,
        taken_at=None if file.moment is None else file.moment.isoformat(timespec="seconds"),
        place=None if north is None or east is None else (north, east),
        camera=camera,
        tags=tuple(file.tags),
    )


def ids(store: Store, contents: Collection[str]) -> dict[str, int]:
    """The number of each content that is there, by its digest."""
    with store.reading() as rows:
        found = (
            (digest, rows.execute("SELECT id FROM contents WHERE digest = ?", (bytes.fromhex(digest),)).fetchone())
            for digest in contents
        )
        return {digest: row[0] for digest, row in found if row is not None}


def original(store: Store, number: int) -> Path:
    """A file that still is what the index knows of the item, by its size and its time. Raises NoItemError."""
    with store.reading() as rows:
        known = rows.execute(
            "SELECT r.path, f.path, f.size, f.mtime_ns FROM files f JOIN roots r ON r.id = f.root "
            "WHERE f.content = ? AND f.state = 'here' ORDER BY LENGTH(f.path), f.path",
            (number,),
        ).fetchall()
    for root, name, size, mtime_ns in known:
        path = os.path.join(root, name)
        try:
            there = os.stat(path)
        except OSError:
            continue
        if stat.S_ISREG(there.st_mode) and (there.st_size, there.st_mtime_ns) == (size, mtime_ns):
            return Path(os.fsdecode(path))
    raise NoItemError(
        f"The index has no file of item {number} that is as it was; expected one. Refresh the index and search again."
    )


def thumbnail(store: Store, content: str) -> bytes:
    """A JPEG, by the digest of a content that is there. Raises NoItemError where the index has none."""
    try:
        digest = bytes.fromhex(content)
        with store.reading() as rows:
            known = rows.execute("SELECT 1 FROM contents WHERE digest = ? AND live > 0", (digest,)).fetchone()
        if known is not None:
            return thumbnail_path(store.path, digest).read_bytes()
    except (ValueError, OSError):
        pass
    raise NoItemError(
        f"The index has no thumbnail of {content[:64]!r}; expected the content of a picture. Search again."
    )


def labels(store: Store) -> dict[str, int]:
    """How many contents that are there have each label, the most frequent first."""
    with store.reading() as rows:
        return dict(
            rows.execute(
                "SELECT t.label, COUNT(*) FROM tags t JOIN contents c ON c.id = t.content WHERE c.live > 0 "
                "GROUP BY t.label ORDER BY COUNT(*) DESC, t.label"
            ).fetchall()
        )
