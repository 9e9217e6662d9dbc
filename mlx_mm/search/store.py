"""The store of an index: a folder with an SQLite file, which is the only truth, and derived files beside it."""

import contextlib
import os
import sqlite3
import threading
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from mlx_mm.checkpoint.atomic import as_name
from mlx_mm.errors import DamagedError, NewerSchemaError, StoreError
from mlx_mm.search import schema
from mlx_mm.search.file_systems import network_kind
from mlx_mm.search.sqlite_errors import meaning
from mlx_mm.search.writer_lock import LOCK, writer_lock

DATABASE = "index.sqlite"
THUMBNAILS = "thumbs"
BUSY_SECONDS = 30.0
IDLE = 4  # connections that are kept
WAL_BYTES = 64 << 20  # that a WAL keeps of the disk when all in it was copied

_SQLITE = (sqlite3.Error,)
_ALL = (sqlite3.Error, OSError)


class Store:
    """An index, which is opened when it is first used. Its methods may be called from any thread.

    path: its folder. create: make it now where there is none; else the first `writer()` makes it, and reading raises
    StoreError. `writer()` is held by whoever writes, for as long as its work lasts: of all processes one has it. Inside
    it, `writing()` is one transaction; `reading()` is a consistent view at any time, beside all of these. Both are
    connections of their own, so neither waits for the other, but on a network file system, where SQLite cannot share
    memory: there, who writes keeps readers out for as long as a transaction lasts.

    Raises StoreError, NewerSchemaError or DamagedError for what is no index of ours, BusyError where another process
    keeps a lock, and StoreError for what the system refuses, such as a full disk.
    """

    def __init__(self, path: str | Path, *, create: bool = False):
        self.path = as_name(path)
        self.kept: dict[int, object] = {}  # what was derived from what is committed, until it is closed
        self._network = False
        self._checked = False
        self._closed = False
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._own = _Own()
        self._writer: int | None = None  # the thread that is the writer
        weakref.finalize(self, _close_all, self._idle)
        if create:
            with self.writer(wait=BUSY_SECONDS):
                pass
        else:
            with contextlib.suppress(DamagedError):  # which can be looked at, and repaired
                self._check()

    @property
    def database(self) -> Path:
        """The file that SQLite has."""
        return self.path / DATABASE

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written where it lies."""
        return not (os.access(self.path, os.W_OK) and os.access(self.database, os.W_OK))

    def exists(self) -> bool:
        """Whether there is an index to read."""
        return self._checked or self._check()

    @contextlib.contextmanager
    def writer(self, wait: float = 0.0) -> Iterator[None]:
        """Be the one writer, and make the index where there is none. wait: seconds for another one to end, after which
        BusyError is raised. A second one inside the first does nothing."""
        if self._writer == threading.get_ident():
            yield
            return
        with contextlib.ExitStack() as stack:
            with self._refusals(), contextlib.ExitStack() as failed:
                self._check()
                failed.callback(_remove_empty, _make_folder(self.path))
                stack.enter_context(writer_lock(self.path, wait))
                if not self._check():
                    failed.callback(_remove_unmade, self.path)
                self._prepare()
                failed.pop_all()
            stack.callback(self._writer_ended)
            self._writer = threading.get_ident()
            yield

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A view of what was committed last, which stays so inside. Inside of another one, or of `writing()`, of the
        same thread it is that one's."""
        if self._own.connection is not None:
            yield self._own.connection
            return
        if not self.exists():
            raise StoreError(f"There is no index at {self.path}; expected one. Make it: mlx_mm index FOLDER.")
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which is committed at the end, or not at all; not inside of another one, nor of
        `reading()`. Outside of `writer()` it waits to be the writer, for BUSY_SECONDS at most."""
        if self._own.connection is not None:
            raise RuntimeError("a transaction was begun inside of another one, or of reading()")
        with contextlib.ExitStack() as stack:
            if self._writer is None:
                stack.enter_context(self.writer(BUSY_SECONDS))
            yield stack.enter_context(self._transaction("BEGIN IMMEDIATE"))

    @contextlib.contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """A connection without a transaction, for who tends the whole file; only inside `writer()`."""
        with self._refusals(_SQLITE), self._connection() as connection:
            yield connection

    @contextlib.contextmanager
    def replacing(self) -> Iterator[None]:
        """Be the writer while the file itself is replaced, which may be damaged: here nothing of it is open."""
        with self._refusals(), writer_lock(self.path):
            with self._lock:
                self.kept.clear()
                _close_all(self._idle)
            yield
            self._checked = False

    def close(self) -> None:
        """Give everything back; a second time does nothing."""
        with self._lock:
            self._closed = True
            self.kept.clear()
            _close_all(self._idle)

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._refusals(_SQLITE), self._connection() as connection:
            self._own.connection = connection
            try:
                connection.execute(begin)
                yield connection
                if begin != "BEGIN":
                    connection.execute("COMMIT")
            finally:
                self._own.connection = None
                if connection.in_transaction:  # SQLite itself ends some, such as those that filled the disk
                    connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One that nobody else uses meanwhile."""
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path} was closed; expected an open index. Open it again.")
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            yield connection
        finally:
            with self._lock:
                keep = not self._closed and not self._network and len(self._idle) < IDLE
                if keep and not connection.in_transaction:
                    self._idle.append(connection)
                else:
                    connection.close()

    def _connect(self, *, create: bool = False) -> sqlite3.Connection:
        how = "rwc" if create else "rw"
        if not create and self.read_only:
            wal = self.database.with_name(f"{DATABASE}-wal")
            # Without a WAL nobody writes, and SQLite needs no file beside it, which it could not make.
            how = "ro" if wal.exists() and wal.stat().st_size else "ro&immutable=1"
        address = f"file:{quote(os.fsencode(self.database.absolute()))}?mode={how}"
        connection = sqlite3.connect(
            address, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
        )
        with contextlib.ExitStack() as failed:
            failed.callback(connection.close)
            if self._network:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # before SQLite would share memory
            connection.execute("PRAGMA foreign_keys = ON")
            if how.startswith("rw"):
                if create:
                    connection.execute(f"PRAGMA page_size = {schema.PAGE}")
                wanted = "truncate" if self._network else "wal"
                ours = create or connection.execute("PRAGMA application_id").fetchone()[0] == schema.APPLICATION
                if ours and connection.execute("PRAGMA journal_mode").fetchone()[0] != wanted:
                    connection.execute(f"PRAGMA journal_mode = {wanted}")
                connection.execute("PRAGMA synchronous = FULL")  # codes are made of what even a power cut keeps
                connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            failed.pop_all()
        return connection

    def _check(self) -> bool:
        """Whether there is an index, which is ours. Raises StoreError for what is none. SQLite alone opens its file:
        whoever else closes it takes the locks that this process has on it.
        """
        with self._refusals():
            if not os.path.lexists(self.path):
                return False
            if not self.path.is_dir():
                raise StoreError(
                    f"{self.path} is no folder; expected that of an index, such as photos.mmindex. Name another."
                )
            if not self.database.is_file() or not self.database.stat().st_size:
                _check_foreign(self.path)
                return False
            self._see_where()
            self._checked = self._version() != 0
        return self._checked

    def _see_where(self) -> None:
        if not self._network and (kind := network_kind(self.path)):
            self._network = True
            warnings.warn(
                f"{self.path} lies on a network file system ({kind}), where an index is slower and nobody reads while "
                "it is written. Keep it on a local disk; the photos may lie anywhere.",
                stacklevel=2,
            )

    def _version(self) -> int:
        """Of the tables, 0 where there are none yet. Raises StoreError for those of others."""
        with self._connection() as connection:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != schema.APPLICATION and (application or version or tables):
            raise StoreError(
                f"{self.database} is a file of SQLite that another program made; expected an index. Name another "
                "folder with --index."
            )
        if version > schema.VERSION:
            raise NewerSchemaError(
                f"{self.path} has tables of version {version}, expected {schema.VERSION} at most: a newer mlx_mm made "
                "it. Update this one: pip install -U mlx_mm."
            )
        if 0 < version < schema.VERSION:
            self._migrate(version)
        return version

    def _migrate(self, version: int) -> None:
        if self.read_only:
            raise StoreError(
                f"{self.path} has tables of version {version}, expected {schema.VERSION}, and cannot be written to. "
                "Copy it to where it can be."
            )
        with writer_lock(self.path, BUSY_SECONDS), self._connection() as connection:
            schema.migrate(connection, connection.execute("PRAGMA user_version").fetchone()[0])

    def _prepare(self) -> None:
        """Be ready to write; this process is the writer."""
        if self.read_only and self.database.exists():
            raise StoreError(f"{self.path} cannot be written to by you; expected to. Copy it, or change its mode.")
        if self._check():
            return
        self._see_where()
        with contextlib.closing(self._connect(create=True)) as connection:
            schema.create(connection)
        self._checked = True

    def _writer_ended(self) -> None:
        self._writer = None

    @contextlib.contextmanager
    def _refusals(self, kinds: tuple[type[sqlite3.Error] | type[OSError], ...] = _ALL) -> Iterator[None]:
        """Inside, what SQLite, or the system too, refuses becomes errors of ours."""
        try:
            yield
        except kinds as error:
            kind, says = meaning(error)
            if kind is None:
                raise
            raise kind(f"{self.path}: {says}") from error


class _Own(threading.local):
    """What a thread has under way."""

    connection: sqlite3.Connection | None = None


def _close_all(idle: list[sqlite3.Connection]) -> None:
    while idle:
        idle.pop().close()


def _check_foreign(folder: Path) -> None:
    """Raise StoreError for a folder that is for something else: an index is not made among other things."""
    own = (DATABASE, LOCK, THUMBNAILS, "codes-", "slots-", "cutoffs-")
    other = next((name for name in sorted(os.listdir(folder)) if not name.startswith(own)), None)
    if other is not None:
        raise StoreError(
            f"{folder} holds {other!r} and no index; expected a folder of an index, a new or an empty one. Name "
            "another, such as photos.mmindex."
        )


def _make_folder(folder: Path) -> list[Path]:
    """The folders that were made, the inner ones first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _remove_empty(folders: list[Path]) -> None:
    for path in folders:
        with contextlib.suppress(OSError):
            path.rmdir()


def _remove_unmade(folder: Path) -> None:
    """What is left of an index whose making failed; by its writer."""
    for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", LOCK):
        (folder / name).unlink(missing_ok=True)
