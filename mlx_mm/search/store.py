"""The store of an index: a folder with an SQLite file, which is the only truth, and derived files beside it."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from mlx_mm.search import schema

DATABASE = "index.sqlite"
THUMBNAILS = "thumbs"
BUSY_SECONDS = 30.0


class Store:
    """An index that is open. Its methods may be called from any thread.

    `writer()` is held by whoever writes, for as long as its work lasts: of all processes one has it. Inside it,
    `writing()` is one transaction, `reading()` a consistent view at any time.
    """

    def __init__(self, path: Path, *, create: bool = False):
        self.path = path
        if create:
            path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            path / DATABASE, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        if self._connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            schema.create(self._connection)

    @contextlib.contextmanager
    def writer(self, wait: float = 0.0) -> Iterator[None]:
        """Be the one writer. wait: seconds for another one to end, after which BusyError is raised."""
        yield

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A view of what was committed last, which stays so inside."""
        with self._lock:
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which is committed at the end, or not at all."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            whole = False
            try:
                yield self._connection
                whole = True
            finally:
                self._connection.execute("COMMIT" if whole else "ROLLBACK")

    def close(self) -> None:
        """Give everything back; a second time does nothing."""
        with self._lock:
            self._connection.close()
