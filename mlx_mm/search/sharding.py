"""Which share of the work a machine has: one of N shards, by the names of files.

A name needs no reading, so a shard reads its own files only, where the digest of a content would have each machine read
all of them. What that costs is a second run of the model for a copy that another shard has, of which a merge keeps one.
"""

import hashlib
import re
import sqlite3
import unicodedata
from dataclasses import dataclass

from mlx_mm.errors import InputError, shown
from mlx_mm.search.store import Store

KEY = "shard"  # in the table `meta` of a part


@dataclass(frozen=True)
class Shard:
    """number: from 1 to `of`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Of "1/3". Raises InputError for anything else, and for a number that is out of range."""
        found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
        number, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= of:
            raise InputError(
                f"The shard is {shown(text)}; expected I/N with I from 1 to N, such as 1/3. Write --shard 1/{of or 3}."
            )
        return cls(number, of)

    def has(self, name: str | bytes) -> bool:
        """Whether a file is in it, by its path below its folder; systems that spell accents differently agree."""
        text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
        plain = unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "big") % self.of == self.number - 1

    def named(self, stem: str, ending: str) -> str:
        """The name of what this shard writes, beside those of the others."""
        return f"{stem}-{self.number}-of-{self.of}{ending}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def shard_of(rows: sqlite3.Connection) -> Shard | None:
    """What share of the files an index has; None of one that has all."""
    found = rows.execute("SELECT value FROM meta WHERE key = ?", (KEY,)).fetchone()
    return None if found is None else Shard.parse(found[0])


def settled(store: Store, shard: Shard | None) -> Shard | None:
    """The shard of an index, which remembers it; the caller is the writer. Raises InputError for another one."""
    with store.reading() as rows:
        known, in_use = shard_of(rows), rows.execute("SELECT 1 FROM roots").fetchone() is not None
    if shard is None or shard == known:
        return known
    if known is not None or in_use:
        held = "all files" if known is None else f"shard {known}"
        raise InputError(
            f"{store.path} holds {held}; expected shard {shard}, or a new index. Name another with --index."
        )
    with store.writing() as rows:
        rows.execute("INSERT INTO meta VALUES (?, ?)", (KEY, str(shard)))
    return shard
