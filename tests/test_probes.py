"""What models are tried on: bundled, from a folder, and as arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mlx_mm import load
from mlx_mm.errors import InputError, MediaError
from mlx_mm.load import open_checkpoint
from mlx_mm.probes import (
    MOST_NUMBERS,
    Chat,
    Probes,
    bundled_probes,
    fitting,
    folder_probes,
    joined,
    prepared,
    run,
    scattered,
    spread,
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder: 70 texts, 9 pictures, a sound, two questions."""
    folder = tmp_path / "own"
    (folder / "deep").mkdir(parents=True)
    for i in range(9):
        Image.new("RGB", (20 + i, 20), (20 * i, 99, 9)).save(folder / "deep" / f"{i}.png")
    soundfile.write(folder / "a.wav", np.sin(np.arange(4800) / 9), 48000)
    (folder / "texts.txt").write_text("\n\n".join(f"text number {i}" for i in range(270)), "utf-8")
    lines = [{"text": "What is this?", "images": ["deep/3.png"]}, {"text": "Who are you?"}]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, [*lines, "a plain text"])), "utf-8")
    (folder / ".hidden.txt").write_text("hidden")
    (folder / "other.bin").write_bytes(b"0")
    return folder


def test_bundled_ones_are_there() -> None:
    probes = bundled_probes()
    assert len(set(probes.texts)) == len(probes.texts) >= 100
    assert all(
        Path(str(path)).is_file() for path in [*probes.images, *(i for chat in probes.chats for i in chat.images)]
    )
    assert any(not chat.images for chat in probes.chats)
    assert any(len(chat.images) > 1 for chat in probes.chats)
    rounding, measuring = probes.halves()
    assert not set(rounding.texts) & set(measuring.texts)
    assert {*rounding.texts[:50]} == set(probes.texts[::2])
    assert {*rounding.texts[50:]} == set(probes.rounding_texts)
    assert measuring.texts == probes.texts[1::2]
    assert len(set(probes.rounding_texts)) == len(probes.rounding_texts) >= 400
    assert {*rounding.images, *measuring.images} == set(probes.images)
    assert {*rounding.chats} == set(probes.chats[::2])


def test_few_serve_both_purposes() -> None:
    probes = Probes("x", texts=tuple("abcdefg"), images=tuple("abcdefgh"))
    first, second = probes.halves()
    assert sorted(first.texts) == sorted(second.texts) == list(probes.texts)
    assert (first.images, second.images) == (tuple("aecg"), tuple("bdfh"))


def test_a_folder(own: Path) -> None:
    probes = folder_probes(own)
    assert len(probes.texts) == 256
    assert (probes.texts[0], probes.texts[-1]) == ("text number 0", "a plain text")
    assert [Path(str(path)).name for path in probes.images] == [f"{i}.png" for i in range(9)]
    assert len(probes.sounds) == 1
    assert probes.chats == (Chat("What is this?", (own / "deep" / "3.png",)), Chat("Who are you?"))


