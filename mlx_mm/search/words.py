"""Names and tags of files as words: what is typed is found in them, whatever it holds."""

import re
import sqlite3
import unicodedata
from collections.abc import Iterable

NAME_LIKE = re.compile(r"[\d_]")
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

    Case, diacritics, and what SQLite takes for syntax do not matter. Of what looks like a name ("IMG_20") or is written
    without blanks between words ("猫"), the beginning is enough; of a word it is not, or "cat" would find catalogues.
    """
    known = [word for word in _plain(text).replace('"', " ").split() if any(map(str.isalnum, word))]
    if not known or len(known) > MOST_WORDS:
        return []
    # bm25 counts a word in a tag as much as three in a path: tags were given on purpose.
    rows = connection.execute(
        "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, 1.0, 3.0), rowid",
        (" ".join(map(_term, known)),),
    )
    return [row[0] for row in rows]


def _term(word: str) -> str:
    """In quotes, inside which FTS5 splits a word as it split the names."""
    is_start = NAME_LIKE.search(word) or any(unicodedata.category(character) == "Lo" for character in word)
    return f'"{word}"*' if is_start else f'"{word}"'


def _plain(text: str) -> str:
    """In NFC, without what SQLite cannot hold: half a surrogate pair, which stands for a byte that is no UTF-8."""
    return unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode().replace("\0", " ")
