"""The bundled model that hears, through an index: the right sound, the right part of it, nothing where none fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mlx_mm import Index, encode_audio, encode_text, load
from mlx_mm.checkpoint import hub

NAME = "sounds-clap"
SOUNDS = sorted((hub.BUNDLED / "sounds").glob("*.flac"))
PLAN = json.loads((hub.BUNDLED / "demo.json").read_text("utf-8"))["sounds"]
LONG, QUERY, PART = "evening", "an owl", (20, 30)  # what is heard where in the long one, in seconds
STORED_RATE = 24_000  # Hz
SHORT = [item for item in PLAN if item["expected"] not in ("", LONG)]


def right(change: Callable[[np.ndarray], np.ndarray], rate: float = 1.0) -> int:
    """How many queries find their sound first among the short ones, each of them changed, and read at another rate."""
    model, processor = load(NAME)
    names = [path.stem for path in SOUNDS if path.stem != LONG]
    read = [soundfile.read(path, dtype="float32") for path in SOUNDS if path.stem != LONG]
    sounds = [(change(samples), int(own * rate)) for samples, own in read]
    texts = encode_text(model, processor, [item["query"] for item in SHORT])
    best = (texts @ encode_audio(model, processor, sounds).T).argmax(axis=1)
    return sum(names[index] == item["expected"] for index, item in zip(best, SHORT, strict=True))


def test_words_find_their_sound() -> None:
    """Also a softer one; and not where its rate is taken for another one, or it is drowned in noise."""
    noise = np.random.RandomState(0).standard_normal(STORED_RATE * 3).astype(np.float32)
    assert right(lambda samples: samples) == len(SHORT) >= 6
    assert right(lambda samples: samples / 4) >= len(SHORT) - 1
    assert right(lambda samples: samples, 0.12) <= len(SHORT) // 2
    assert right(lambda samples: samples + 0.5 * noise[: len(samples)]) <= len(SHORT) // 2


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index without a named model, of the sounds under names that say nothing of them."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "files").mkdir()
    for number, sound in enumerate(SOUNDS):
        (folder / "files" / f"{number:02}.flac").symlink_to(sound)
    with Index(folder / "a.mmindex") as index:
        index.refresh(folder / "files")
    return folder / "a.mmindex"


def test_the_part_that_fits(index: Path) -> None:
    """Of three windows the last; and of the whole file with its thirds in another order, another one."""
    with Index(index) as opened:
        [hit] = [hit for hit in opened.search(QUERY) if SOUNDS[int(Path(hit.path).stem)].stem == LONG]
        assert (hit.start, hit.stop) == pytest.approx(PART, abs=0.01)
        assert hit.strong
        [path] = [sound for sound in SOUNDS if sound.stem == LONG]
        samples, rate = soundfile.read(path, dtype="float32")
        turned = index.parent / "files" / "turned.flac"
        soundfile.write(turned, np.roll(samples, 10 * rate), rate)
        opened.refresh()
        [hit] = [hit for hit in opened.search(QUERY) if hit.path == str(turned)]
        assert (hit.start, hit.stop) == pytest.approx((0, 10), abs=0.01)
        turned.unlink()
        opened.refresh()


def test_each_query_finds_what_it_must_and_nothing_else(index: Path) -> None:
    with Index(index) as opened:
        for item in PLAN:
            found = [SOUNDS[int(Path(hit.path).stem)].stem for hit in opened.search(item["query"])]
            assert found[:1] == [item["expected"]] * bool(item["expected"]), item["query"]
            assert len(found) <= 2, item["query"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("you hear a dog", "dog"),
        ("loud dog barking", "dog"),
        ("irgendwo bei uns ein Hund bellt", "dog"),
        ("附近的打雷", "thunder"),
        ("a loud vacuum cleaner", ""),
        ("mortgage rates", ""),
    ],
)
def test_words_that_it_never_learnt(index: Path, query: str, expected: str) -> None:
    """Around the name of a sound they change nothing; alone, or around one that is not there, they find nothing."""
    with Index(index) as opened:
        found = [SOUNDS[int(Path(hit.path).stem)].stem for hit in opened.search(query)]
    assert found == ([expected] if expected else [])