def test_they_are_spread_evenly() -> None:
    assert spread(range(100), 4) == [0, 33, 66, 99]
    assert spread(range(3), 4) == [0, 1, 2]
    for count in (0, 1, 2, 7, 64, 100):
        order = scattered(range(count))
        assert sorted(order) == list(range(count))
        for first in range(2, count + 1):
            gaps = np.diff([-1, *sorted(order[:first]), count])
            assert gaps.max() <= 2 * -(-count // first) + 1


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("a.bin", "", ("holds 1 files, none", "expected pictures, sounds")),
        ("a.jsonl", "[1", ("line 1 is not JSON",)),
        ("a.jsonl", '{"text": 5}', ("line 1 is '{", "images")),
        ("a.txt", "\udcff", ("a.txt cannot be read", "UTF-8")),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, name: str, text: str, parts: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        folder_probes(tmp_path)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder; expected"):
        folder_probes(tmp_path / "missing")


def test_what_a_model_takes(own: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    opened = open_checkpoint(tiny_checkpoint("siglip2"))
    probes = folder_probes(own)
    assert not fitting(probes, opened).sounds
    pictures = fitting(Probes("own", images=probes.images), opened)
    assert (pictures.images, pictures.texts) == (probes.images, bundled_probes().texts)  # what is lacking is bundled
    mine = fitting(Probes("own", texts=("a", "b")), opened)
    rounding, measuring = mine.halves()
    assert measuring.texts == ("a", "b")
    assert rounding.texts[:2] == ("a", "b")  # and behind them bundled ones
    assert {*rounding.texts[2:]} == set(bundled_probes().rounding_texts)
    pictures_alone = open_checkpoint(tiny_checkpoint("siglip2-vision"))
    assert not fitting(Probes("own", images=probes.images), pictures_alone).rounding_texts
    with pytest.raises(InputError, match="own holds 1 sounds, and this model takes texts and pictures"):
        fitting(Probes("own", sounds=probes.sounds), opened)
    answering = open_checkpoint(tiny_checkpoint("glm46v"))
    assert fitting(probes, answering).chats == probes.chats
    made = fitting(Probes("own", texts=("a", "b"), images=probes.images[:2]), answering).chats
    assert [(chat.text[:4], len(chat.images)) for chat in made] == [("a", 0), ("b", 0), ("What", 1), ("What", 1)]
    with pytest.raises(InputError, match="holds 1 sounds"):
        fitting(Probes("own", sounds=probes.sounds), answering)


def test_as_arrays(own: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    model, processor = load(tiny_checkpoint("clap"))
    batches = prepared(fitting(folder_probes(own), model), model, processor)
    assert {kind: [len(batch["input_ids" if kind == "text" else "input_features"]) for batch in of_one]
            for kind, of_one in batches.items()} == {"text": [64] * 4, "audio": [1]}  # fmt: skip
    vectors = np.array(run(model, "text", batches["text"][0]))
    mask = batches["text"][0]["attention_mask"]
    assert mask.min() == 0
    alone = processor.text([folder_probes(own).texts[3]])  # type: ignore[union-attr]
    assert np.abs(vectors[3] - np.array(run(model, "text", alone))[0]).max() < 1e-5


def test_no_more_to_round_with_than_numbers_allow(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load(tiny_checkpoint("siglip2"))
    probes = Probes("x", texts=tuple(f"a {number}" for number in range(90)), images=bundled_probes().images[:20])
    batches = prepared(probes, model, processor)
    everything = joined(batches, processor)
    sizes = {"text": everything["text"]["input_ids"][0].size, "image": everything["image"]["pixel_values"][0].size}
    assert [len(everything["text"]["input_ids"]), len(everything["image"]["pixel_values"])] == [90, 20]
    for kind, most, left in (("text", 30, 30), ("image", 2, 8)):
        monkeypatch.setitem(MOST_NUMBERS, kind, most * sizes[kind])
        fewer = joined(batches, processor)[kind]
        assert fewer.keys() == everything[kind].keys()
        assert all(np.array_equal(fewer[name], everything[kind][name][:left]) for name in fewer)


def test_questions_as_arrays(own: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    """Padded on the left, a prompt has the logits that it has alone."""
    model, processor = load(tiny_checkpoint("glm46v"))
    chats = (Chat("Hello"), Chat("Where is the owl, and what does it look at?"))
    together = prepared(Probes("x", chats=chats), model, processor)["text"][0]
    assert together["attention_mask"][0, 0] == 0
    logits = np.array(run(model, "text", together))
    for row, chat in enumerate(chats):
        alone = prepared(Probes("x", chats=(chat,)), model, processor)["text"][0]
        expected = np.array(run(model, "text", alone))[0, -5:]
        assert np.abs(logits[row, -5:] - expected).max() < 1e-3
        assert np.abs(logits[1 - row, -5:] - expected).max() > 1e-2
    missing = Probes("x", chats=(Chat("What?", (own / "missing.png",)),))
    with pytest.raises(MediaError):
        prepared(missing, model, processor)
