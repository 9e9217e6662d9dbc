"""Several indexes into one: what machines have made side by side, without running a model."""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from mlx_mm.checkpoint.atomic import new_folder
from mlx_mm.errors import InputError, OtherModelError
from mlx_mm.progress import Progress, check_progress, progressing
from mlx_mm.search.canary import check_canary
from mlx_mm.search.codes import extend_codes
from mlx_mm.search.fingerprint import in_words
from mlx_mm.search.part_files import is_part_file, open_part_files
from mlx_mm.search.parts import ContentRow, FileRow, Part, open_index_part
from mlx_mm.search.records import MergeReport
from mlx_mm.search.sharding import KEY, Shard
from mlx_mm.search.spaces import SpaceRow, add_space, leaving_of, space_rows
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import put_stored
from mlx_mm.search.thumbnail_files import keep_thumbnail, thumbnail_path
from mlx_mm.search.writing import add_content, put_file

Advance: TypeAlias = Callable[[int], None]


def merge(store: Store, paths: Sequence[Path], wait: float = 0.0, progress: Progress = False) -> MergeReport:
    """Take in all parts, as one transaction; an index that is not there yet appears when it has all of them.

    Of a content that is known nothing changes, but for vectors of a space that it has none of; of a file that is known,
    the newer one counts. Files that are gone in a part are left out.
    """
    check_progress(progress)
    begun, report = time.monotonic(), MergeReport()
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(_opened(store, path, wait)) for path in _distinct(paths)]
        report.parts, report.absent = len(parts), _absent([part.shard for part in parts])
        advance = stack.enter_context(progressing(progress, sum(part.files_count for part in parts), "merging", "file"))
        if store.exists():
            _merge_into(store, parts, wait, report, advance)
        else:
            _agreed({}, parts, store.path.name)  # before anything is made
            with new_folder(store.path, overwrite=False) as new, contextlib.closing(Store(new)) as made:
                _merge_into(made, parts, wait, report, advance)
    report.seconds = time.monotonic() - begun
    return report


def _merge_into(store: Store, parts: Sequence[Part], wait: float, report: MergeReport, advance: Advance) -> None:
    with store.writer(wait):
        with store.writing() as rows:
            known = space_rows(rows)
            leaving = leaving_of(rows)
            held = {row.fingerprint: row for number, row in known.items() if number not in leaving}
            taking = _Taking(rows, report, {row.fingerprint: number for number, row in known.items()})
            for row in _agreed(held, parts, store.path.name):
                taking.spaces[row.fingerprint] = add_space(rows, row)
            for part in parts:
                taking.take(part, advance)
            rows.execute("DELETE FROM meta WHERE key = ?", (KEY,))  # it has files of other shards from now on
            spaces = list(taking.spaces.values())
        for part in parts:
            for digest, jpeg in part.thumbnails():
                if not thumbnail_path(store.path, digest).exists():
                    keep_thumbnail(store.path, digest, jpeg)
        for space in spaces:
            extend_codes(store, space)


