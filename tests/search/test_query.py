"""Searching: what fits comes first, what does not is not shown, and filters only take away."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from indexed import BUNDLED, DIM, PICTURES, Item, random_vectors, write_index

from mlx_mm import Hit, Index, MlxMmError, Where
from mlx_mm.embed import encode_text
from mlx_mm.errors import InputError, MediaError
from mlx_mm.load import load
from mlx_mm.search.stored_vectors import STORED

SEARCHES = json.loads((BUNDLED / "demo.json").read_text())["searches"]
ABSENT = ["tax return", "Betriebsversammlung", "合同"]


def names(hits: list[Hit]) -> list[str]:
    return [Path(hit.path).name for hit in hits]


def number_of(name: str) -> str:
    """What the fixture calls a bundled picture."""
    return f"{[picture.stem for picture in PICTURES].index(name):02}.png"


def index_of(folder: Path, items: list[Item]) -> Index:
    write_index(folder / "a.mmindex", "/photos", items)
    return Index(folder / "a.mmindex")


# --- on the bundled pictures


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search["language"])
def test_words_of_eleven_languages_find_their_picture_and_no_other(emoji: Index, search: dict[str, str]) -> None:
    hits = emoji.search(search["query"])
    assert names(hits) == [number_of(search["expected"])]
    assert hits[0].strong
    assert (hits.strong, hits.weaker) == (1, 41)


@pytest.mark.parametrize("words", ABSENT)
def test_what_is_not_there_is_not_found(emoji: Index, words: str) -> None:
    assert emoji.search(words) == []
    weak = emoji.search(words, strong_only=False, top=5)
    assert len(weak) == 5
    assert not any(hit.strong for hit in weak)


def test_scores_are_exact_and_standard_scores_are_over_the_whole_index(emoji: Index) -> None:
    """As NumPy has them of the vectors in the store, whatever else the query filters."""
    with sqlite3.connect(Path(emoji.search("pizza")[0].path).parent / "emoji.mmindex" / "index.sqlite") as rows:
        blobs = rows.execute("SELECT f.name, v.vector FROM vectors v JOIN files f ON f.content = v.content").fetchall()
    vectors = np.stack([np.frombuffer(blob, STORED) for _, blob in blobs]).astype(np.float32)
    expected = vectors @ encode_text(*load("emoji-siglip2"), "pizza")
    hits = emoji.search("pizza", strong_only=False, top=42)
    by_name = dict(zip([name for name, _ in blobs], expected.tolist(), strict=True))
    assert names(hits) == sorted(by_name, key=lambda name: -by_name[name])
    for hit in hits:
        assert hit.score == pytest.approx(by_name[Path(hit.path).name], abs=1e-6)
        assert hit.z == pytest.approx((hit.score - expected.mean()) / expected.std(), abs=0.02)  # of 8-bit codes
    some = emoji.search("pizza", strong_only=False, where=Where(name="1"), top=42)
    assert [hit.z for hit in some] == [hit.z for hit in hits if "1" in Path(hit.path).name]


def test_examples_find_what_is_like_them(emoji: Index, tmp_path: Path) -> None:
    whale = PICTURES[-1]
    assert names(emoji.search(like=whale)) == [number_of("whale")]
    assert names(emoji.search(like=whale.read_bytes())) == [number_of("whale")]
    assert emoji.search(like=whale, unlike=whale) == []
    assert names(emoji.search("пингвин", unlike=PICTURES[0])) == [number_of("penguin")]


def test_an_example_in_the_index_runs_no_model(emoji: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    path = emoji.search("pizza")[0].path

    def fail(*_: object) -> None:
        raise AssertionError("a model ran")

    monkeypatch.setattr("mlx_mm.search.spaces.Space.opened", fail)
    assert emoji.search(like=path)[0].path == path
    with pytest.raises(AssertionError, match="a model ran"):
        emoji.search(like=PICTURES[0])


def test_parts_are_weighed_as_standard_scores(emoji: Index) -> None:
    """Words and pictures lie in two cones: the sum of their vectors would follow the picture alone."""
    both = emoji.search("пингвин", like=PICTURES[-1])
    assert set(names(both)) == {number_of("penguin"), number_of("whale")}
    first = [names(emoji.search("пингвин", like=PICTURES[-1], weights=weights))[0] for weights in ([5, 1], [1, 5])]
    assert first == [number_of("penguin"), number_of("whale")]


def test_what_is_not_wanted_is_left_out(emoji: Index) -> None:
    assert names(emoji.search(["Hund", "gato"])) == [number_of("dog"), number_of("cat")] or names(
        emoji.search(["Hund", "gato"])
    ) == [number_of("cat"), number_of("dog")]
    assert names(emoji.search(["Hund", "gato"], without="dog")) == [number_of("cat")]
    others = emoji.search(without="dog", where=Where(kind="image"), top=100)
    assert len(others) == 41
    assert number_of("dog") not in names(others)


def test_what_is_shown_can_be_limited(emoji: Index) -> None:
    hits = emoji.search("pizza", strong_only=False, top=42)
    middle = float(hits[10].score or 0)
    assert [hit.path for hit in emoji.search("pizza", strong_only=False, top=3)] == [hit.path for hit in hits[:3]]
    above = emoji.search("pizza", strong_only=False, top=42, min_score=middle)
    assert [hit.path for hit in above] == [hit.path for hit in hits if (hit.score or 0) >= middle]
    assert emoji.search("pizza", min_score=0.99) == []
    by_name = emoji.search("pizza", strong_only=False, top=3, sort="name")
    assert names(by_name) == sorted(names(hits[:3]))


# --- on rows with vectors that are known


def test_a_sound_is_as_good_as_its_best_part_and_says_when(tmp_path: Path) -> None:
    a, b, c = random_vectors(3)
    sound = Item(("long.wav",), np.stack([b, a, c]), spans=[(0.0, 10.0), (10.0, 20.0), (20.0, 25.5)], kind="audio")
    with index_of(tmp_path, [sound, Item(("x.jpg",), c), Item(("a.jpg",), b), *_filler(5)]) as index:
        hits = index.search(like="/photos/x.jpg", strong_only=False, top=2)
        assert {(Path(hit.path).name, hit.start, hit.stop) for hit in hits} == {
            ("x.jpg", None, None),
            ("long.wav", 20.0, 25.5),
        }
        assert [hit.score for hit in hits] == pytest.approx([1, 1], abs=1e-3)


def _filler(count: int, seed: int = 7) -> list[Item]:
    return [Item((f"filler/{number:03}.jpg",), vector) for number, vector in enumerate(random_vectors(count, seed))]


def test_results_are_those_of_comparing_all_vectors(tmp_path: Path) -> None:
    """Recall 1.000 of words, alone and together, though 8-bit codes alone would put others first."""
    model, processor = load("emoji-siglip2")
    texts = [search["query"] for search in SEARCHES]
    asked = encode_text(model, processor, texts)
    noise = np.random.default_rng(3).normal(0, 0.06, (1500, DIM))
    near = np.repeat(asked, 125, axis=0)[:1500] * 0.5 + noise  # many that hardly differ
    near = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    with index_of(tmp_path, [Item((f"{number:04}.jpg",), vector) for number, vector in enumerate(near)]) as index:
        with sqlite3.connect(tmp_path / "a.mmindex" / "index.sqlite") as rows:
            blobs = b"".join(blob for (blob,) in rows.execute("SELECT vector FROM vectors ORDER BY content"))
        stored = np.frombuffer(blobs, STORED).reshape(1500, DIM).astype(np.float32)
        exact = asked @ stored.T
        for text, cosines in zip(texts, exact, strict=True):
            best = [f"{place:04}.jpg" for place in np.argsort(-cosines, kind="stable")[:20]]
            assert names(index.search(text, strong_only=False)) == best
        codes = near.astype(np.float32)
        codes = np.round(codes / np.abs(codes).max(1, keepdims=True) * 127) * np.abs(codes).max(1, keepdims=True) / 127
        assert any(
            np.argsort(-(codes @ vector))[:20].tolist() != np.argsort(-cosines)[:20].tolist()
            for vector, cosines in zip(asked, exact, strict=True)
        )
        z = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
        both = names(index.search(texts[:2], weights=[1, 2], strong_only=False))
        assert set(both[:15]) <= {f"{place:04}.jpg" for place in np.argsort(-(z[0] + 2 * z[1]))[:16]}


def test_ties_are_in_the_order_of_paths_and_copies_are_one_hit(tmp_path: Path) -> None:
    vector = random_vectors(1)[0]
    items = [Item((name,), vector) for name in ("d.jpg", "b.jpg", "c.jpg")]
    items.append(Item(("z/longer.jpg", "a.jpg"), vector))
    with index_of(tmp_path, [*items, *_filler(20)]) as index:
        hits = index.search(like="/photos/d.jpg", strong_only=False, top=3)
        assert names(hits) == ["a.jpg", "b.jpg", "c.jpg"]
        assert hits[0].copies == ("/photos/z/longer.jpg",)
        inside = index.search(like="/photos/d.jpg", where=Where(folder="/photos/z"))
        assert [(hit.path, hit.copies) for hit in inside] == [("/photos/z/longer.jpg", ("/photos/a.jpg",))]


def test_what_is_gone_is_not_found(tmp_path: Path) -> None:
    vector = random_vectors(1)[0]
    items = [Item(("there.jpg",), vector), Item(("gone.jpg",), vector, state="missing", tags=("unique",))]
    with index_of(tmp_path, [*items, *_filler(8)]) as index:
        assert names(index.search(like="/photos/there.jpg")) == ["there.jpg"]
        assert index.search("unique") == []
        assert "gone.jpg" not in names(index.search(where=Where(kind="image"), top=100))


def test_names_and_tags_come_first(tmp_path: Path) -> None:
    items = [
        Item(("IMG_2041.jpg",), random_vectors(1)[0]),
        Item(("b.jpg",), random_vectors(1, 3)[0], tags=("receipt",)),
    ]
    with index_of(tmp_path, [*items, *_filler(5), Item(("notes/receipts.jpg",), None)]) as index:
        assert names(index.search("IMG_2041")) == ["IMG_2041.jpg"]
        assert names(index.search("img_20", strong_only=False, top=4))[0] == "IMG_2041.jpg"
        hits = index.search("Receipt")
        assert names(hits) == ["b.jpg"]
        assert hits[0].tags == ("receipt",)
        assert names(index.search("receipts")) == ["receipts.jpg"]  # of which there is no vector
        assert index.search("receipts")[0].score is None
        assert index.search("IMG_2041", without="img_2041") == []
        assert index.search("IMG_2041", min_score=0.99) == []


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_asked_some_things_hold(tmp_path: Path, seed: int) -> None:
    """Order, no content twice, filters that only take away, and `top`."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 120))
    items = [
        Item(
            tuple(f"{rng.integers(5)}/{number}-{copy}.jpg" for copy in range(rng.integers(1, 4))),
            random_vectors(int(rng.integers(1, 4)), seed * 1000 + number),
            spans=[(float(part), part + 1.0) for part in range(3)],
            taken_at=float(rng.integers(0, 2**31)),
            state="here" if rng.random() < 0.9 or number == 0 else "missing",
        )
        for number in range(count)
    ]
    for item in items:
        item.spans = item.spans[: len(np.atleast_2d(item.vectors))]
    with index_of(tmp_path, items) as index:
        example = f"/photos/{items[0].paths[0]!s}"
        everything = index.search(like=example, strong_only=False, top=1000)
        assert len(everything) == len({hit.content for hit in everything}) == everything.strong + everything.weaker
        assert len(everything) == sum(item.state == "here" for item in items)
        scores = [hit.score or 0.0 for hit in everything]
        assert scores == sorted(scores, reverse=True)
        for where in (Where(folder="/photos/1"), Where(since="2000"), Where(name="3", until="2020-06")):
            try:
                some = index.search(like=example, strong_only=False, top=1000, where=where)
            except InputError:
                continue  # a folder that is not there
            found = [hit.content for hit in some]
            assert found == [hit.content for hit in everything if hit.content in set(found)]
            assert found[:3] == [
                hit.content for hit in index.search(like=example, strong_only=False, top=3, where=where)
            ]
        strong = index.search(like=example, top=1000)
        assert [hit.content for hit in strong] == [hit.content for hit in everything if hit.strong]


