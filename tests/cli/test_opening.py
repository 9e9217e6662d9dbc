"""Which checkpoint a command uses, and that a wrong kind of it is told before weights are read or files searched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import Checkpoint, Result, Run, assert_one_error, stdin
from tiny import golden_weights, siglip_shapes, tiny_config, write_checkpoint

from mlx_mm import Index
from mlx_mm.checkpoint import hub
from mlx_mm.checkpoint.bundled import ANSWERS, EACH, PICTURES, SOUNDS, Bundled
from mlx_mm.load import open_checkpoint


@pytest.fixture
def bundled(photos: Path, model: Path, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures, sounds, and both; tiny checkpoints have the names of the bundled ones."""
    shutil.copytree(model, photos / "bundled" / PICTURES.name)
    tiny_checkpoint("clap", name=f"bundled/{SOUNDS.name}")
    tiny_checkpoint("glm46v", name=f"bundled/{ANSWERS.name}")
    monkeypatch.setattr(hub, "BUNDLED", photos / "bundled")
    for folder in ("sounds", "both"):
        (photos / folder).mkdir()
        soundfile.write(photos / folder / "rain.wav", np.full(480, 0.1, np.float32), 48000)
    shutil.copy(photos / "photos" / "a.jpg", photos / "both")
    return photos


USED = {
    PICTURES: [
        ["embed", "--text", "cat"],
        ["embed", "photos"],
        ["embed", "photos/a.jpg", "photos/deep"],
        ["classify", "photos", "-l", "cat"],
    ],
    SOUNDS: [
        ["embed", "sounds/rain.wav"],
        ["embed", "sounds"],
        ["embed", "soun*/*.wav"],
        ["classify", "sounds", "-l", "rain"],
    ],
    ANSWERS: [["generate", "What?", "--max-tokens", "1"], ["chat", "--max-tokens", "1"]],
}


