"""What a check finds and a repair mends: each harm is done to a store that was whole."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filling import add, make, unit

from mlx_mm.errors import BusyError, DamagedError, StoreError
from mlx_mm.search import words
from mlx_mm.search.codes import extend_codes, open_codes
from mlx_mm.search.inspection import check
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import find_vectors

COUNT = 400
VECTORS = unit(COUNT, 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A file and a thumbnail for each content, a tag for every third."""
    store = make(tmp_path, VECTORS)
    with store.writing() as rows:
        rows.execute("INSERT INTO roots(path) VALUES (?)", (b"/photos",))
        for number in range(1, COUNT + 1):
            name = f"holiday {number}.jpg"
            rows.execute(
                "INSERT INTO files(root, path, name, size, mtime_ns, device, inode, content, state) "
                "VALUES (1, ?, ?, 1, 1, 1, ?, ?, 'here')",
                (name.encode(), name, number, number),
            )
            if number % 3 == 0:
                rows.execute("INSERT INTO tags VALUES (?, 'beach', 1)", (number,))
            words.put(rows, number, name, ["beach"] * (number % 3 == 0))
        digest = rows.execute("SELECT digest FROM contents WHERE id = 1").fetchone()[0].hex()
    thumbnail = store.path / "thumbs" / digest[:2] / f"{digest}.jpg"
    thumbnail.parent.mkdir(parents=True)
    thumbnail.write_bytes(b"\xff\xd8 a picture \xff\xd9")
    with store.writer():
        extend_codes(store, 1)
    return store


def sql(*statements: str) -> Callable[[Store], None]:
    def run(store: Store) -> None:
        with sqlite3.connect(store.database) as rows:  # without foreign keys
            for statement in statements:
                rows.execute(statement)
        rows.close()

    return run


def break_thumbnail(store: Store) -> None:
    next(store.path.glob("thumbs/*/*.jpg")).write_bytes(b"\xff\xd8 half a pic")


def break_codes(store: Store) -> None:
    codes = next(store.path.glob("codes-*"))
    content = bytearray(codes.read_bytes())
    content[200 * 64 + 5] ^= 64
    codes.write_bytes(content)


NAN = np.full(64, np.nan, "<f2").tobytes().hex()
HARMS = {
    "counted wrongly": sql("UPDATE contents SET live = 7 WHERE id = 5"),
    "belong to others": sql("DELETE FROM contents WHERE id = 9"),
    "2 vectors are broken": sql(
        "DROP TRIGGER vector_changed",
        f"UPDATE vectors SET vector = x'{NAN}' WHERE id = 3",
        "UPDATE vectors SET vector = x'00' WHERE id = 8",
    ),
    "1 vectors are broken": sql(
        "DROP TRIGGER vector_changed", "UPDATE vectors SET vector = zeroblob(128) WHERE id = 3"
    ),
    "names of 2 files": sql(
        "DELETE FROM words WHERE rowid = 4", "INSERT INTO words(rowid, path, tags) VALUES (9999, 'x', 'y')"
    ),
    "what the model m is known by": sql(
        """UPDATE spaces SET about = '{"canaries": ["image"]}', canary = zeroblob(256)"""
    ),
    "1 thumbnails are damaged": break_thumbnail,
    "codes of space 1": break_codes,
}


def test_a_whole_store(store: Store) -> None:
    for repair in (False, True):
        report = check(store, repair=repair)
        assert report.problems == ()
        assert report.repaired == ()
        assert report.counts["vectors"] == report.counts["files"] == COUNT
    for path in store.path.glob("*.i8"):  # derived files may be absent
        path.unlink()
    assert check(store).problems == ()


@pytest.mark.parametrize("harm", HARMS)
def test_harm_is_found_and_mended(store: Store, harm: str) -> None:
    HARMS[harm](store)
    problems = check(store).problems
    assert any(harm in problem for problem in problems)
    assert check(store).problems == problems  # a check changes nothing
    report = check(store, repair=True)
    assert report.problems == problems
    assert report.repaired
    assert report.left == ()
    assert check(store).problems == ()
    lost = {"belong to others": 1, "2 vectors are broken": 2, "1 vectors are broken": 1}.get(harm, 0)
    lost = COUNT if "model" in harm else lost
    assert check(store).counts["vectors"] == COUNT - lost
    if lost < COUNT:
        assert len(open_codes(store, 1)) == COUNT - lost
    with store.reading() as rows:
        assert rows.execute("SELECT count(*) FROM contents WHERE live != 1").fetchone()[0] == 0
        assert (4 in words.find(rows, "holiday 4")) == (harm != "nothing")


def test_repair_waits_for_nobody(store: Store) -> None:
    HARMS["counted wrongly"](store)
    with Store(store.path).writer(), pytest.raises(BusyError):
        check(store, repair=True)
    with Store(store.path).writer():
        assert len(check(store).problems) == 1


def harmed(store: Store, start: int, count: int) -> None:
    """The bytes of some pages are others."""
    store.close()
    with store.database.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(count))


@pytest.mark.parametrize("harm", ["pages", "truncated"])
def test_of_a_damaged_file_what_can_be_read_is_saved(store: Store, harm: str) -> None:
    store.close()
    size = store.database.stat().st_size
    if harm == "pages":
        place = store.database.read_bytes().index(VECTORS[200].astype("<f2").tobytes())
        harmed(store, place // 8192 * 8192, 8192)
    else:
        os.truncate(store.database, 8192 * (size // 8192 * 3 // 4))
    damaged = Store(store.path)
    problems = check(damaged).problems
    assert problems
    report = check(damaged, repair=True)
    assert report.problems
    assert any("saved" in line for line in report.repaired)
    assert check(damaged).problems == ()
    with damaged.reading() as rows:
        found = rows.execute("SELECT id, content FROM vectors").fetchall()
        vectors, _ = find_vectors(rows, np.array([row[0] for row in found]))
        files = rows.execute("SELECT count(*) FROM files").fetchone()[0]
    assert COUNT / 4 < len(found) < COUNT or files < COUNT
    right = VECTORS[[row[0] - 1 for row in found]]
    assert np.abs(vectors - right).max() < 1e-3
    assert len(open_codes(damaged, 1)) == len(found)
    assert (store.path / "index.sqlite.damaged").exists()
    add(damaged, unit(3, 64, seed=3))
    assert check(damaged).problems == ()


def test_a_file_of_which_nothing_is_left(store: Store) -> None:
    harmed(store, 0, store.database.stat().st_size)
    before = store.database.read_bytes()
    damaged = Store(store.path)
    assert check(damaged).problems
    with pytest.raises(DamagedError, match=r"Nothing of .* can be read"):
        check(damaged, repair=True)
    assert store.database.read_bytes() == before
    assert not list(store.path.glob("*.new*"))


def test_where_there_is_no_index(tmp_path: Path) -> None:
    for repair in (False, True):
        with pytest.raises(StoreError, match="no index"):
            check(Store(tmp_path / "none.mmindex"), repair=repair)
    assert not list(tmp_path.iterdir())
