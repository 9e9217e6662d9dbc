"""Saving what can be read of a damaged file of SQLite into a new one."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from mlx_mm.errors import DamagedError
from mlx_mm.search import schema
from mlx_mm.search.relations import drop_orphans, recount, write_words
from mlx_mm.search.store import Store

# Those without ids of their own come last: they are read from both ends, up to what is damaged.
TABLES = ("roots", "spaces", "contents", "files", "vectors", "tags", "kept_apart")
WITHOUT_IDS = TABLES[5:]
AT_ONCE = 512  # ids in one question
MOST_IDS = 1 << 22  # that are tried where the last one cannot be read
LEAST_ROW = 32  # bytes

Row: TypeAlias = tuple[object, ...]


def rescue(store: Store) -> list[str]:
    """The index becomes a new one with all rows of the damaged one that can be read, which is kept beside it; what was
    done, in words. Raises BusyError while somebody else writes, DamagedError where nothing can be read."""
    database = store.database
    new, kept = database.with_name("index.sqlite.new"), database.with_name("index.sqlite.damaged")
    with store.replacing():
        new.unlink(missing_ok=True)
        with contextlib.ExitStack() as failed:
            failed.callback(new.unlink, missing_ok=True)
            said = _copied(database, new)
            failed.pop_all()
        os.replace(database, kept)
        for ending in ("-wal", "-shm", "-journal"):
            database.with_name(database.name + ending).unlink(missing_ok=True)
        os.replace(new, database)
    return [*said, f"the damaged file was kept as {kept.name}"]


def _copied(old: Path, new: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as to:
        to.execute(f"PRAGMA page_size = {schema.PAGE}")
        schema.create(to)
        to.execute("BEGIN")
        with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as source:
            source.text_factory = bytes  # what is damaged may be no text
            source.execute("PRAGMA writable_schema = ON")  # with which SQLite reads a file that is too short
            size = old.stat().st_size if _has_tables(source) else 0
            saved = {table: _copy(source, to, table, size) for table in TABLES}
        if not any(saved.values()):
            raise DamagedError(
                f"Nothing of {old} can be read; expected some of it. Restore it from a backup, or delete its folder "
                "and index again."
            )
        lost = drop_orphans(to)
        recount(to)
        write_words(to, [row[0] for row in to.execute("SELECT id FROM files")])
        to.execute("COMMIT")
    counts = ", ".join(f"{count:,} {table}" for table, count in saved.items() if count)
    belonging = f", of which {lost:,} rows belonged to what is lost" if lost else ""
    return [f"what can be read was saved: {counts}{belonging}; the next refresh reads the rest again"]


def _has_tables(source: sqlite3.Connection) -> bool:
    with contextlib.suppress(sqlite3.DatabaseError):
        return bool(source.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    return False


def _copy(source: sqlite3.Connection, to: sqlite3.Connection, table: str, size: int) -> int:
    """The rows of a table that can be read and that the new one takes; how many."""
    columns = [(row[1], row[2] == "TEXT") for row in to.execute(f"PRAGMA table_info({table})")]
    names = ", ".join(name for name, _ in columns)
    statement = f"INSERT OR IGNORE INTO {table}({names}) VALUES ({', '.join('?' * len(columns))})"
    taken = 0
    for row in _rows(source, table, names, size):
        values = [
            value.decode("utf-8", "replace") if is_text and isinstance(value, bytes) else value
            for value, (_, is_text) in zip(row, columns, strict=True)
        ]
        with contextlib.suppress(sqlite3.IntegrityError):
            taken += to.execute(statement, values).rowcount
    return taken


def _rows(source: sqlite3.Connection, table: str, columns: str, size: int) -> Iterator[Row]:
    if table in WITHOUT_IDS:
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.DatabaseError):
                yield from source.execute(f"SELECT {columns} FROM {table} ORDER BY 1 {order}, 2 {order}")
        return
    question = f"SELECT {columns} FROM {table} WHERE id BETWEEN ? AND ?"
    for first in range(1, _last(source, table, size) + 1, AT_ONCE):
        yield from _between(source, question, first, first + AT_ONCE - 1)


def _last(source: sqlite3.Connection, table: str, size: int) -> int:
    """An id that none is above, in a file of so many bytes."""
    for question in (f"SELECT max(id) FROM {table}", f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'"):
        with contextlib.suppress(sqlite3.DatabaseError):
            row = source.execute(question).fetchone()
            return row[0] or 0 if row else 0
    return min(MOST_IDS, size // LEAST_ROW)


def _between(source: sqlite3.Connection, question: str, low: int, high: int) -> list[Row]:
    """Rows by their ids; where some cannot be read, by halves."""
    try:
        return source.execute(question, (low, high)).fetchall()
    except sqlite3.DatabaseError:
        if low == high:
            return []
    middle = (low + high) // 2
    return _between(source, question, low, middle) + _between(source, question, middle + 1, high)
