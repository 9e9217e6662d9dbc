"""What of all vectors is kept ready for a scan: one byte a number. Derived from the store, and rebuilt at any time.

Of each space there are two files, which only grow as long as its generation stays: codes-SPACE-GENERATION-INDEX.i8,
rows of bytes, and slots-… with the id, the content, the scale and the error of each row. What both have, and SQLite
confirms, is valid. Bytes come before slots, and what is valid is never cut off, so that who has them mapped can read.
"""

import contextlib
import functools
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.backend import scan
from mlx_mm.errors import StoreError
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.sqlite_errors import meaning
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import STORED

Bytes: TypeAlias = npt.NDArray[np.int8]
Ids: TypeAlias = npt.NDArray[np.int64]
Slots: TypeAlias = npt.NDArray[np.void]  # of SLOT

SLOT = np.dtype([("id", "<i8"), ("content", "<i8"), ("scale", "<f4"), ("error", "<f4")])
SCALE = 127
AT_ONCE = 8192  # vectors that are read, and written, at once
MUCH = 4096  # missing vectors, from which on a reader writes them for others
PROBES = 8  # rows of the files that are held against the store
LONGEST = 1.001  # of a vector of length 1 in float16
SINGLE = 2.0**-20  # relative; more than float32 loses of an error's length


@dataclass(frozen=True)
class Codes:
    """The vectors of a space as bytes: slots (N,) in the order of ids, and blocks with as many rows (n, width)."""

    space: int
    dim: int
    generation: int
    slots: Slots
    blocks: tuple[Bytes, ...]

    def __len__(self) -> int:
        return len(self.slots)

    @functools.cached_property
    def ids(self) -> Ids:
        """(N,) of the vectors in the store, ascending."""
        return np.ascontiguousarray(self.slots["id"])

    @functools.cached_property
    def contents(self) -> Ids:
        """(N,) what each is a vector of."""
        return np.ascontiguousarray(self.slots["content"])

    @functools.cached_property
    def scales(self) -> Vectors:
        """(N,) by which rows of bytes are multiplied."""
        return np.ascontiguousarray(self.slots["scale"])

    @functools.cached_property
    def errors(self) -> Vectors:
        """(N,) how far vectors are from their rows: no score with a query of length 1 is wrong by more."""
        return np.ascontiguousarray(self.slots["error"])

    @functools.cached_property
    def error(self) -> float:
        """No score with any query of length 1 is wrong by more."""
        rounding = scan.greatest_deviation(width_of(self.dim))
        greatest = float(self.errors.max(initial=0))
        return greatest * (1 + rounding) + LONGEST * rounding

    def part(self, start: int, count: int) -> "Codes":
        """Those of `count` vectors from one on, or fewer."""
        blocks, before = list[Bytes](), 0
        for block in self.blocks:
            blocks.append(block[max(0, start - before) : max(0, start + count - before)])
            before += len(block)
        return Codes(self.space, self.dim, self.generation, self.slots[start : start + count], tuple(blocks))

    def scores(self, queries: Vectors) -> Vectors:
        """Products (Q, N) of queries (Q, dim) with all vectors, as exact as `bounds` says."""
        wide = self._widened(queries)
        found = np.empty((len(wide), len(self)), np.float32)
        start = 0
        for block in self.blocks:
            found[:, start : start + len(block)] = scan.products(block, wide)
            start += len(block)
        found *= self.scales
        return found

    def bounds(self, queries: Vectors, weights: Vectors) -> Vectors:
        """(N,): the sum of `scores`, weighted by (Q,), is no further from that of the vectors themselves."""
        wide = self._widened(queries)
        rounding = float(np.abs(weights) @ scan.deviations(wide))
        length = float(np.linalg.norm(weights @ wide))
        bounds: Vectors = self.errors * np.float32(length + rounding) + np.float32(LONGEST * rounding)
        return bounds

    def _widened(self, queries: Vectors) -> Vectors:
        return np.pad(np.atleast_2d(queries).astype(np.float32), ((0, 0), (0, width_of(self.dim) - self.dim)))


@dataclass(frozen=True)
class _Kept:
    """What a store keeps: all codes of vectors up to the newest, of whichever space that is."""

    newest: int
    codes: Codes


