"""Which checkpoint a command uses, and that a wrong kind of it is told before weights are read or files searched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from command_line import Checkpoint, Run, assert_one_error
from tiny import golden_weights, siglip_shapes, tiny_config, write_checkpoint

from mlx_mm.checkpoint import hub
from mlx_mm.cli import opening


def test_the_default_model_is_named_in_one_line(
    run: Run, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has photographs must learn which checkpoint to take."""
    monkeypatch.setattr(hub, "BUNDLED", model.parent)
    monkeypatch.setattr(opening, "DEFAULT_MODEL", model.name)
    for command in (["embed", "--text", "cat"], ["embed", "photos"], ["classify", "photos", "-l", "cat"]):
        result = run(*command)
        assert result.status == 0
        [line] = result.err.splitlines()
        assert model.name in line
        assert opening.PHOTO_MODEL in line
        assert not line.startswith(("error", "warning"))
        assert run(*command, "-m", model).err == ""


def test_the_default_model_is_bundled() -> None:
    assert opening.DEFAULT_MODEL in hub.bundled_names()
    assert opening.PHOTO_MODEL.count("/") == 1


@pytest.mark.parametrize("command", [("generate", "What?"), ("chat",)])
def test_without_a_model(command: tuple[str, ...], run: Run) -> None:
    status, out, err = run(*command)
    assert (status, out) == (1, "")
    assert "zai-org/GLM-4.6V-Flash" in err


@pytest.mark.parametrize(
    "arguments",
    [["info", "x/y/z"], ["embed", "photos", "-m", "nothing"], ["classify", "photos", "-l", "a", "-m", "./no"]],
)
def test_unknown_model(run: Run, photos: Path, arguments: list[str]) -> None:
    assert_one_error(run(*arguments), "There is no folder", opening.DEFAULT_MODEL)


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
