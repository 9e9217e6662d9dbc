"""Making an index smaller, forgetting, counting."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filling import make, unit

from mlx_mm.errors import BusyError, InputError, StoreError
from mlx_mm.search import words
from mlx_mm.search.codes import open_codes
from mlx_mm.search.inspection import check
from mlx_mm.search.roots import moved
from mlx_mm.search.store import Store
from mlx_mm.search.tending import compact, forget, stats

COUNT = 1000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Contents in three roots by turns, one of which lies in a folder whose name begins like another's."""
    store = make(tmp_path, unit(COUNT, 64))
    roots = [b"/photos", b"/photos 2", os.fsencode(tmp_path / "caf\udce9")]
    with store.writing() as rows:
        for path in roots:
            rows.execute("INSERT INTO roots(path) VALUES (?)", (path,))
        for number in range(1, COUNT + 1):
            path = f"{'a' if number % 2 else 'ab'}/{number}.jpg"
            rows.execute(
                "INSERT INTO files(root, path, name, size, mtime_ns, device, inode, content, state, gone_at) "
                "VALUES (?, ?, ?, 1, 1, 1, ?, ?, ?, 5)",
                (number % 3 + 1, path.encode(), path, number, number, "missing" if number <= 100 else "here"),
            )
            words.put(rows, number, path, [])
        digests = [row[0].hex() for row in rows.execute("SELECT digest FROM contents ORDER BY id")]
    for digest in (digests[0], digests[-1]):
        path = store.path / "thumbs" / digest[:2] / f"{digest}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff\xd9")
        path.with_suffix(".77-88").write_bytes(b"\xff\xd8 half")
    return store


def left(store: Store) -> dict[str, int]:
    report = check(store)
    assert not report.problems
    return dict(report.counts)


def thumbnails(store: Store) -> int:
    return len(list(store.path.glob("thumbs/*/*.jpg")))


def test_forgetting_what_is_gone(store: Store) -> None:
    assert forget(store, missing=False, folders=[]) == 0
    assert left(store)["vectors"] == COUNT
    assert forget(store, missing=True, folders=[]) == 100
    assert forget(store, missing=True, folders=[]) == 0
    counts = left(store)
    assert (counts["files"], counts["contents"], counts["vectors"]) == (900, 900, 900)
    assert thumbnails(store) == 1
    assert open_codes(store, 1).ids.min() == 101
    with store.reading() as rows:
        assert 50 not in words.find(rows, "50")
        assert 150 in words.find(rows, "150")


def test_forgetting_folders(store: Store, tmp_path: Path) -> None:
    assert forget(store, missing=False, folders=[Path("/photos/")]) == 333
    assert left(store)["roots"] == 2
    below = [number for number in range(1, COUNT + 1) if number % 3 == 1 and number % 2]
    assert forget(store, missing=False, folders=[Path("/photos 2/a")]) == len(below)  # and not those of "ab"
    assert forget(store, missing=False, folders=[tmp_path / "caf\udce9"]) == 333
    for none in (Path("/photos"), Path("/elsewhere"), Path("/photos 2/a")):
        with pytest.raises(InputError, match="/photos 2"):
            forget(store, missing=True, folders=[none])
    assert left(store)["files"] == COUNT - 666 - len(below)


def test_compacting(store: Store) -> None:
    compact(store)
    before = store.database.stat().st_size
    vectors = open_codes(store, 1)
    with store.writing() as rows:
        rows.execute("DELETE FROM files WHERE id > 200")
    compact(store)
    counts = left(store)
    assert (counts["files"], counts["contents"], counts["vectors"]) == (200, 200, 200)
    assert store.database.stat().st_size < 0.5 * before
    assert len(list(store.path.glob("thumbs/*/*"))) == 1
    codes = open_codes(store, 1)
    assert codes.ids.tolist() == list(range(1, 201))
    assert codes.generation > vectors.generation
    assert len(list(store.path.glob("*.i8"))) == 2


def test_stats(store: Store) -> None:
    found = stats(store)
    assert found["files"] == {"here": 900, "missing": 100}
    assert found["contents"] == {"image": COUNT}
    assert found["hidden"] == 100
    assert found["spaces"] == [{"model": "m", "dim": 64, "vectors": COUNT}]
    sizes = found["bytes"]
    assert isinstance(sizes, dict)
    assert sizes["thumbnails"] == 22
    assert sizes["index"] > COUNT * 128


def test_where_there_is_no_index(tmp_path: Path) -> None:
    for tend in (compact, stats, lambda store: forget(store, missing=True, folders=[])):
        with pytest.raises(StoreError, match="no index"):
            tend(Store(tmp_path / "none.mmindex"))
    assert not list(tmp_path.iterdir())


def test_they_wait_for_another_writer(store: Store, tmp_path: Path) -> None:
    tasks: list[Callable[[float], object]] = [
        lambda wait: compact(store, wait),
        lambda wait: forget(store, missing=True, folders=[], wait=wait),
        lambda wait: moved(store, Path("/photos"), tmp_path, wait),
    ]
    for task in tasks:
        begun = threading.Event()

        def write(begun: threading.Event = begun) -> None:
            with Store(store.path).writer():
                begun.set()
                time.sleep(0.3)

        other = threading.Thread(target=write)
        other.start()
        begun.wait()
        with pytest.raises(BusyError):
            task(0.0)
        task(30.0)
        other.join()