def open_codes(store: Store, space: int) -> Codes:
    """Those of a space, as of the view that is read: what is missing of the derived files is computed."""
    with store.reading() as rows:
        found = rows.execute("SELECT dim, generation FROM spaces WHERE id = ?", (space,)).fetchone()
        if found is None:
            raise StoreError(f"{store.path} has no space number {space}; expected one that it has. Refresh it.")
        dim, generation = found
        newest: int = rows.execute("SELECT coalesce(max(id), 0) FROM vectors").fetchone()[0]
        kept, base = store.kept.get(space), None
        if isinstance(kept, _Kept) and (kept.codes.dim, kept.codes.generation) == found:
            base = kept.codes
            if newest <= kept.newest:  # below it where another thread has seen more than this view
                count = int(np.searchsorted(base.ids, newest, "right"))
                return base if count == len(base) else base.part(0, count)
        files = Files.of(store, rows, space, dim, generation)
        mapped = files.read(rows)
        if base is None or len(base) < len(mapped):
            base = mapped
        missing = rows.execute("SELECT count(*) FROM vectors WHERE space = ? AND id > ?", (space, _last(base)))
        if missing.fetchone()[0] >= MUCH and not store.read_only:
            with contextlib.suppress(StoreError, OSError), store.writer():  # else they are computed for this time
                files.extend(rows)
                base = files.read(rows)
        codes = _joined(base, list(_encoded(rows, space, dim, _last(base))))
        store.kept[space] = _Kept(newest, codes)
        return codes


def extend_codes(store: Store, space: int) -> None:
    """Add the newest vectors to the derived files, and take away those of older generations; the caller is the writer.
    Raises OutputError where the disk is full."""
    with store.reading() as rows:
        found = rows.execute("SELECT dim, generation FROM spaces WHERE id = ?", (space,)).fetchone()
        if found is None:
            return
        files = Files.of(store, rows, space, *found)
        try:
            files.extend(rows)
        except OSError as error:
            kind, says = meaning(error)
            raise (kind or StoreError)(f"{files.codes}: {says}") from error


def extend_all(store: Store) -> None:
    """The same for all spaces."""
    with store.reading() as rows:
        spaces = [row[0] for row in rows.execute("SELECT id FROM spaces")]
    for space in spaces:
        extend_codes(store, space)


