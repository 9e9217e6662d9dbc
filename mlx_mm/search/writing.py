"""What became of files that were read, written into the store, some at a time."""

import os
import sqlite3
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_mm.errors import MlxMmError
from mlx_mm.processing.fetching import short_name
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search import words
from mlx_mm.search.planning import Job
from mlx_mm.search.reading import Facts
from mlx_mm.search.records import RefreshReport
from mlx_mm.search.spaces import Space
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import add_vectors

VANISHED = "files that went away meanwhile"
Tell = Callable[[str, str], None]
# Columns of `contents` that the bytes of a file say
FACTS = (
    *("digest", "kind", "size", "width", "height", "seconds", "dhash", "taken_at", "latitude", "longitude", "camera"),
)


@dataclass(frozen=True)
class Outcome:
    """A file that was read. vectors: (parts, dim), and the seconds of each part; None where the content is known.
    error: why there are none. facts: None where not even its bytes could be read."""

    job: Job
    status: tuple[int, int, int, int]
    facts: Facts | None
    vectors: Vectors | None = None
    spans: Sequence[tuple[float, float] | None] = ()
    error: MlxMmError | None = None


class Writing:
    """Collects outcomes and commits them. again: the files are known, and only vectors of a space are added."""

    def __init__(self, store: Store, space: Space, report: RefreshReport, tell: Tell, *, again: bool = False):
        self.store = store
        self.space = space
        self.report = report
        self.tell = tell
        self.again = again
        self._outcomes: list[Outcome] = []
        self._copies: dict[bytes, list[Outcome]] = {}  # of contents that are being encoded
        self._failures: dict[bytes, tuple[Job, MlxMmError]] = {}

    @property
    def waiting(self) -> int:
        """Outcomes that are not committed."""
        return len(self._outcomes)

    def add(self, outcome: Outcome) -> None:
        """Have it written with the next commit."""
        self._outcomes.append(outcome)

    def commit(self) -> None:
        """Write all that was added, as one transaction."""
        if not self._outcomes:
            return
        told: list[tuple[str, str]] = []
        with self.store.writing() as rows:
            for outcome in self._outcomes:
                self._write(rows, outcome, told)
        self._outcomes.clear()
        for event, path in told:
            self.tell(event, path)

    def _write(self, rows: sqlite3.Connection, outcome: Outcome, told: list[tuple[str, str]]) -> None:
        digest = None if outcome.facts is None else outcome.facts.digest
        if outcome.error is not None:
            self._write_error(rows, outcome, outcome.error, told)
            if digest is not None:
                self._failures[digest] = outcome.job, outcome.error
        elif self.again:
            self._add_again(rows, outcome)
        elif outcome.vectors is None:
            self._write_copy(rows, outcome, told)
            return
        else:
            self._write_new(rows, outcome, outcome.vectors, told)
        for copy in self._copies.pop(digest, ()) if digest is not None else ():
            self._write(rows, copy, told)

    def _write_new(
        self, rows: sqlite3.Connection, outcome: Outcome, vectors: Vectors, told: list[tuple[str, str]]
    ) -> None:
        facts = outcome.facts
        assert facts is not None
        content = add_content(rows, facts_of(facts))
        add_vectors(rows, content, self.space.id, vectors, outcome.spans)
        put_file(rows, outcome.job.root.id, outcome.job.path, outcome.status, content)
        self.report.encoded += 1
        self._count(outcome, "new" if outcome.job.row is None else "changed", told)

    def _write_copy(self, rows: sqlite3.Connection, outcome: Outcome, told: list[tuple[str, str]]) -> None:
        """Of a content that is known, or will be when it is encoded."""
        facts = outcome.facts
        assert facts is not None
        found = rows.execute("SELECT id FROM contents WHERE digest = ?", (facts.digest,)).fetchone()
        if found is None:
            if facts.digest in self._failures:
                first, error = self._failures[facts.digest]
                said = str(error).replace(_named(first), _named(outcome.job))
                self._write_error(rows, outcome, type(error)(said), told)
            else:
                self._copies.setdefault(facts.digest, []).append(outcome)
            return
        put_file(rows, outcome.job.root.id, outcome.job.path, outcome.status, found[0])
        row = outcome.job.row
        if row is None:
            self._count(outcome, "copied", told)
        elif row.content != found[0]:
            self._count(outcome, "changed", told)

    def _add_again(self, rows: sqlite3.Connection, outcome: Outcome) -> None:
        facts, vectors = outcome.facts, outcome.vectors
        if facts is None or vectors is None:
            return
        found = rows.execute("SELECT id FROM contents WHERE digest = ?", (facts.digest,)).fetchone()
        if found is not None:  # else it was changed since it was looked for
            add_vectors(rows, found[0], self.space.id, vectors, outcome.spans)
            self.report.encoded += 1

    def _write_error(
        self, rows: sqlite3.Connection, outcome: Outcome, error: MlxMmError, told: list[tuple[str, str]]
    ) -> None:
        job = outcome.job
        if isinstance(error.__cause__, FileNotFoundError):
            self.report.skipped[VANISHED] = self.report.skipped.get(VANISHED, 0) + 1
            return
        if not self.again:
            put_file(rows, job.root.id, job.path, outcome.status, None, str(error))
        self.report.failed[job.shown] = str(error)
        told.append(("failed", job.shown))

    def _count(self, outcome: Outcome, what: str, told: list[tuple[str, str]]) -> None:
        setattr(self.report, what, getattr(self.report, what) + 1)
        told.append((what, outcome.job.shown))