def test_dates_order_what_fits(tmp_path: Path) -> None:
    vector = random_vectors(1)[0]
    items = [Item((f"{day}.jpg",), vector, taken_at=1e9 + 86400 * day) for day in (3, 1, 2)]
    with index_of(tmp_path, [*items, *_filler(9)]) as index:
        assert names(index.search(like="/photos/1.jpg", sort="date", top=2)) == ["3.jpg", "2.jpg"]
        assert names(index.search(like="/photos/1.jpg", sort="name", top=2)) == ["1.jpg", "2.jpg"]
        hits = index.search(where=Where(until="2001-09-12"), top=2)
        assert names(hits) == ["3.jpg", "2.jpg"]
        assert hits[0].taken_at == "2001-09-12T01:46:40"
        assert hits[0].score is hits[0].z is None
        assert (hits.strong, hits.weaker) == (3, 0)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_small_index_says_when_nothing_fits_too(tmp_path: Path, count: int) -> None:
    with index_of(tmp_path, _filler(count)) as index:
        assert index.search("pizza") == []
        assert len(index.search("pizza", strong_only=False)) == count


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({}, "Nothing was asked"),
        ({"words": ""}, "words is ''; expected some text"),
        ({"words": ["cat", " \n"]}, "expected some text"),
        ({"words": "x" * 100_000}, "words has 100,000 characters; expected 10,000"),
        ({"words": ["x"] * 101}, "101 parts; expected 100"),
        ({"words": "x", "weights": [1, 2]}, "expected 1 numbers"),
        ({"words": "x", "weights": [-1]}, "above 0"),
        ({"words": "x", "top": 0}, "top is 0"),
        ({"words": "x", "min_score": 7}, "min_score is 7"),
        ({"words": "x", "sort": "size"}, "sort is 'size'"),
        ({"words": "x", "strong_only": "no"}, "strong_only is 'no'"),
        ({"where": Where(kind="image"), "min_score": 0.1}, "min_score compares"),
        ({"like": "nothing.png"}, "cannot be opened"),
        ({"like": __file__}, "cannot be read as an image"),
    ],
)
def test_what_cannot_be_asked_is_one_line(emoji: Index, asked: dict[str, object], error: str) -> None:
    with pytest.raises((InputError, MediaError), match=error) as found:
        emoji.search(**asked)  # type: ignore[arg-type]
    assert isinstance(found.value, MlxMmError)
    assert "\n" not in str(found.value)
