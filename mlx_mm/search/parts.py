"""What a merge takes: an index, such as that of a shard, read as what files and contents it has."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from mlx_mm.errors import StoreError
from mlx_mm.search.sharding import Shard, shard_of
from mlx_mm.search.spaces import SpaceRow, leaving_of, space_rows
from mlx_mm.search.store import Store
from mlx_mm.search.thumbnail_files import thumbnail_path
from mlx_mm.search.writing import FACTS

Span = tuple[float, float] | None


class RootRow(NamedTuple):
    """A folder of a part, and the device that it was on there."""

    path: bytes
    device: int | None
    options: str
    scanned_at: float | None


class Vectored(NamedTuple):
    """The vectors of a content in the space of a fingerprint, as the store has them, one for each part."""

    fingerprint: str
    stored: list[bytes]
    spans: list[Span]


class ContentRow(NamedTuple):
    """facts: as `writing.FACTS` names them, the digest first. tags: labels with their scores."""

    facts: tuple[object, ...]
    vectors: list[Vectored]
    tags: list[tuple[str, float]]


class FileRow(NamedTuple):
    """A file that was there, or could not be read (error). status: size, time, device and inode."""

    root: bytes
    path: bytes
    status: tuple[int, int, int, int]
    digest: bytes | None
    error: str | None


class Part(Protocol):
    """What is taken in. Each method reads anew; contents come before the files that have them."""

    name: str
    shard: Shard | None
    files_count: int

    def spaces(self) -> list[SpaceRow]: ...
    def roots(self) -> list[RootRow]: ...
    def contents(self) -> Iterator[ContentRow]: ...
    def files(self) -> Iterator[FileRow]: ...
    def kept_apart(self) -> list[tuple[bytes, bytes]]: ...
    def thumbnails(self) -> Iterator[tuple[bytes, bytes]]: ...


class IndexPart:
    """An index as a part, within one view of it."""

    def __init__(self, store: Store, rows: sqlite3.Connection):
        self.name = str(store.path)
        self.path = store.path
        self.rows = rows
        self.shard = shard_of(rows)
        self.files_count: int = rows.execute(f"SELECT count(*) FROM files WHERE {_THERE}").fetchone()[0]
        if leaving_of(rows):
            raise StoreError(
                f"All vectors of {store.path} are being made anew; expected them done. Finish that: mlx_mm index "
                f"--index {store.path}."
            )

    def spaces(self) -> list[SpaceRow]:
        return list(space_rows(self.rows).values())

    def roots(self) -> list[RootRow]:
        found = self.rows.execute("SELECT path, device, options, scanned_at FROM roots ORDER BY path")
        return [RootRow(*row) for row in found]

    def contents(self) -> Iterator[ContentRow]:
        names = {number: row.fingerprint for number, row in space_rows(self.rows).items()}
        for number, *facts in self.rows.execute(
            f"SELECT id, {', '.join(FACTS)} FROM contents WHERE live > 0 ORDER BY id"
        ):
            vectors: dict[int, Vectored] = {}
            for space, start, stop, vector in self.rows.execute(
                "SELECT space, start, stop, vector FROM vectors WHERE content = ? ORDER BY space, part", (number,)
            ):
                one = vectors.setdefault(space, Vectored(names[space], [], []))
                one.stored.append(vector)
                one.spans.append(None if start is None else (start, stop))
            tags = self.rows.execute("SELECT label, score FROM tags WHERE content = ?", (number,)).fetchall()
            yield ContentRow(tuple(facts), list(vectors.values()), tags)

    def files(self) -> Iterator[FileRow]:
        for root, path, *status, digest, error in self.rows.execute(
            "SELECT roots.path, files.path, files.size, mtime_ns, files.device, inode, digest, error FROM files "
            "JOIN roots ON roots.id = files.root LEFT JOIN contents ON contents.id = files.content "
            f"WHERE {_THERE} ORDER BY files.id"
        ):
            size, mtime, device, inode = status
            yield FileRow(root, path, (size, mtime, device, inode), digest, error)

    def kept_apart(self) -> list[tuple[bytes, bytes]]:
        return self.rows.execute("SELECT a, b FROM kept_apart").fetchall()

    def thumbnails(self) -> Iterator[tuple[bytes, bytes]]:
        for (digest,) in self.rows.execute("SELECT digest FROM contents WHERE live > 0"):
            with contextlib.suppress(OSError):  # they are derived
                yield digest, thumbnail_path(self.path, digest).read_bytes()


_THERE = "state IN ('here', 'error')"


@contextlib.contextmanager
def open_index_part(path: Path, wait: float) -> Iterator[IndexPart]:
    """An index that nobody refreshes meanwhile. wait: seconds for who does. Raises StoreError for what is none,
    BusyError."""
    with contextlib.closing(Store(path)) as store:
        if not store.exists():
            raise StoreError(
                f"{path} is no index; expected one, or a Parquet file of the same kind. Check its name."
                if os.path.lexists(path)
                else f"There is no {path}; expected an index, or a Parquet file of the same kind. Check its name."
            )
        with contextlib.nullcontext() if store.read_only else store.writer(wait), store.reading() as rows:
            yield IndexPart(store, rows)
