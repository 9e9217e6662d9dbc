"""Fixtures for the command line: how it is run, and small checkpoints and folders to run it on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Checkpoint, Result, Run
from glm_answers import script
from PIL import Image
from tiny import classification_shapes, golden_weights, hashed, tiny_config, tiny_weights, write_checkpoint

from mlx_mm import load
from mlx_mm.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("embed", path, …)` runs a command in this process; `convert` rounds plainly, and measures with --check."""

    def call(*arguments: object) -> Result:
        if arguments[:1] == ("convert",):
            arguments += () if "--method" in arguments else ("--method", "plain")
            arguments += () if "--check" in arguments else ("--no-check",)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        status = 0 if stop.value.code is None else stop.value.code
        assert isinstance(status, int)
        return Result(status, out, err)

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny NaFlex checkpoint with room for a template and its label."""
    config = tiny_config("siglip2")
    config["text_config"] |= {"max_position_embeddings": 64}
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny", config, tiny_weights(config))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {**tiny_config("siglip2"), "architectures": ["Siglip2ForImageClassification"]}
    config |= {"id2label": {"0": "cat", "1": "dog", "2": "owl"}}
    return write_checkpoint(
        tmp_path_factory.mktemp("model") / "head", config, golden_weights(classification_shapes(config, 3))
    )


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `photos/` of four pictures, two of them deeper, and a text file."""
    monkeypatch.chdir(tmp_path)
    for k, (name, height, width) in enumerate(
        [("b.png", 40, 60), ("a.jpg", 60, 40), ("deep/c.webp", 20, 90), ("deep/er/d.gif", 50, 50)]
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.abs(hashed((height, width, 3), k)) * 255).astype(np.uint8)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.fixture
def glm(tiny_checkpoint: Checkpoint) -> Path:
    """A tiny checkpoint that answers."""
    return tiny_checkpoint("glm46v")


@dataclass
class Scripted:
    """A checkpoint that is opened, and loaded already."""

    loaded: tuple[Any, Any]
    kind: str = "generator"
    modalities: tuple[str, ...] = ("text", "image", "video")

    def load(self) -> tuple[Any, Any]:
        return self.loaded


@pytest.fixture
def says(glm: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`says(text, …)`: what the model of every checkpoint answers from now on."""

    def set_answers(*answers: str) -> None:
        model, processor = load(glm)
        opened = Scripted((script(model, processor, *answers), processor))
        monkeypatch.setattr(sys.modules["mlx_mm.load"], "open_checkpoint", lambda *_, **__: opened)

    return set_answers