@dataclass(frozen=True)
class Files:
    """The derived files of one generation of a space."""

    space: int
    dim: int
    generation: int
    codes: Path
    slots: Path

    @classmethod
    def of(cls, store: Store, rows: sqlite3.Connection, space: int, dim: int, generation: int) -> "Files":
        """Where they are."""
        index = rows.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0]
        names = (store.path / f"{what}-{space}-{generation}-{index}.i8" for what in ("codes", "slots"))
        return cls(space, dim, generation, *names)

    def read(self, rows: sqlite3.Connection) -> Codes:
        """What of them is valid, mapped into memory."""
        found = self.mapped()
        return found.part(0, self._confirmed(rows, found.slots, found.blocks[0]))

    def mapped(self) -> Codes:
        """What both of them have."""
        width = width_of(self.dim)
        slots, codes = np.empty(0, SLOT), np.empty((0, width), np.int8)
        with contextlib.suppress(OSError, ValueError):  # such as of files that are missing, or too short
            count = min(self.slots.stat().st_size // SLOT.itemsize, self.codes.stat().st_size // width)
            if count:
                codes = np.memmap(self.codes, np.int8, "r", shape=(count, width))
                slots = np.fromfile(self.slots, SLOT, count)
        return Codes(self.space, self.dim, self.generation, slots, (codes[: len(slots)],))

    def extend(self, rows: sqlite3.Connection) -> None:
        """Write what is missing; the caller is the writer. Raises OSError."""
        found, valid = self.mapped(), self.read(rows)
        if not len(valid):
            self._begin(rows)
            valid = self.read(rows)
        elif len(valid) < len(found):  # another writer has come further than this view
            return
        self._append(_encoded(rows, self.space, self.dim, _last(valid)), len(valid))
        self._remove_others()

    def _begin(self, rows: sqlite3.Connection) -> None:
        """New files, with what stays of those of the generation before: to copy rows takes a tenth of the time."""
        for path in (self.slots, self.codes):
            path.unlink(missing_ok=True)
        older = self._older()
        if older is None:
            return
        found = older.mapped()
        question = "SELECT id FROM vectors WHERE space = ? AND id <= ?"  # which an index answers alone
        stay = np.array([row[0] for row in rows.execute(question, (self.space, _last(found)))], np.int64)
        kept = np.flatnonzero(np.isin(found.ids, stay))
        if len(kept) == len(stay):
            parts = (kept[start : start + AT_ONCE] for start in range(0, len(kept), AT_ONCE))
            self._append(((found.slots[part], found.blocks[0][part]) for part in parts), 0)

    def _append(self, more: Iterable[tuple[Slots, Bytes]], count: int) -> None:
        """Write rows behind the first `count`."""
        with self.codes.open("ab") as codes, self.slots.open("ab") as slots:
            codes.truncate(count * width_of(self.dim))
            slots.truncate(count * SLOT.itemsize)
            for some, rows_of_bytes in more:
                for file, values in ((codes, rows_of_bytes), (slots, some)):
                    file.write(values.tobytes())
                    file.flush()
                    os.fsync(file.fileno())

    def _older(self) -> "Files | None":
        """The newest of those of this space and this index before this generation."""
        index = self.codes.stem.split("-")[-1]
        names = [path.stem.split("-") for path in self.codes.parent.glob(f"codes-{self.space}-*-{index}.i8")]
        before = [int(name[2]) for name in names if name[2].isdigit() and int(name[2]) < self.generation]
        if not before:
            return None
        paths = (self.codes.with_name(f"{what}-{self.space}-{max(before)}-{index}.i8") for what in ("codes", "slots"))
        return Files(self.space, self.dim, max(before), *paths)

    def _confirmed(self, rows: sqlite3.Connection, slots: Slots, codes: Bytes) -> int:
        """How many rows there are if the store has what some of them have, the last one among them; else none."""
        if not len(slots):
            return 0
        newest = rows.execute("SELECT coalesce(max(id), 0) FROM vectors").fetchone()[0]
        count = int(np.searchsorted(slots["id"], newest, "right"))  # the others are newer than the view
        for place in np.unique(np.linspace(0, count - 1, PROBES).astype(int)) if count else ():
            found = rows.execute(
                "SELECT content, vector FROM vectors WHERE id = ? AND space = ?", (int(slots["id"][place]), self.space)
            ).fetchone()
            if found is None or found[0] != slots["content"][place] or len(found[1]) != STORED.itemsize * self.dim:
                return 0
            _, _, expected = encode(np.frombuffer(found[1], STORED)[None].astype(np.float32))
            if not np.array_equal(expected[0], codes[place]):
                return 0
        return count

    def _remove_others(self) -> None:
        """Those of older generations of this space, and of other indexes; who has them mapped can go on."""
        index = self.codes.stem.split("-")[-1]
        for path in self.codes.parent.glob("*-*-*-*.i8"):
            _, space, generation, other = path.stem.split("-")
            if other != index or (
                space == str(self.space) and generation.isdigit() and int(generation) < self.generation
            ):
                path.unlink(missing_ok=True)


def width_of(dim: int) -> int:
    """Bytes of a row."""
    return -(-dim // scan.STEP) * scan.STEP


def encode(vectors: Vectors) -> tuple[Vectors, Vectors, Bytes]:
    """(N, dim) as scales (N,), errors (N,) and rows of bytes (N, width). What is not finite is 0."""
    if not np.isfinite(vectors).all():
        vectors = np.nan_to_num(vectors, nan=0, posinf=0, neginf=0)
    scales = np.abs(vectors).max(axis=1, initial=0) / np.float32(SCALE)
    whole = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None])
    errors = np.linalg.norm(vectors - whole * scales[:, None], axis=1) * (1 + SINGLE) + SINGLE
    rows = np.zeros((len(vectors), width_of(vectors.shape[1])), np.int8)
    rows[:, : vectors.shape[1]] = whole
    return scales.astype(np.float32), errors.astype(np.float32), rows


def _encoded(rows: sqlite3.Connection, space: int, dim: int, after: int) -> Iterator[tuple[Slots, Bytes]]:
    """Slots and bytes of the vectors of a space whose ids are above `after`, in the order of ids."""
    cursor = rows.execute(
        "SELECT id, content, vector FROM vectors WHERE space = ? AND id > ? ORDER BY id", (space, after)
    )
    size = dim * STORED.itemsize
    while some := cursor.fetchmany(AT_ONCE):
        slots = np.empty(len(some), SLOT)
        slots["id"], slots["content"] = [row[0] for row in some], [row[1] for row in some]
        plain = b"".join(row[2] if len(row[2]) == size else bytes(size) for row in some)  # `check` tells of others
        slots["scale"], slots["error"], codes = encode(np.frombuffer(plain, STORED).reshape(-1, dim).astype(np.float32))
        yield slots, codes


def _joined(base: Codes, more: list[tuple[Slots, Bytes]]) -> Codes:
    if not more:
        return base
    slots = np.concatenate([base.slots, *(some for some, _ in more)])
    tail = np.concatenate([codes for _, codes in more])
    return Codes(base.space, base.dim, base.generation, slots, (*base.blocks, tail))


def _last(codes: Codes) -> int:
    return int(codes.ids[-1]) if len(codes) else 0
