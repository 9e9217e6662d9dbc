"""Bringing an index up to date: what is new, changed, moved or gone in its folders."""

import functools
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_mm.errors import InputError
from mlx_mm.processing import heif
from mlx_mm.processing.key_frames import can_read_videos
from mlx_mm.progress import Progress, check_progress, progressing
from mlx_mm.search import roots as folders_of
from mlx_mm.search import words
from mlx_mm.search.codes import extend_codes
from mlx_mm.search.cutoffs import extend_cutoffs
from mlx_mm.search.encoding import encode
from mlx_mm.search.ignoring import rules_of
from mlx_mm.search.planning import Changes, Job, Root, Row, compare, find_moves, refuse, trouble
from mlx_mm.search.reading import SETTLED, Claims
from mlx_mm.search.records import MediaKind, RefreshReport
from mlx_mm.search.roots import moved
from mlx_mm.search.scanning import Entry, ending_of, scan
from mlx_mm.search.sharding import Shard, settled
from mlx_mm.search.spaces import Space, Spaces
from mlx_mm.search.store import Store
from mlx_mm.search.thumbnail_files import keep_thumbnail, remove_thumbnail
from mlx_mm.search.writing import Tell, Writing, name_of, put_words

__all__ = ["Options", "moved", "refresh"]

KEPT_SECONDS = 30 * 24 * 3600.0  # that a file which is gone stays known, so that it costs nothing when it comes back


@dataclass(frozen=True)
class Options:
    """How folders are read.

    exclude: patterns as in .gitignore of what is left out, relative to the folder; videos: take key frames of videos.
    Both are remembered for the folders. max_num_patches: the budget of a NaFlex model, which the index keeps. retry:
    read files again that could not be read. accept_missing: go on where a folder lost most of its files. add_space,
    reembed: what a model does that is not the index's, see `Spaces.prepared`. shard: take these files only, which the
    index remembers. servers: addresses of `mlx_mm serve` that make vectors of pictures in our place. wait: seconds for
    another refresh to end.
    """

    exclude: tuple[str, ...] = ()
    videos: bool = False
    max_num_patches: int | None = None
    retry: bool = False
    accept_missing: bool = False
    add_space: bool = False
    reembed: bool = False
    shard: Shard | None = None
    servers: tuple[str, ...] = ()
    wait: float = 0.0


def refresh(
    store: Store,
    spaces: Spaces,
    folders: Sequence[Path],
    options: Options,
    on_event: Callable[[str, str], None] | None = None,
    progress: Progress = False,
) -> RefreshReport:
    """All folders of the index, and these new ones.

    on_event: called in the thread of the caller with "new", "changed", "moved", "copied", "missing" or "failed" and a
    path, once that is committed, and with "model" and the name of a bundled model that is used since none was named.
    progress: counts the files that are read. An interruption keeps what was committed.
    Raises StoreError where a folder that was named, or each one, lost most of its files, and nothing was changed;
    BusyError, OtherModelError.
    """
    check_progress(progress)
    begun, report = time.monotonic(), RefreshReport()
    tell: Tell = on_event or (lambda event, path: None)
    with store.writer(options.wait):
        if options.videos and not can_read_videos():
            raise InputError(
                "videos is on, and PyAV, which decodes them, is not there; expected it. pip install 'mlx_mm[video]'."
            )
        roots = folders_of.with_folders(store, folders, options.exclude, options.videos)
        shard = settled(store, options.shard)
        changes = _planned(store, folders_of.absorb(store, roots), options, shard, report)
        moves = find_moves(changes)
        changes = _sound(changes, options, report)
        used = spaces.prepared(
            options.max_num_patches,
            add=options.add_space,
            anew=options.reembed,
            kinds={kind for found in changes for kind in found.kinds},
            on_bundled=lambda name: tell("model", name),
        )
        folders_of.write_roots(store, [found.root for found in changes])
        _apply(store, changes, moves, report, tell)
        jobs = _readable([job for found in changes for job in found.read], used, report)
        again = {space.id: _lacking(store, space) for space in used}
        total = len(jobs) + sum(map(len, again.values()))
        keep = functools.partial(keep_thumbnail, store.path)
        with progressing(progress, total, "indexing", "file") as advance:
            for space, some in _shared_out(jobs, used):
                claims = Claims(lambda digest: _is_known(store, digest))
                encode(keep, space, some, claims, Writing(store, space, report, tell), advance, options.servers)
            for space in used:
                late = _lacking(store, space) if jobs and len(used) > 1 else again[space.id]
                writing = Writing(store, space, report, tell, again=True)
                encode(keep, space, late, Claims(lambda _: False), writing, advance, options.servers)
        if any((report.new, report.changed, report.moved, report.copied, report.missing, report.encoded)):
            _note_time(store, [found.root for found in changes])
        if spaces.replaced and all(job.shown in report.failed for space in used for job in _lacking(store, space)):
            spaces.drop_replaced()
        _forget_old(store)
        for space in used:
            extend_codes(store, space.id)  # also those that a run which was killed has left
            if report.encoded:
                extend_cutoffs(store, space)
        _count_files(store, report)
    report.seconds = time.monotonic() - begun
    return report