def _named(job: Job) -> str:
    """As errors of reading name a file."""
    return short_name(os.fsdecode(job.place))


def name_of(path: bytes) -> str:
    """A path as text in NFC; bytes that are no UTF-8 become question marks."""
    return unicodedata.normalize("NFC", path.decode("utf-8", "replace"))


def put_file(
    rows: sqlite3.Connection,
    root: int | None,
    path: bytes,
    status: tuple[int, int, int, int],
    content: int | None,
    error: str | None = None,
) -> None:
    """Write the row of a file, and what it is found by. content: None where it could not be read."""
    state, name = "here" if error is None else "error", name_of(path)
    number = rows.execute(
        "INSERT INTO files(root, path, name, size, mtime_ns, device, inode, content, state, error)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(root, path) DO UPDATE SET name = excluded.name,"
        " size = excluded.size, mtime_ns = excluded.mtime_ns, device = excluded.device, inode = excluded.inode,"
        " content = excluded.content, state = excluded.state, error = excluded.error, gone_at = NULL RETURNING id",
        (root, path, name, *status, content, state, error),
    ).fetchone()[0]
    put_words(rows, number, path)


def put_words(rows: sqlite3.Connection, file: int, path: bytes) -> None:
    """Write what a file is found by: its path below its root, and the tags of its content."""
    tags = rows.execute(
        "SELECT label FROM tags JOIN files ON files.content = tags.content WHERE files.id = ?", (file,)
    ).fetchall()
    words.put(rows, file, name_of(path), [row[0] for row in tags])


def add_content(rows: sqlite3.Connection, facts: Sequence[object]) -> int:
    """Write a content, whose FACTS these are; its id."""
    number: int = rows.execute(
        f"INSERT INTO contents({', '.join(FACTS)}) VALUES ({', '.join('?' * len(FACTS))}) RETURNING id", facts
    ).fetchone()[0]
    return number


def facts_of(facts: Facts) -> tuple[object, ...]:
    """As FACTS names them."""
    glance, taken = facts.glance, facts.glance.taken
    return (
        *(facts.digest, facts.kind, facts.size, glance.width, glance.height, facts.seconds, glance.dhash),
        *(taken.taken_at, taken.latitude, taken.longitude, taken.camera),
    )
