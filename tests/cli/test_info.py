"""What `mlx_mm info` knows of a machine and of a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from command_line import Checkpoint, Run, assert_one_error
from glm_answers import picture
from tiny import siglip_shapes, tiny_config

from mlx_mm import __version__, convert, load
from mlx_mm.backend import blas, device
from mlx_mm.backend.native.library import native_status
from mlx_mm.checkpoint.bundled import EACH
from mlx_mm.cli import info
from mlx_mm.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from mlx_mm.models import MODEL_TYPES


def parameters(family: str) -> int:
    total = 0
    for _, shape in siglip_shapes(tiny_config(family)):
        count = 1
        for side in shape:
            count *= side
        total += count
    return total


def test_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "measure_gflops", lambda: 123.456)  # the real one keeps both cores busy
    result = info.describe_machine()
    assert result["versions"]["mlx"] == metadata.version("mlx")
    assert result["model_types"] == sorted(MODEL_TYPES)
    assert list(result["bundled"]) == list(EACH)
    assert result["bundled"]["emoji-siglip2"] == "text image"
    assert result["device"] in ("cpu", "gpu")
    if device.on_cpu():
        native = native_status()
        assert result["native"] == dataclasses.asdict(native)
        assert native.reason
        status = blas.use_fast_blas()
        assert result["blas"]["gflops"] == 123.5
        assert (result["blas"]["name"], result["blas"]["active"]) == (status.name, status.active)
        assert result["blas"]["reason"] or status.active
    json.dumps(result)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_a_hugging_face_folder(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint(family)
    result = info.describe_model(str(folder))
    assert result == {
        "folder": str(folder),
        "family": "siglip2",
        "model_type": family,
        "modalities": ["text", "image"],
        "parameters": parameters(family),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "format": "hugging face",
        "quantization": None,
        "padded": None,
        "licence": None,
    }
    json.dumps(result)


def test_a_sharded_folder(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("siglip2", shards=3)
    assert info.describe_model(str(folder))["bytes"] == sum(
        path.stat().st_size for path in folder.glob("*.safetensors")
    )


def test_a_converted_folder(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    source = tiny_checkpoint("siglip")
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    convert(source, tmp_path / "out", bits=8, group_size=32)
    result = info.describe_model(str(tmp_path / "out"))
    assert result["format"] == "mlx"
    assert result["quantization"] == {"bits": 8, "group_size": 32, "mode": "affine"}
    assert result["padded"] == {
        "text_config.intermediate_size": [80, 96],
        "vision_config.intermediate_size": [144, 160],
    }
    assert result["licence"] == "apache-2.0"
    assert 0.28 < result["bytes"] / (source / "model.safetensors").stat().st_size < 0.5
    json.dumps(result)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_block_without_a_mode(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    """Other converters leave the mode out; loading takes it for affine, and so must this."""
    folder = convert(tiny_checkpoint("siglip2"), tmp_path / "out").out
    edit_config(folder, quantization={"bits": 4, "group_size": 64})
    assert info.describe_model(str(folder))["quantization"] == {"bits": 4, "group_size": 64, "mode": "affine"}


def test_a_block_that_is_none(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("siglip2")
    edit_config(folder, quantization="4bit")
    with pytest.raises(ConfigError, match="quantization"):
        info.describe_model(str(folder))


def test_no_weight_is_read(tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A 10 GB model must be described at once: NaN in the weights stay unseen."""
    folder = tiny_checkpoint("siglip2")
    file = folder / "model.safetensors"
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    file.write_bytes(data[:start] + b"\xff" * (len(data) - start))
    assert info.describe_model(str(folder))["parameters"] == parameters("siglip2")


def test_what_is_no_model(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        info.describe_model(str(tmp_path))
    folder = tiny_checkpoint("siglip")
    edit_config(folder, model_type="bert")
    with pytest.raises(UnsupportedModelError, match=r"'bert'.*siglip2"):
        info.describe_model(str(folder))


def test_missing_weights_hide_nothing(run: Run, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip2")
    (folder / "model.safetensors").unlink()
    assert_one_error(run("info", folder), "has no weights")
    assert_one_error(run("info", folder, "--image", "a.png"), "gives vectors")
    edit_config(folder, architectures=["Stranger"])
    assert_one_error(run("info", folder), "the architecture 'Stranger'")


def test_info_of_this_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "measure_gflops", lambda: 77.7)
    values = run("info", "--json").json
    assert "siglip2" in values["model_types"]
    assert values["versions"]["mlx_mm"] == __version__
    plain = run("info").out
    assert all(key.replace("_", " ") in plain for key in values)


def test_info_counts_the_tokens_of_media(run: Run, glm: Path, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    image, film = tmp_path / "a.png", tmp_path / "a.gif"
    picture(0, 280, 140).save(image)
    frames = [picture(seed, 140, 140) for seed in range(4)]
    frames[0].save(film, save_all=True, append_images=frames[1:], duration=500)
    status, out, _ = run("info", glm, "--image", image, "--video", film, "--json")
    tokens = json.loads(out)["tokens"]
    assert status == 0
    assert tokens[str(image)] == 50
    batch = load(glm)[1].videos([str(film)])
    assert tokens[str(film)] == batch["video_grid_thw"].prod() // 4
    assert f"{image} 50" in run("info", glm, "--image", image)[1]
    status, _, err = run("info", "--image", image)
    assert (status, "Name it first" in err) == (1, True)
    status, _, err = run("info", tiny_checkpoint("siglip"), "--image", image)
    assert (status, "gives vectors" in err) == (1, True)
