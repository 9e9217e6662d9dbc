"""What a folder holds, held against what the index knows of it: what is to do, before anything is done."""

import os
from dataclasses import dataclass, field

from mlx_mm.errors import StoreError
from mlx_mm.search.records import MediaKind
from mlx_mm.search.scanning import Entry, Found
from mlx_mm.search.store import Store

HALF_OF = 100  # files of a folder, of which more than half are gone only by mistake


@dataclass
class Root:
    """A folder of the index. id: None of a new one, until it is written. device: that it was on."""

    id: int | None
    path: bytes
    device: int | None
    exclude: tuple[str, ...] = ()
    videos: bool = False
    named: bool = False

    @property
    def shown(self) -> str:
        """As messages have it."""
        return self.path.decode("utf-8", "replace")


@dataclass(frozen=True)
class Row:
    """A file that the index knows."""

    id: int
    path: bytes
    size: int
    mtime_ns: int
    device: int
    inode: int
    content: int | None
    state: str

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """As of an `Entry`."""
        return self.size, self.mtime_ns, self.device, self.inode


@dataclass(frozen=True)
class Job:
    """A file to be read. row: what the index has of that path."""

    root: Root
    path: bytes
    entry: Entry
    row: Row | None = None

    @property
    def place(self) -> bytes:
        """Its whole path."""
        return os.path.join(self.root.path, self.path)

    @property
    def shown(self) -> str:
        """Its whole path as text."""
        return self.place.decode("utf-8", "replace")


@dataclass
class Changes:
    """What is to do in one folder.

    read: files to be read. back: rows of files that are there again. gone: rows of files that are not, left: of those
    that a pattern leaves out now. errors: why files could not be read before, by path. same: how many are unchanged.
    moved: rows of this folder whose files have another place, total: rows of files that were there. kinds: of files
    for which models are needed.
    """

    root: Root
    read: list[Job] = field(default_factory=list)
    back: list[Row] = field(default_factory=list)
    gone: list[Row] = field(default_factory=list)
    errors: dict[bytes, str] = field(default_factory=dict)
    same: int = 0
    total: int = 0
    moved: int = 0
    empty: bool = False
    kinds: set[MediaKind] = field(default_factory=set)


def compare(store: Store, root: Root, found: Found, *, retry: bool) -> Changes:
    """The rows of a folder against the files that are there; those in folders that are not read stay."""
    changes, new = Changes(root, empty=not found.files), dict(found.files)
    unread = tuple(found.unread)
    with store.reading() as rows:
        for number, path, size, mtime, device, inode, content, state, error in rows.execute(
            "SELECT id, path, size, mtime_ns, device, inode, content, state, error FROM files WHERE root = ?",
            (root.id,),
        ):
            changes.total += state != "missing"
            entry = new.pop(path, None)
            if entry is not None and entry.size == size and entry.mtime_ns == mtime:
                if state == "here":
                    changes.same += 1
                    continue
                if state == "error" and not retry:
                    changes.errors[path] = error
                    continue
            row = Row(number, path, size, mtime, device, inode, content, state)
            if entry is None:
                if not (unread and path.startswith(unread)):
                    changes.gone.append(row)
                elif state == "here":
                    changes.same += 1
            elif state == "missing" and content is not None and (size, mtime) == (entry.size, entry.mtime_ns):
                changes.back.append(row)
            else:
                changes.read.append(Job(root, path, entry, row))
    changes.read += [Job(root, path, entry) for path, entry in new.items()]
    return changes


def find_moves(all_changes: list[Changes]) -> list[tuple[Row, Job]]:
    """Rows whose files have another place, in any of the folders; they and the files leave `gone` and `read`."""
    lost = {row.identity: (changes, row) for changes in all_changes for row in changes.gone if row.content is not None}
    moves: list[tuple[Row, Job]] = []
    if not lost:
        return moves
    for changes in all_changes:
        kept = []
        for job in changes.read:
            owner = lost.pop(job.entry.identity, None) if job.row is None else None
            if owner is None:
                kept.append(job)
            else:
                owner[0].moved += 1
                moves.append((owner[1], job))
        changes.read = kept
    taken = {row.id for row, _ in moves}
    for changes in all_changes:
        changes.gone = [row for row in changes.gone if row.id not in taken]
    return moves


def trouble(changes: Changes) -> str | None:
    """Why so much of a folder cannot be gone but by mistake; None where it can."""
    lost = sum(row.state != "missing" and not _is_there(changes.root, row) for row in changes.gone)
    if not lost:
        return None
    name, of = changes.root.shown, f"{lost} of its {changes.total} files are gone"
    try:
        device = os.stat(changes.root.path).st_dev
    except OSError:
        return None if lost * 2 <= changes.total else f"{name} is not there, and {of}"
    if changes.empty:
        return f"{name} is empty, and {of}"
    if lost * 2 > changes.total:
        if changes.root.device not in (None, device):
            return f"{name} is another volume now, and {of}"
        if changes.total >= HALF_OF:
            return f"{of[: of.index(' files')]} files in {name} are gone"
    return None


def refuse(reasons: list[str]) -> StoreError:
    """The error for folders that lost too much."""
    return StoreError(
        f"{'; '.join(reasons)}; expected less than half. Nothing was changed there. Connect the volume; or, where "
        "files went on purpose, pass --accept-missing; or, where the folder has another place, pass --moved OLD NEW."
    )


def _is_there(root: Root, row: Row) -> bool:
    """Whether a file that was not found lies where it was, and a pattern leaves it out."""
    return os.path.lexists(os.path.join(root.path, row.path))
