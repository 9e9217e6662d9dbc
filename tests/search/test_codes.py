"""Vectors as bytes: what they promise of scores, and their files, which may be cut, changed or deleted."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from filling import add, make, unit

from mlx_mm.errors import OutputError, StoreError
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search import codes as codes_module
from mlx_mm.search.codes import SLOT, encode, extend_codes, open_codes
from mlx_mm.search.store import Store

BOTH = pytest.mark.parametrize("kernels", [True, False])


def stored(vectors: Vectors) -> Vectors:
    return vectors.astype(np.float16).astype(np.float32)


def files(store: Store) -> list[Path]:
    return sorted(store.path.glob("*.i8"))


# --- what they promise ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dim", [5, 64, 100])
def test_no_score_is_wrong_by_more_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: bool, dim: int
) -> None:
    if not kernels:
        monkeypatch.setattr("mlx_mm.backend.scan.open_library", lambda: None)
    vectors = unit(500, dim)
    vectors[:100, 0] = 3  # a dimension that sticks out, as some models have
    vectors[100:200] **= 3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = open_codes(make(tmp_path, vectors), 1)
    queries = np.concatenate([unit(20, dim, seed=1), 7 * vectors[::50]])
    right = queries.astype(np.float64) @ stored(vectors).T.astype(np.float64)
    found = codes.scores(queries)
    one = np.ones(1, np.float32)
    for query, own, exact in zip(queries, found, right, strict=True):
        bounds = codes.bounds(query[None], one)
        assert (np.abs(own - exact) <= bounds).all()
        assert bounds.max() <= codes.error * np.linalg.norm(query)
        assert bounds.max() < 0.05 * np.linalg.norm(query)
    tight = np.abs(found - right).max(axis=0) / codes.errors
    assert tight.max() > 0.2  # the bound is no more than it must be
    weights = np.linspace(-1, 2, len(queries), dtype=np.float32)
    assert (np.abs(weights @ found - weights @ right) <= codes.bounds(queries, weights)).all()


def test_errors_are_lengths() -> None:
    vectors = unit(50, 70)
    vectors[7] = 0
    scales, errors, rows = encode(vectors)
    lost = np.linalg.norm(vectors - rows[:, :70] * scales[:, None], axis=1)
    assert rows.shape == (50, 128)
    assert not rows[:, 70:].any()
    assert np.abs(rows).max(axis=1).tolist() == [127] * 7 + [0] + [127] * 42
    assert (errors >= lost).all()
    assert (errors - lost).max() < 2e-6


# --- their files ----------------------------------------------------------------------------------------------------


def expected(vectors: Vectors) -> tuple[list[int], Vectors]:
    return list(range(1, len(vectors) + 1)), encode(stored(vectors))[2]


def check(store: Store, vectors: Vectors) -> None:
    """Codes are those of the vectors, whether anything of them was in files or not."""
    ids, rows = expected(vectors)
    for other in (store, Store(store.path)):
        codes = open_codes(other, 1)
        assert codes.ids.tolist() == ids
        assert codes.contents.tolist() == ids
        assert np.array_equal(np.concatenate(codes.blocks), rows)


def test_files_grow(tmp_path: Path) -> None:
    vectors = unit(300)
    store = make(tmp_path, vectors[:100])
    check(store, vectors[:100])
    assert not files(store)  # so few are computed
    with store.writer():
        extend_codes(store, 1)
    sizes = [path.stat().st_size for path in files(store)]
    assert sizes == [100 * 64, 100 * SLOT.itemsize]
    before = open_codes(store, 1)
    add(store, vectors[100:])
    check(store, vectors)
    with store.writer():
        extend_codes(store, 1)
    assert [path.stat().st_size for path in files(store)] == [3 * size for size in sizes]
    check(store, vectors)
    assert np.array_equal(np.concatenate(before.blocks), expected(vectors[:100])[1])  # as it was opened
    assert open_codes(store, 1) is open_codes(store, 1)


def test_a_reader_writes_what_is_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module, "MUCH", 100)
    monkeypatch.setattr(codes_module, "AT_ONCE", 30)
    vectors = unit(130)
    store = make(tmp_path, vectors)
    with Store(store.path).writer():  # somebody else writes
        assert len(open_codes(store, 1)) == 130
        assert not files(store)
    check(Store(store.path), vectors)
    assert [path.stat().st_size for path in files(store)] == [130 * 64, 130 * SLOT.itemsize]


@pytest.mark.parametrize(
    "harm", ["no codes", "no slots", "none", "cut codes", "cut slots", "changed", "of another index"]
)
def test_files_that_are_not_whole(tmp_path: Path, harm: str) -> None:
    vectors = unit(200)
    store = make(tmp_path, vectors)
    with store.writer():
        extend_codes(store, 1)
    codes, slots = files(store)
    if harm in ("no codes", "none"):
        codes.unlink()
    if harm in ("no slots", "none"):
        slots.unlink()
    if harm == "cut codes":
        os.truncate(codes, 77 * 64 + 5)
    if harm == "cut slots":
        os.truncate(slots, 50 * SLOT.itemsize - 1)
    if harm == "changed":
        codes.write_bytes(bytes(200 * 64))
    if harm == "of another index":
        other = make(tmp_path / "other", unit(200, seed=1))
        with other.writer():
            extend_codes(other, 1)
        for mine, theirs in zip(files(store), files(other), strict=True):
            mine.write_bytes(theirs.read_bytes())
    check(store, vectors)
    with store.writer():
        extend_codes(store, 1)
    check(store, vectors)
    assert [path.stat().st_size for path in files(store)] == [200 * 64, 200 * SLOT.itemsize]


def test_what_was_taken_away_begins_a_generation(tmp_path: Path) -> None:
    vectors = unit(60)
    store = make(tmp_path, vectors)
    with store.writer():
        extend_codes(store, 1)
    before = files(store)
    assert open_codes(store, 1).generation == 0
    with store.writing() as rows:
        rows.execute("DELETE FROM contents WHERE id = 7")  # and its vectors
    codes = open_codes(store, 1)
    assert codes.generation == 1
    assert codes.ids.tolist() == [number for number in range(1, 61) if number != 7]
    with store.writer():
        extend_codes(store, 1)
    assert len(files(store)) == 2
    assert not set(files(store)) & set(before)
    kept = np.concatenate([encode(stored(vectors))[2][:6], encode(stored(vectors))[2][7:]])
    assert np.array_equal(np.concatenate(open_codes(Store(store.path), 1).blocks), kept)


def test_what_stays_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module, "AT_ONCE", 20)
    vectors = unit(100)
    store = make(tmp_path, vectors[:90])
    with store.writer():
        extend_codes(store, 1)
    add(store, vectors[90:])
    with store.writing() as rows:
        rows.execute("DELETE FROM contents WHERE id % 9 = 0")
    encoded: list[int] = []

    def spy(some: Vectors) -> tuple[Vectors, Vectors, codes_module.Bytes]:
        encoded.append(len(some))
        return encode(some)

    monkeypatch.setattr(codes_module, "encode", spy)
    with store.writer():
        extend_codes(store, 1)
    assert sum(number for number in encoded if number > 1) == 9  # 91 … 98, 100; others were looked at, one by one
    codes = open_codes(Store(store.path), 1)
    places = [number for number in range(1, 101) if number % 9]
    assert codes.ids.tolist() == codes.contents.tolist() == places
    assert np.array_equal(codes.blocks[0], encode(stored(vectors))[2][np.array(places) - 1])


def test_a_vector_does_not_change(tmp_path: Path) -> None:
    store = make(tmp_path, unit(3))
    with pytest.raises(sqlite3.IntegrityError, match="replaced"), store.writing() as rows:
        rows.execute("UPDATE vectors SET vector = zeroblob(64) WHERE id = 2")


def test_files_that_are_further_than_a_view(tmp_path: Path) -> None:
    """A writer whose view is old leaves them alone: others have them mapped."""
    store = make(tmp_path, unit(30))
    with store.reading():
        open_codes(store, 1)
        other = Store(store.path)
        add(other, unit(20, seed=1))
        with other.writer():
            extend_codes(other, 1)
        sizes = [path.stat().st_size for path in files(store)]
        with store.writer():
            extend_codes(store, 1)
        assert [path.stat().st_size for path in files(store)] == sizes
    assert len(open_codes(store, 1)) == 50


def test_an_older_copy_of_the_truth(tmp_path: Path) -> None:
    """The files have ids that a restored database gives to other vectors."""
    vectors = unit(80)
    store = make(tmp_path, vectors[:50])
    store.close()
    saved = store.database.read_bytes()
    store = Store(store.path)
    add(store, vectors[50:])
    with store.writer():
        extend_codes(store, 1)
    store.close()
    store.database.write_bytes(saved)
    store = Store(store.path)
    check(store, vectors[:50])
    others = unit(30, seed=5)
    add(store, others)
    check(store, np.concatenate([vectors[:50], others]))


def test_two_spaces(tmp_path: Path) -> None:
    store = make(tmp_path, unit(50))
    with store.writing() as rows:
        rows.execute(
            "INSERT INTO spaces(fingerprint, model, dim, kinds, about, canary) VALUES ('g', 'n', 16, '[]', '{}', '')"
        )
    add(store, unit(30, 16), space=2)
    with store.writer():
        extend_codes(store, 1)
        extend_codes(store, 2)
    first, second = open_codes(store, 1), open_codes(store, 2)
    assert (len(first), len(second)) == (50, 30)
    assert second.ids.tolist() == list(range(51, 81))
    assert open_codes(store, 1) is first
    assert open_codes(store, 2) is second
    with store.writing() as rows:
        rows.execute("DELETE FROM spaces WHERE id = 1")
    assert open_codes(store, 2) is second
    with pytest.raises(StoreError, match="space number 1"):
        open_codes(store, 1)


def test_a_view_and_what_is_newer(tmp_path: Path) -> None:
    vectors = unit(40)
    store = make(tmp_path, vectors[:30])
    with store.reading():
        assert len(open_codes(store, 1)) == 30
        other = Store(store.path)
        add(other, vectors[30:])
        with other.writer():
            extend_codes(other, 1)
        open_codes(other, 1)
        store.kept[1] = other.kept[1]  # as another thread would have left it
        assert open_codes(store, 1).ids.tolist() == list(range(1, 31))
        store.kept.clear()
        assert open_codes(store, 1).ids.tolist() == list(range(1, 31))
    assert len(open_codes(store, 1)) == 40


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path, unit(30))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with store.writer(), pytest.raises(OutputError, match=r"codes-1-0-.*the disk is full"):
        extend_codes(store, 1)
    monkeypatch.undo()
    check(store, unit(30))
