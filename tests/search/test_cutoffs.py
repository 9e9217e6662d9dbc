"""The cutoff of each vector: against neutral texts, kept in a file that may go at any time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from indexed import Item, random_vectors, write_index

from mlx_mm import Index, load
from mlx_mm.embed import encode_text
from mlx_mm.search.cutoffs import DEVIATIONS, NEUTRAL, cutoffs_of, least_of_example
from mlx_mm.search.spaces import Space, Spaces
from mlx_mm.search.store import Store

VECTORS = random_vectors(6).astype(np.float16).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_index(tmp_path / "a.mmindex", "/p", [Item((f"{n}.jpg",), vector) for n, vector in enumerate(VECTORS)])
    return Store(tmp_path / "a.mmindex")


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_cutoffs_are_deviations_above_what_neutral_texts_reach(store: Store) -> None:
    (space,) = Spaces(store).all()
    cosines = VECTORS @ encode_text(*load("emoji-siglip2"), list(NEUTRAL)).T
    expected = cosines.mean(1) + DEVIATIONS * cosines.std(1).mean()
    got = cutoffs_of(store, space, ids(1, 2, 3, 4, 5, 6)).of(ids(1, 2, 3, 4, 5, 6))
    assert np.abs(got - expected).max() < 2e-4
    assert len(set(NEUTRAL)) == len(NEUTRAL) == 64


def test_they_are_kept_in_a_file_that_grows(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (space,) = Spaces(store).all()
    first = cutoffs_of(store, space, ids(1, 3))
    asked: list[object] = []
    monkeypatch.setattr(Space, "vectors_of_text", lambda *texts: asked.append(texts))
    more = cutoffs_of(store, space, ids(1, 2, 3, 4))
    assert more.ids.tolist() == [1, 2, 3, 4]
    assert np.array_equal(more.reached[:, [0, 2]], first.reached)
    assert cutoffs_of(store, space, ids(2), more) is more
    assert not asked
    assert [path.name for path in (tmp_path / "a.mmindex").glob("cutoffs-*")] == ["cutoffs-1.npz"]


@pytest.mark.parametrize("damage", ["gone", "cut", "nonsense", "another index"])
def test_a_file_that_is_lost_or_damaged_is_made_again(store: Store, tmp_path: Path, damage: str) -> None:
    (space,) = Spaces(store).all()
    first = cutoffs_of(store, space, ids(1, 2))
    path = tmp_path / "a.mmindex" / "cutoffs-1.npz"
    whole = path.read_bytes()
    if damage == "another index":
        with np.load(path) as arrays:
            kept = dict(arrays)
        np.savez(path, **(kept | {"key": np.array("other"), "reached": kept["reached"] + 1}))
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"nonsense")
    assert np.array_equal(cutoffs_of(store, space, ids(1, 2)).reached, first.reached)
    with np.load(path) as arrays:
        assert np.array_equal(arrays["reached"], first.reached)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_index_that_cannot_be_written_is_searched(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "a.mmindex"
    store.close()
    folder.chmod(0o500)
    try:
        with Index(folder) as index:
            assert len(index.search("pizza", strong_only=False)) == 6
    finally:
        folder.chmod(0o700)


def test_nothing_fits_a_vector_that_was_taken_away(store: Store) -> None:
    (space,) = Spaces(store).all()
    assert cutoffs_of(store, space, ids(2, 99)).reached[0, 1] == 1


def test_an_example_is_liked_by_what_lies_most_of_the_way_to_it() -> None:
    usual = np.full(100, 0.5, np.float32)
    usual[:10] = 0.99
    assert least_of_example(usual) == pytest.approx(0.8)
    assert least_of_example(usual[:1]) == pytest.approx(0.18 + 0.6 * 0.82)  # of so few nothing is known
