"""What rows of different tables owe each other, made right where it is not: triggers and foreign keys hold it, unless
somebody else has written to the file, or a part of it was lost."""

import sqlite3
from collections.abc import Sequence

from mlx_mm.search import words

MISCOUNTED = (
    "SELECT id FROM contents WHERE live != (SELECT count(*) FROM files WHERE content = contents.id AND state = 'here')"
)
_ORPHANS = (
    "DELETE FROM files WHERE root NOT IN (SELECT id FROM roots)",
    "DELETE FROM files WHERE content NOT IN (SELECT id FROM contents)",  # which the next refresh finds again
    "DELETE FROM vectors WHERE content NOT IN (SELECT id FROM contents) OR space NOT IN (SELECT id FROM spaces)",
    "DELETE FROM tags WHERE content NOT IN (SELECT id FROM contents)",
)


def drop_orphans(rows: sqlite3.Connection) -> int:
    """Take away rows that belong to one which is not there; how many."""
    return sum(rows.execute(statement).rowcount for statement in _ORPHANS)


def recount(rows: sqlite3.Connection) -> None:
    """How many files that are there hold each content, where that is wrong."""
    rows.execute(
        "UPDATE contents SET live = (SELECT count(*) FROM files WHERE content = contents.id AND state = 'here') "
        f"WHERE id IN ({MISCOUNTED})"
    )


def write_words(rows: sqlite3.Connection, files: Sequence[int]) -> None:
    """What files are found by, by their ids."""
    for number in files:
        name, content = rows.execute("SELECT name, content FROM files WHERE id = ?", (number,)).fetchone()
        labels = rows.execute("SELECT label FROM tags WHERE content = ? ORDER BY label", (content,)).fetchall()
        words.put(rows, number, name, [row[0] for row in labels])
