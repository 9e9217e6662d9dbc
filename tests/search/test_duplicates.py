"""Duplicates of three kinds, which are never mixed, in groups without chains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from indexed import DIM, Item, random_vectors, write_index

from mlx_mm import Index
from mlx_mm.errors import InputError
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.alike import Pairs, complete_groups, count_bits, near_hashes, near_vectors
from mlx_mm.search.records import DuplicateKind

HASH = 0x0F1E_2D3C_4B5A_6978


def turned(vector: Vectors, cosine: float, seed: int = 99) -> Vectors:
    """A vector of length 1 at that cosine from another."""
    other = random_vectors(1, seed)[0]
    other -= (other @ vector) * vector
    return cosine * vector + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)


def found(index: Index, kind: DuplicateKind, threshold: float | None = None) -> list[list[str]]:
    return [[Path(file.path).name for file in group.files] for group in index.duplicates(kind, threshold=threshold)]


def index_of(folder: Path, items: list[Item]) -> Index:
    write_index(folder / "a.mmindex", "/photos", items)
    return Index(folder / "a.mmindex")


def test_the_three_kinds_are_not_mixed(tmp_path: Path) -> None:
    a, b, c, d = random_vectors(4)
    items = [
        Item(("a.jpg", "copy of a.jpg"), a, dhash=HASH, pixels=(400, 300)),
        Item(("a small.jpg",), turned(a, 0.97), dhash=HASH ^ 0b111111, pixels=(200, 150)),
        Item(("a other hash.jpg",), turned(a, 0.97, 5), dhash=HASH ^ 0b1111111, pixels=(100, 75)),
        Item(("a other vector.jpg",), turned(a, 0.95, 6), dhash=HASH, pixels=(40, 30)),
        Item(("b.jpg",), b, dhash=1 << 40 | HASH >> 7),
        Item(("b gone.jpg",), b, dhash=1 << 40 | HASH >> 7, state="missing"),
        Item(("c.wav",), np.stack([c, d]), spans=[(0, 10), (10, 20)], kind="audio", pixels=None),
        Item(("c again.wav",), np.stack([d, c]), spans=[(0, 10), (10, 20)], kind="audio", pixels=None),
    ]
    with index_of(tmp_path, items) as index:
        assert found(index, "identical") == [["a.jpg", "copy of a.jpg"]]
        assert found(index, "same") == [["a.jpg", "a small.jpg"]]
        assert index.duplicates("same")[0].score == pytest.approx(0.97, abs=1e-3)
        assert found(index, "same", 0.9) == [["a.jpg", "a small.jpg", "a other vector.jpg"]]
        similar = found(index, "similar")
        assert sorted(map(sorted, similar)) == [
            ["a other hash.jpg", "a other vector.jpg", "a.jpg"],
            ["c again.wav", "c.wav"],
        ]
        assert found(index, "similar", 1.0) == [["c.wav", "c again.wav"]]


def test_there_are_no_chains(tmp_path: Path) -> None:
    """Of pictures that change little by little, the first and the last are no duplicates."""
    first, last = random_vectors(2)
    last = turned(first, 0.5)
    steps = [np.cos(x) * first + np.sin(x) * (last - first / 2) / np.sqrt(0.75) for x in np.linspace(0, 1, 6)]
    items = [Item((f"{place}.jpg",), vector) for place, vector in enumerate(steps)]
    with index_of(tmp_path, items) as index:
        groups = index.duplicates("similar", threshold=0.9)
        assert len(groups) > 1
        for group in groups:
            members = [steps[int(Path(file.path).stem)] for file in group.files]
            cosines = [float(a @ b) for a in members for b in members]
            assert min(cosines) >= 0.9 - 1e-3
            assert group.score == pytest.approx(min(cosines), abs=1e-3)
        names = [file.path for group in groups for file in group.files]
        assert len(names) == len(set(names))


def test_flat_pictures_are_not_the_same_for_their_hash(tmp_path: Path) -> None:
    red, blue = random_vectors(2)
    blue = turned(red, 0.98)
    items = [
        Item(("red.png",), red, dhash=0),
        Item(("red.jpg",), turned(red, 0.999), dhash=1),
        Item(("blue.png",), blue, dhash=0),
        Item(("rise.png",), turned(red, 0.97, 3), dhash=-1),  # SQLite's 64 bits, all set: a gradient
        Item(("rise blue.png",), turned(red, 0.975, 4), dhash=-2),
    ]
    with index_of(tmp_path, items) as index:
        assert sorted(found(index, "same")[0]) == ["red.jpg", "red.png"]
        assert len(found(index, "same")) == 1


def test_the_keeper_has_most_pixels_then_is_an_original_then_the_earliest(tmp_path: Path) -> None:
    vector = random_vectors(1)[0]
    items = [
        Item(("long name.jpg",), vector, dhash=HASH, pixels=(10, 10), taken_at=100.0),
        Item(("late.jpg",), vector, dhash=HASH, pixels=(10, 10), taken_at=200.0),
        Item(("z.jpg",), vector, dhash=HASH, pixels=(10, 10), taken_at=100.0),
        Item(("raw.HEIC",), vector, dhash=HASH, pixels=(10, 10), taken_at=300.0),
        Item(("large.jpg",), vector, dhash=HASH, pixels=(20, 10), taken_at=400.0),
    ]
    with index_of(tmp_path, items) as index:
        order = ["large.jpg", "raw.HEIC", "z.jpg", "long name.jpg", "late.jpg"]
        assert found(index, "same") == [order]
        assert Path(index.duplicates("same")[0].keeper.path).name == "large.jpg"


def test_what_is_kept_apart_stays_so(tmp_path: Path) -> None:
    vector = random_vectors(1)[0]
    items = [Item((f"{name}.jpg",), vector, dhash=HASH) for name in "abc"]
    with index_of(tmp_path, items) as index:
        (group,) = index.duplicates("same")
        a, b, c = (file.content for file in group.files)
        index.keep_apart(b, a)
        index.keep_apart(a, b)
        assert [len(group.files) for group in index.duplicates("same")] == [2]
        for wrong in ((a, a), (a, "00" * 16), (a, "nothing"), (a, 5)):
            with pytest.raises(InputError, match="expected"):
                index.keep_apart(*wrong)  # type: ignore[arg-type]
    with Index(tmp_path / "a.mmindex") as index:
        assert all({a, b} - {file.content for file in group.files} for group in index.duplicates("same"))
        index.keep_apart(a, c)
        index.keep_apart(b, c)
        assert index.duplicates("same") == index.duplicates("similar") == []


@pytest.mark.parametrize(
    ("kind", "threshold"), [("alike", None), ("same", 0.0), ("same", 1.5), ("similar", "x"), ("identical", 0.9)]
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, kind: DuplicateKind, threshold: float | None) -> None:
    with index_of(tmp_path, []) as index, pytest.raises(InputError, match="expected"):
        index.duplicates(kind, threshold=threshold)


# --- against comparing each with each


def test_near_hashes_are_all_of_them() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 400).astype(np.uint64)
    for place in range(0, 400, 3):
        flips = rng.choice(64, rng.integers(0, 9), replace=False)
        hashes[(place * 7 + 1) % 400] = hashes[place] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    hashes[:40] &= np.uint64(3)
    flat = count_bits(hashes) <= 6
    a, b = near_hashes(hashes, flat)
    distance = np.array([[(int(x) ^ int(y)).bit_count() for y in hashes] for x in hashes])
    expected = np.argwhere((distance <= 6) & ~(flat[:, None] & flat[None]) & np.triu(np.ones_like(distance), 1) > 0)
    assert len(expected) > 50
    assert np.array_equal(np.stack([a, b], 1), expected)


def test_near_vectors_are_all_of_them() -> None:
    vectors = np.repeat(random_vectors(60), 2, axis=0) + np.random.default_rng(1).normal(0, 0.02, (120, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    pairs = near_vectors(vectors, 0.9, 1000)
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    expected = np.argwhere(np.triu(exact @ exact.T, 1) >= 0.9)
    assert np.array_equal(np.stack([pairs.a, pairs.b], 1), expected)
    assert np.abs(pairs.cosines - np.einsum("nd,nd->n", exact[pairs.a], exact[pairs.b])).max() < 1e-6
    with pytest.raises(InputError, match="More than 10 pairs"):
        near_vectors(vectors, 0.9, 10)


def test_groups_are_complete_whatever_the_pairs() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        known = {tuple(sorted(rng.choice(12, 2, replace=False).tolist())) for _ in range(30)}
        a, b = np.array(sorted(known)).T
        cosines = rng.uniform(0.9, 1, len(a)).astype(np.float32)
        groups = complete_groups(Pairs(a, b, cosines), set())
        members = [member for group, _ in groups for member in group]
        assert len(members) == len(set(members))
        for group, score in groups:
            inside = [
                value
                for x, y, value in zip(a.tolist(), b.tolist(), cosines.tolist(), strict=True)
                if x in group and y in group
            ]
            assert len(inside) == len(group) * (len(group) - 1) // 2
            assert score == min(inside)
