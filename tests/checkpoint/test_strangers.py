"""Folders of other programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import mlx_mm
from mlx_mm.checkpoint import hub
from mlx_mm.checkpoint.strangers import transformers_module
from mlx_mm.errors import ConfigError, MlxMmError, ModelNotFoundError, UnsupportedModelError
from mlx_mm.load import open_checkpoint

Checkpoint = Callable[..., Path]
CLIP = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
NORMALIZE = {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.models.Dense"}


def write_modules(folder: Path, modules: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.mark.parametrize("modules", [[CLIP], [CLIP, NORMALIZE]])
def test_a_folder_of_sentence_transformers_is_opened(modules: Any, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    whole = write_modules(tmp_path / "whole", modules)
    tiny_checkpoint("clip", name="whole/0_CLIPModel")
    opened = open_checkpoint(whole)
    assert opened.folder == whole / "0_CLIPModel"
    model, processor = mlx_mm.load(whole)
    assert mlx_mm.encode_text(model, processor, "a cat").shape == (opened.config.projection_dim,)  # type: ignore[attr-defined]
    mlx_mm.convert(whole, tmp_path / "out", bits=None)
    assert open_checkpoint(tmp_path / "out").family.name == "metaclip_2"


def test_modules_that_change_the_vectors_are_named(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    whole = write_modules(tmp_path / "whole", [CLIP, DENSE])
    tiny_checkpoint("clip", name="whole/0_CLIPModel")
    with pytest.raises(UnsupportedModelError, match="followed by Dense"):
        mlx_mm.load(whole)


@pytest.mark.parametrize(
    "modules",
    [
        5,
        {},
        [],
        [5],
        [{}],
        [CLIP | {"path": ".."}],
        [CLIP | {"path": "/etc"}],
        [CLIP | {"path": 5}],
        [CLIP | {"type": None}],
        [CLIP | {"path": ""}],
        [CLIP | {"type": "sentence_transformers.models.BoW"}],
    ],
)
def test_modules_that_are_none(modules: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="folder of sentence-transformers"):
        mlx_mm.load(write_modules(tmp_path, modules))


def test_damaged_modules(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[" * 5000)
    with pytest.raises(ConfigError, match=r"modules\.json"):
        mlx_mm.load(tmp_path)


def test_a_config_at_the_top_goes_first(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    """As Jina CLIP's and SigLIP's repositories have it."""
    folder = write_modules(tiny_checkpoint("siglip"), [CLIP | {"path": ""}, DENSE])
    assert transformers_module(folder) == ""
    assert open_checkpoint(folder).folder == folder


def test_on_the_hub_the_folder_within_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Checkpoint
) -> None:
    asked = []

    def download(repo: str, **options: Any) -> str:
        asked.append((options["allow_patterns"], options["ignore_patterns"]))
        write_modules(tmp_path / "snapshot", [CLIP])
        if any(pattern.startswith("0_CLIPModel/") for pattern in options["allow_patterns"]):
            tiny_checkpoint("clip", name="snapshot/0_CLIPModel")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("someone/clip-ViT-B-32") == tmp_path / "snapshot" / "0_CLIPModel"
    (first, _), (second, ignored) = asked
    assert second == [f"0_CLIPModel/{pattern}" for pattern in first]
    assert ignored == ["0_CLIPModel/*/*"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"adapter_config.json": '{"base_model_name_or_path": "openai/clip"}'},
            ("PEFT adapter of openai/clip", "merge"),
        ),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, ("PEFT adapter",)),
        ({"open_clip_config.json": "{}", "open_clip_model.safetensors": ""}, ("open_clip", "transformers")),
        ({"open_clip_pytorch_model.bin": "", "README.md": ""}, ("open_clip",)),
        ({"model-Q4_K_M.gguf": "", "README.md": ""}, ("GGUF", "original")),
        ({"model.onnx": ""}, ("ONNX",)),
        ({"onnx/model.onnx": "", "tokenizer.json": "{}"}, ("ONNX",)),
        ({"model_index.json": "{}", "unet/config.json": "{}"}, ("diffusers",)),
        ({"config.json": "{}", "model.gguf": ""}, ("GGUF",)),
        ({"config.json": '{"_class_name": "X"}', "model_index.json": "{}"}, ("diffusers",)),
        ({"tf_model.h5": ""}, ("TensorFlow",)),
    ],
)
def test_strangers_are_named(files: dict[str, str], words: tuple[str, ...], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    for door in (mlx_mm.load, lambda folder: mlx_mm.convert(folder, tmp_path / "out")):
        with pytest.raises(UnsupportedModelError) as caught:
            door(tmp_path)
        assert all(word in str(caught.value) for word in words)


def test_a_folder_around_a_checkpoint(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    inner = tiny_checkpoint("siglip", name="around/siglip")
    with pytest.raises(ModelNotFoundError, match=rf"has no config\.json.*Perhaps {inner} is meant"):
        mlx_mm.load(inner.parent)


@pytest.mark.parametrize("name", ["x\0y", "a" * 300 + "/b", "~nosuchuser/model", "\udc80/x"])
def test_names_that_no_folder_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MlxMmError):
        mlx_mm.load(name)