@dataclass
class _Taking:
    """Takes parts in, within one transaction. spaces: ids by fingerprints; folders: ids and devices by paths."""

    rows: sqlite3.Connection
    report: MergeReport
    spaces: dict[str, int]
    folders: dict[bytes, tuple[int, int | None]] = field(default_factory=dict)

    def take(self, part: Part, advance: Advance) -> None:
        devices = self._folders(part)
        for content in part.contents():
            self._content(content)
        for file in part.files():
            self._file(file, devices[file.root])
            advance(1)
        self.rows.executemany("INSERT OR IGNORE INTO kept_apart(a, b) VALUES (?, ?)", part.kept_apart())

    def _folders(self, part: Part) -> dict[bytes, int | None]:
        """Those of the part with the devices that they were on there; new ones are written."""
        devices = {}
        for root in part.roots():
            devices[root.path] = root.device
            if root.path not in self.folders:
                self.rows.execute(
                    "INSERT OR IGNORE INTO roots(path, device, options, scanned_at) VALUES (?, ?, ?, ?)", root
                )
                self.folders[root.path] = self.rows.execute(
                    "SELECT id, device FROM roots WHERE path = ?", (root.path,)
                ).fetchone()
        return devices

    def _content(self, content: ContentRow) -> None:
        number = self._known(content.facts[0])
        if number is None:
            number = add_content(self.rows, content.facts)
            self.report.contents += 1
        else:
            self.report.known += 1
        for fingerprint, stored, spans in content.vectors:
            space = self.spaces[fingerprint]
            lacking = (
                self.rows.execute("SELECT 1 FROM vectors WHERE content = ? AND space = ?", (number, space)).fetchone()
                is None
            )
            if lacking:
                put_stored(self.rows, number, space, stored, spans)
                self.report.vectors += len(stored)
        self.rows.executemany(
            "INSERT OR IGNORE INTO tags(content, label, score) VALUES (?, ?, ?)",
            [(number, *tag) for tag in content.tags],
        )

    def _file(self, file: FileRow, device: int | None) -> None:
        root, here = self.folders[file.root]
        size, mtime, where, inode = file.status
        old = self.rows.execute(
            "SELECT mtime_ns, state FROM files WHERE root = ? AND path = ?", (root, file.path)
        ).fetchone()
        if old is not None and (mtime, file.error is None) <= (old[0], old[1] == "here"):
            return
        content = None if file.digest is None else self._known(file.digest)
        if here is not None and where == device:  # the same volume has another number on each machine
            where = here
        put_file(self.rows, root, file.path, (size, mtime, where, inode), content, file.error)
        self.report.files += 1

    def _known(self, digest: object) -> int | None:
        found = self.rows.execute("SELECT id FROM contents WHERE digest = ?", (digest,)).fetchone()
        return None if found is None else int(found[0])


def _agreed(held: dict[str, SpaceRow], parts: Sequence[Part], index: str) -> list[SpaceRow]:
    """Spaces that are new. Raises OtherModelError where a part has vectors of another model than the index, or than an
    earlier part; DamagedError where the same model gave other vectors there."""
    known, owner, new = dict(held), dict.fromkeys(held, index), list[SpaceRow]()
    for part in parts:
        before = list(known.values())
        for row in part.spaces():
            same = known.get(row.fingerprint)
            if same is not None:
                for modality, stored in same.canaries().items():
                    check_canary(f"{row.model} in {part.name}", modality, stored, row.canaries()[modality])
                continue
            for other in before:
                if set(json.loads(other.kinds)) & set(json.loads(row.kinds)):
                    raise OtherModelError(
                        f"{part.name} holds vectors of {_said(row)}, and {owner[other.fingerprint]} those of "
                        f"{_said(other)}; expected the same model. Merge it into an index of its own, or make it anew "
                        "with that model."
                    )
            known[row.fingerprint], owner[row.fingerprint] = row, part.name
            new.append(row)
    return new


def _said(row: SpaceRow) -> str:
    return in_words(row.model, json.loads(row.about))


@contextlib.contextmanager
def _opened(store: Store, path: Path, wait: float) -> Iterator[Part]:
    if os.path.realpath(path) == os.path.realpath(store.path):
        raise InputError(f"{path} is the index itself; expected parts that are merged into it. Leave it out.")
    with open_part_files(path) if is_part_file(path) else open_index_part(path, wait) as part:
        yield part


def _distinct(paths: Sequence[Path]) -> list[Path]:
    found = {os.path.realpath(path.expanduser()): path.expanduser() for path in paths}
    if not found:
        raise InputError("There are no parts; expected indexes or Parquet files. Name some.")
    return list(found.values())


def _absent(shards: Sequence[Shard | None]) -> list[str]:
    """Which shards would make the parts complete."""
    there = {shard for shard in shards if shard is not None}
    wanted = {Shard(number, shard.of) for shard in there for number in range(1, shard.of + 1)}
    return [str(shard) for shard in sorted(wanted - there, key=lambda shard: (shard.of, shard.number))]
