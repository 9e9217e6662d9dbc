"""Labels that fit, kept and found again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from indexed import PICTURES, Item, random_vectors, write_index

from mlx_mm import Index, Where, classify, load
from mlx_mm.embed import encode_image
from mlx_mm.errors import InputError, StoreError


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Four bundled pictures, one of them twice, with the vectors that the model gives them."""
    chosen = [path for path in PICTURES if path.stem in ("cat", "dog", "pizza", "whale")]
    vectors = encode_image(*load("emoji-siglip2"), chosen)
    items = [Item((f"{number}.png",), vector) for number, vector in enumerate(vectors)]
    items[0].paths = ("0.png", "copies/0.png")
    path = tmp_path_factory.mktemp("tags") / "a.mmindex"
    write_index(path, "/p", items)
    return Index(path)


def tagged(index: Index, label: str) -> list[str]:
    hits = index.search(where=Where(tag=label), sort="name")
    return [os.path.basename(path) for hit in hits for path in (hit.path, *hit.copies)]


def test_labels_that_fit_are_found_as_tags_and_as_words(index: Index) -> None:
    counts = index.tag(["cat", " dog ", "pizza", "cat", "tax return"])
    assert counts == {"cat": 2, "dog": 1, "pizza": 1, "tax return": 0}
    assert tagged(index, "cat") == ["0.png", "0.png"]
    assert tagged(index, "DOG") == ["1.png"]
    assert [hit.tags for hit in index.search(where=Where(tag="pizza"))] == [("pizza",)]
    assert [os.path.basename(hit.path) for hit in index.search("tax return")] == []
    index.tag(["tax return"], least=1e-9)
    assert len(index.search("tax return")) == 4  # since somebody said so


def test_a_second_time_changes_nothing_and_other_labels_stay(index: Index) -> None:
    first = index.tag(["cat", "dog"])
    assert index.tag(["cat", "dog"]) == first
    index.tag(["pizza"])
    assert tagged(index, "dog") == ["1.png"]
    assert index.tag(["dog"], least=1.0) == {"dog": 0}  # none is that sure
    assert tagged(index, "dog") == []
    assert index.search("dog", min_score=0.99) == []
    assert tagged(index, "cat") == ["0.png", "0.png"]
    assert tagged(index, "pizza") == ["2.png"]


def test_scores_are_those_of_classify(index: Index) -> None:
    model, processor = load("emoji-siglip2")
    labels = ["cat", "dog", "whale"]
    cat = next(path for path in PICTURES if path.stem == "cat")
    score = dict(classify(model, processor, cat, labels))["cat"]
    assert index.tag(labels, least=score - 1e-3)["cat"] == 2
    assert index.tag(labels, least=score + 1e-3)["cat"] == 0


def test_a_part_of_a_sound_is_enough(tmp_path: Path) -> None:
    cat = encode_image(*load("emoji-siglip2"), [path for path in PICTURES if path.stem == "cat"])[0]
    sound = Item(("a.wav",), np.stack([random_vectors(1)[0], cat]), spans=[(0, 10), (10, 20)], kind="audio")
    write_index(tmp_path / "a.mmindex", "/p", [sound, Item(("b.png",), cat)])
    with Index(tmp_path / "a.mmindex") as index:
        assert index.tag(["cat"], kind="audio") == {"cat": 1}
        assert tagged(index, "cat") == ["a.wav"]
        assert index.tag(["cat"]) == {"cat": 1}
        assert tagged(index, "cat") == ["a.wav", "b.png"]


def test_there_may_be_many_labels(index: Index) -> None:
    counts = index.tag([f"label {number}" for number in range(100)] + ["pizza"])
    assert len(counts) == 101
    assert counts["pizza"] == 1


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ([], {}),
        ([""], {}),
        (["cat", "  "], {}),
        (["x" * 201], {}),
        ([5], {}),
        (["a\0b"], {}),
        (["\udcff"], {}),
        (["cat"], {"least": 0}),
        (["cat"], {"least": 2}),
        (["cat"], {"least": float("nan")}),
        (["cat"], {"kind": "text"}),
    ],
)
def test_what_cannot_be_a_label_is_refused(index: Index, labels: list[str], options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected"):
        index.tag(labels, **options)  # type: ignore[arg-type]


def test_a_kind_without_vectors_is_refused(emoji: Index) -> None:
    with pytest.raises(StoreError, match="no vectors of kind audio"):
        emoji.tag(["cat"], kind="audio")