@pytest.mark.parametrize(("used", "command"), [(used, command) for used, some in USED.items() for command in some])
def test_the_bundled_model_that_fits_is_named_in_one_line(
    used: Bundled, command: list[str], bundled: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has photographs, recordings or questions must learn which checkpoint to take."""
    stdin(monkeypatch, "What?\n")
    result = run(*command)
    assert result.status == 0
    line, *rest = result.err.splitlines()
    assert line == (f"using the bundled {used.name}, made for {used.knows}; for {used.others}: --model {used.advised}")
    stdin(monkeypatch, "What?\n")
    named = run(*command, "-m", used.name)
    assert (named.out, named.err.splitlines()) == (result.out, rest)


def test_of_pictures_and_sounds_the_pictures_are_taken(bundled: Path, run: Run) -> None:
    """One file of vectors has one length; what is left out is told, and how to get it."""
    for inputs in (["both"], ["both/a.jpg", "sounds"]):
        result = run("embed", *inputs)
        assert [row["id"] for row in result.rows] == ["both/a.jpg"]
        told, used, *_ = result.err.splitlines()
        assert f"-m {SOUNDS.name}" in told
        assert used.startswith(f"using the bundled {PICTURES.name}")
    assert [row["id"] for row in run("embed", "both", "-m", SOUNDS.name).rows] == ["both/rain.wav"]


def test_the_vectors_of_a_default_name_their_model(bundled: Path, run: Run) -> None:
    run("embed", "sounds", "-o", "sounds.npz")
    with np.load("sounds.npz") as file:
        assert str(file["model"]) == SOUNDS.name


def test_an_index_has_the_bundled_model_of_each_kind(bundled: Path, run: Run) -> None:
    """Also where a kind comes later; and none beside a model that was chosen."""

    def used(result: Result) -> list[str]:
        return [line.split()[3].rstrip(",") for line in result.err.splitlines() if line.startswith("using the bundled")]

    def files(index: str) -> list[str]:
        with Index(index) as opened:
            return sorted(
                Path(path).name for path in set(opened.vectors(kind="image")[0] + opened.vectors(kind="audio")[0])
            )

    both = run("index", "both", "--index", "a.mmindex")
    assert used(both) == [PICTURES.name, SOUNDS.name]
    assert both.out.startswith("2 files | 2 new | 2 through the model")
    assert files("a.mmindex") == ["a.jpg", "rain.wav"]
    assert run("index", "--index", "a.mmindex").err == ""  # it knows its models now
    assert used(run("index", "photos", "--index", "b.mmindex")) == [PICTURES.name]
    assert used(run("index", "sounds", "--index", "b.mmindex")) == [SOUNDS.name]
    assert files("b.mmindex") == ["a.jpg", "b.png", "c.webp", "d.gif", "rain.wav"]
    chosen = shutil.copytree(bundled / "bundled" / PICTURES.name, bundled / "chosen")
    named = run("index", "both", "--index", "c.mmindex", "-m", chosen)
    assert (named.err, run("index", "--index", "c.mmindex").err) == ("", "")
    assert "left out: sounds, for which the index has no model (--model): 1" in named.out
    with Index(bundled / "d.mmindex") as index:
        events: list[tuple[str, str]] = []
        assert index.refresh(bundled / "sounds", on_event=lambda *event: events.append(event)).files == 1
    assert events == [("model", SOUNDS.name), ("new", str(bundled / "sounds" / "rain.wav"))]


def test_what_is_said_of_the_bundled_models_is_so() -> None:
    assert sorted(EACH) == hub.bundled_names()
    for one in EACH.values():
        assert open_checkpoint(one.name).modalities == one.modalities
        assert one.advised.count("/") == 1


@pytest.mark.parametrize(
    "arguments",
    [["info", "x/y/z"], ["embed", "photos", "-m", "nothing"], ["classify", "photos", "-l", "a", "-m", "./no"]],
)
def test_unknown_model(run: Run, photos: Path, arguments: list[str]) -> None:
    assert_one_error(run(*arguments), "There is no folder", PICTURES.name)


def test_a_revision_needs_the_hub(run: Run, model: Path, photos: Path) -> None:
    for command in (["info", model], ["embed", "photos", "-m", model], ["convert", model, "out"]):
        assert_one_error(run(*command, "--revision", "v2"), "no revision 'v2'")
    assert os.listdir(photos) == ["photos"]


def test_a_folder_that_is_no_model(run: Run, photos: Path) -> None:
    for command in (["info", "photos"], ["embed", "photos", "-m", "photos"], ["convert", "photos", "out"]):
        assert_one_error(run(*command), "no config.json")
    assert os.listdir(photos) == ["photos"]


# --- the wrong kind -------------------------------------------------------------------------------------------------

NO_AUDIO = "no audio encoder; it takes text and image. Use one that takes audio."
NO_IMAGE = "no image encoder; it takes text and audio. Use one that takes image."
GENERATES = "answers in words and gives no vectors or scores. Use generate or chat."
NO_WORDS = "takes text and image and gives vectors, no words. Use encode_text, encode_image or classify"


def cut(weights: Path) -> None:
    """In the middle of its header."""
    weights.write_bytes(weights.read_bytes()[:50])


DAMAGES = {"missing": Path.unlink, "cut": cut}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("kind", "arguments", "part"),
    [
        ("siglip2", ["embed", "rain.wav"], NO_AUDIO),
        ("siglip2", ["embed", "none/*.mp3", "rain.FLAC"], NO_AUDIO),
        ("siglip2", ["classify", "rain.wav", "-l", "rain"], NO_AUDIO),
        ("siglip2", ["classify", "photos"], "no classification head"),
        ("siglip2", ["generate", "What?"], NO_WORDS),
        ("siglip2", ["chat"], NO_WORDS),
        ("clap", ["embed", "photos/a.jpg", "https://example.org/b.png?size=2"], NO_IMAGE),
        ("clap", ["classify", "photos/*.png", "-l", "cat"], NO_IMAGE),
        ("clap", ["generate", "What?"], "takes text and audio and gives vectors, no words"),
        ("glm46v", ["embed", "photos"], GENERATES),
        ("glm46v", ["embed", "--text", "a cat"], GENERATES),
        ("glm46v", ["classify", "photos", "-l", "cat"], GENERATES),
        ("head", ["embed", "photos"], "is a classifier and gives no image vectors. Use classify"),
        ("head", ["embed", "--text", "cat"], "no text encoder; it takes image"),
        ("head", ["classify", "photos", "-l", "cat"], "a classifier with labels of its own"),
        ("head", ["generate", "What?"], "takes image and gives vectors, no words"),
        ("tower", ["embed", "--text", "cat"], "no text encoder; it takes image"),
        ("tower", ["classify", "photos", "-l", "cat"], "no text encoder; it takes image"),
    ],
)
def test_a_wrong_kind_is_told_before_weights_are_read(
    kind: str,
    arguments: list[str],
    part: str,
    damage: str,
    run: Run,
    photos: Path,
    classifier: Path,
    tiny_checkpoint: Checkpoint,
) -> None:
    """With weights that cannot be read, and no line about files that are not there."""
    folder = write(kind, photos, classifier, tiny_checkpoint)
    DAMAGES[damage](folder / "model.safetensors")
    result = run(*arguments, "-m", folder)
    assert_one_error(result, part)
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("siglip2", ["embed", "photos"]),
        ("clap", ["classify", "rain.wav", "-l", "rain"]),
        ("glm46v", ["generate", "What?"]),
        ("head", ["classify", "photos"]),
    ],
)
def test_the_right_kind_reads_its_weights(
    kind: str,
    arguments: list[str],
    damage: str,
    run: Run,
    photos: Path,
    classifier: Path,
    tiny_checkpoint: Checkpoint,
) -> None:
    """So the damage above is one."""
    Path("rain.wav").touch()
    folder = write(kind, photos, classifier, tiny_checkpoint)
    DAMAGES[damage](folder / "model.safetensors")
    assert_one_error(run(*arguments, "-m", folder), "safetensors")


def write(kind: str, parent: Path, classifier: Path, tiny_checkpoint: Checkpoint) -> Path:
    """A folder that the test may damage."""
    if kind == "head":
        return Path(shutil.copytree(classifier, parent / "head"))
    if kind == "tower":
        config = tiny_config("siglip2")
        vision = {**config["vision_config"], "architectures": ["Siglip2VisionModel"]}
        shapes = [pair for pair in siglip_shapes(config) if pair[0].startswith("vision_model.")]
        return write_checkpoint(parent / "tower", vision, golden_weights(shapes))
    return tiny_checkpoint(kind)


def test_one_sound_among_images_is_skipped(run: Run, model: Path, photos: Path) -> None:
    """As whatever else cannot be read: `mlx_mm embed *` must not end at one file."""
    Path("rain.wav").write_bytes(b"RIFF")
    result = run("embed", "photos/a.jpg", "rain.wav", "-m", model)
    assert [row["id"] for row in result.rows] == ["photos/a.jpg"]
    assert result.err.startswith("warning: skipped rain.wav")


def test_nothing_to_read_is_told_before_weights_are(run: Run, photos: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip2")
    cut(folder / "model.safetensors")
    (photos / "empty").mkdir()
    assert_one_error(run("embed", "empty", "-m", folder), "Nothing could be read")
    assert_one_error(run("classify", "empty", "-l", "cat", "-m", folder), "Nothing could be read")
