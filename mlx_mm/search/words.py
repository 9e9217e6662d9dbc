"""Names and tags of files as words: what is typed is found in them, whatever it holds."""

import sqlite3
import unicodedata
from collections.abc import Iterable

SHORTEST_START = 3  # letters of a Latin word from which on it also finds longer words that begin so
MOST_WORDS = 32  # of a query: more are a sentence, which no name holds


def put(connection: sqlite3.Connection, file_id: int, path: str, tags: Iterable[str]) -> None:
    """Write what a file is found by, in place of what was written for it. path: below its root, as text; tags: all
    labels of its content. The caller is the writer."""
    take_away(connection, file_id)
    connection.execute(
        "INSERT INTO words(rowid, path, tags) VALUES (?, ?, ?)", (file_id, _plain(path), _plain("\n".join(tags)))
    )


def put_tags(connection: sqlite3.Connection, file_id: int, tags: Iterable[str]) -> None:
    """Write other tags for a file that has been `put`."""
    connection.execute("UPDATE words SET tags = ? WHERE rowid = ?", (_plain("\n".join(tags)), file_id))


def take_away(connection: sqlite3.Connection, file_id: int) -> None:
    """Forget what a file is found by; nothing where there is nothing."""
    connection.execute("DELETE FROM words WHERE rowid = ?", (file_id,))


def find(connection: sqlite3.Connection, text: str) -> list[int]:
    """Ids of the files whose names and tags hold all words of a text, those that fit best first.

    Of a word its beginning is enough, from three letters on, or one where it is not Latin. Marks and operators of
    SQLite's are no syntax, diacritics and case do not matter.
    """
    pattern = _pattern(text)
    if not pattern:
        return []
    # bm25 counts a word in a tag as much as three in a path: tags were given on purpose.
    rows = connection.execute(
        "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, 1.0, 3.0), rowid", (pattern,)
    )
    return [row[0] for row in rows]


def _pattern(text: str) -> str:
    """What FTS5 is asked: each word in quotes, which it splits as it split the names, all of them to be there."""
    found = _plain(text).replace('"', " ").split()
    known = [word for word in found if any(character.isalnum() for character in word)]
    return " ".join(map(_term, known)) if len(known) <= MOST_WORDS else ""


def _term(word: str) -> str:
    is_start = not word.isascii() or len(word) >= SHORTEST_START
    return f'"{word}"*' if is_start else f'"{word}"'


def _plain(text: str) -> str:
    """In NFC, without what SQLite cannot hold: half a surrogate pair, which stands for a byte that is no UTF-8."""
    return unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode().replace("\0", " ")