def _planned(
    store: Store, roots: Sequence[Root], options: Options, shard: Shard | None, report: RefreshReport
) -> list[Changes]:
    """What is to do in each folder; each real folder is searched once. All shards of a folder have models for the same
    kinds, whichever files they have."""
    skipped, changes = Counter[str](), []
    seen = {_place(path) for path in (os.fsencode(store.path), *(root.path for root in roots))}
    for root in roots:
        seen.discard(_place(root.path))  # which a link in another one leads to, perhaps
        found = scan(root.path, rules_of(root.exclude), videos=root.videos, seen=seen)
        everything = found.files
        if shard is not None:
            found.files = {path: entry for path, entry in everything.items() if shard.has(path)}
        change = compare(store, root, found, retry=options.retry)
        others = everything.values() if shard is not None else ()
        change.kinds = {job.entry.kind for job in change.read} | {entry.kind for entry in others}
        changes.append(change)
        skipped += found.skipped
    report.skipped = dict(skipped)
    return changes


def _place(path: bytes) -> tuple[int, int]:
    """The device and the inode of a folder; (0, 0) where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _sound(changes: list[Changes], options: Options, report: RefreshReport) -> list[Changes]:
    """Those folders that did not lose too much. A disk that is away hinders no other: StoreError where a folder that
    was named lost too much, or all did."""
    if options.accept_missing:
        return changes
    kept, reasons = [], []
    for found in changes:
        why = trouble(found)
        if why is None:
            kept.append(found)
        elif found.root.named:
            reasons.append(why)
        else:
            report.left_alone.append(why)
    if reasons or (report.left_alone and not kept):
        raise refuse([*reasons, *report.left_alone])
    return kept


def _apply(
    store: Store, changes: Sequence[Changes], moves: Sequence[tuple[Row, Job]], report: RefreshReport, tell: Tell
) -> None:
    """Write what needs no reading, as one transaction; nothing where nothing changed."""
    gone = [(found.root, row) for found in changes for row in found.gone if row.state != "missing"]
    back = [(found.root, row) for found in changes for row in found.back]
    for found in changes:
        report.failed.update({f"{found.root.shown}/{name_of(path)}": why for path, why in found.errors.items()})
    if not (gone or back or moves):
        return
    with store.writing() as rows:
        for row, job in moves:
            _move(rows, row, job)
        rows.executemany("UPDATE files SET state = 'here', gone_at = NULL WHERE id = ?", [(row.id,) for _, row in back])
        for row in (row for _, row in gone if row.content is None):  # and nothing to come back to
            words.take_away(rows, row.id)
            rows.execute("DELETE FROM files WHERE id = ?", (row.id,))
        now = time.time()
        rows.executemany(
            "UPDATE files SET state = 'missing', gone_at = ?, error = NULL WHERE id = ?",
            [(now, row.id) for _, row in gone],
        )
        _remove_empty_roots(rows, changes)
    report.moved, report.missing = len(moves) + len(back), len(gone)
    for _, job in moves:
        tell("moved", job.shown)
    for root, row in back:
        tell("moved", f"{root.shown}/{name_of(row.path)}")
    for root, row in gone:
        tell("missing", f"{root.shown}/{name_of(row.path)}")


def _move(rows: sqlite3.Connection, row: Row, job: Job) -> None:
    rows.execute(
        "UPDATE files SET root = ?, path = ?, name = ?, state = 'here', gone_at = NULL WHERE id = ?",
        (job.root.id, job.path, name_of(job.path), row.id),
    )
    put_words(rows, row.id, job.path)


def _remove_empty_roots(rows: sqlite3.Connection, changes: Sequence[Changes]) -> None:
    """A folder that is not there and of which nothing is known any more, such as one that has another name now."""
    for found in changes:
        if not os.path.isdir(found.root.path):
            rows.execute(
                "DELETE FROM roots WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM files WHERE root = ?1)", (found.root.id,)
            )


def _readable(jobs: list[Job], spaces: Sequence[Space], report: RefreshReport) -> list[Job]:
    """Those files that a model of the index takes; the ones that were changed just now come last."""
    kept = []
    for job in jobs:
        why = _unfit(job, {kind for space in spaces for kind in space.kinds})
        if why is None:
            kept.append(job)
        else:
            report.skipped[why] = report.skipped.get(why, 0) + 1
    now = time.time_ns()
    return sorted(kept, key=lambda job: 0 <= now - job.entry.mtime_ns < SETTLED * 1e9)


def _unfit(job: Job, kinds: set[MediaKind]) -> str | None:
    """Why a file cannot be read by what is there, which is no fault of its own."""
    if job.entry.kind not in kinds:
        return _NO_MODEL[job.entry.kind]
    if os.fsdecode(ending_of(job.path)) in heif.ENDINGS and not heif.can_read_heif():
        return "HEIC pictures (pip install 'mlx_mm[heic]')"
    return None


_NO_MODEL: dict[MediaKind, str] = {
    "image": "pictures, for which the index has no model (--model)",
    "audio": "sounds, for which the index has no model (--model)",
    "video": "videos, for which the index has no model (--model)",
}


def _shared_out(jobs: Sequence[Job], spaces: Sequence[Space]) -> list[tuple[Space, list[Job]]]:
    """Each file goes to the first space of its kind; for others it is read again."""
    first = {kind: space for space in reversed(spaces) for kind in space.kinds}
    return [(space, [job for job in jobs if first[job.entry.kind] is space]) for space in spaces]


def _lacking(store: Store, space: Space) -> list[Job]:
    """One file of each content that has no vectors in a space and should."""
    marks = ",".join("?" * len(space.kinds))
    with store.reading() as rows:
        found = rows.execute(
            "SELECT roots.path, files.path, contents.kind, files.size, files.mtime_ns, files.device, files.inode,"
            " files.id, contents.id FROM contents JOIN files ON files.id = (SELECT min(id) FROM files AS one"
            " WHERE one.content = contents.id AND one.state = 'here') JOIN roots ON roots.id = files.root"
            f" WHERE contents.kind IN ({marks}) AND contents.live > 0 AND NOT EXISTS"
            " (SELECT 1 FROM vectors WHERE vectors.content = contents.id AND vectors.space = ?) ORDER BY contents.id",
            (*space.kinds, space.id),
        ).fetchall()
    jobs = []
    for root, path, kind, size, mtime, device, inode, number, content in found:
        row = Row(number, path, size, mtime, device, inode, content, "here")
        jobs.append(Job(Root(None, root, None), path, Entry(kind, size, mtime, device, inode), row))
    return jobs


def _is_known(store: Store, digest: bytes) -> bool:
    with store.reading() as rows:
        return rows.execute("SELECT 1 FROM contents WHERE digest = ?", (digest,)).fetchone() is not None


def _forget_old(store: Store) -> None:
    """Files that are gone for long, and contents that no file has; nothing is written where there are none."""
    due = time.time() - KEPT_SECONDS
    with store.reading() as rows:
        old = rows.execute("SELECT id FROM files WHERE state = 'missing' AND gone_at < ?", (due,)).fetchall()
        unused = rows.execute(_UNUSED).fetchone()
    if not old and unused is None:
        return
    with store.writing() as rows:
        for (number,) in old:
            words.take_away(rows, number)
        rows.executemany("DELETE FROM files WHERE id = ?", old)
        contents = rows.execute(_UNUSED).fetchall()
        rows.executemany("DELETE FROM contents WHERE id = ?", [(number,) for number, _ in contents])
    for _, digest in contents:
        remove_thumbnail(store.path, digest)


_UNUSED = (
    "SELECT id, digest FROM contents WHERE live = 0 AND NOT EXISTS (SELECT 1 FROM files WHERE content = contents.id)"
)


def _note_time(store: Store, roots: Sequence[Root]) -> None:
    with store.writing() as rows:
        now = time.time()
        rows.executemany("UPDATE roots SET scanned_at = ? WHERE id = ?", [(now, root.id) for root in roots])


def _count_files(store: Store, report: RefreshReport) -> None:
    with store.reading() as rows:
        report.files = rows.execute("SELECT count(*) FROM files WHERE state = 'here'").fetchone()[0]
