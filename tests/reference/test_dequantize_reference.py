"""What `dequantize` writes, loaded by transformers, against our model with the packed weights it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beside import difference, theirs
from glm_models import case_batch
from glm_tiny import DENSE, MOE, glm_cases
from jina_torch import make_reference
from recipes import RECIPES
from safetensors.numpy import load_file

import mlx_mm

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# What our files are without: buffers that follow from the config
BUFFERS = ("relative_position_index", "num_batches_tracked", "position_ids", "token_type_ids")
PICTURE = (np.arange(40 * 30 * 3, dtype=np.int64).reshape(40, 30, 3) * 7919 % 251).astype(np.uint8)


def there_and_back(source: Path, tmp_path: Path, **options: Any) -> Path:
    mlx_mm.convert(source, tmp_path / "ours", recipe="all", method="plain", **options)
    mlx_mm.dequantize(tmp_path / "ours", tmp_path / "floats")
    return tmp_path / "floats"


def loaded(kind: Any, folder: Path) -> Any:
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not [name for name in info["missing_keys"] if not name.endswith(BUFFERS)]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert model.dtype == torch.float32
    return model.eval()


def feature(value: Any) -> Any:
    return value if torch.is_tensor(value) else value.pooler_output


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("siglip", {"bits": 4}),
        ("siglip2", {"bits": 3}),
        ("metaclip_2", {"bits": 4, "mode": "mxfp4"}),
        ("clip", {"bits": 6, "group_size": 32}),
        ("clap", {"bits": 4, "mode": "nvfp4"}),
        ("clap-fused", {"bits": 8, "mode": "mxfp8"}),
    ],
)
def test_encoders(name: str, options: dict[str, Any], tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = there_and_back(tiny_checkpoint(name), tmp_path, **options)
    model, processor = mlx_mm.load(tmp_path / "ours", dtype="float32")
    reference, source = (loaded(transformers.AutoModel, each) for each in (folder, tmp_path / f"tiny-{name}"))
    sound = np.sin(np.arange(48000 * 12) * 0.05).astype(np.float32), 48000
    batches = {"text": processor.text(["a cat", "a dog and a cat"])}
    if "image" in RECIPES[name].modalities:
        batches["image"] = processor.images([PICTURE])
    else:
        batches["audio"] = processor.audio([sound])
    for modality, batch in batches.items():
        given = theirs(batch)
        if modality == "image" and given["pixel_values"].ndim == 4:
            given["pixel_values"] = given["pixel_values"].permute(0, 3, 1, 2)
        with torch.no_grad():
            right, exact = (feature(getattr(m, f"get_{modality}_features")(**given)) for m in (reference, source))
        got = getattr(model, f"get_{modality}_features")(**mlx_mm.to_mlx(batch))
        bound = 1e-4 * max(1.0, float(right.abs().max()))
        assert difference(got, right) <= bound, modality
        assert difference(got, exact) > 10 * bound, modality  # rounding did something


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize(
    ("name", "golden", "options"),
    [("glm46v", DENSE, {"bits": 4}), ("glm4v_moe", MOE, {"bits": 4, "mode": "mxfp4"})],
)
def test_generators(
    name: str, golden: str, options: dict[str, Any], tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    """Experts one by one, and keys of config.json that `convert` adds for other programs."""
    folder = there_and_back(tiny_checkpoint(name), tmp_path, **options)
    model, _ = mlx_mm.load(tmp_path / "ours", dtype="float32")
    reference, source = (
        loaded(transformers.AutoModelForImageTextToText, each) for each in (folder, tmp_path / f"tiny-{name}")
    )
    for case in ("text", "two_images"):
        batch = case_batch(glm_cases(golden)[case])
        given = {key: torch.from_numpy(np.array(value)) for key, value in batch.items()}
        given = {key: value if value.is_floating_point() else value.long() for key, value in given.items()}
        with torch.no_grad():
            right, exact = (m(**given, use_cache=False).logits for m in (reference, source))
        got = model(**batch).logits
        bound = 1e-4 * max(1.0, float(right.abs().max()))
        assert difference(got, right) <= bound, case
        assert difference(got, exact) > 10 * bound, case


@pytest.mark.usefixtures("exact_inputs")
def test_jina(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    """Its own code has the low-rank matrices: those that come back change nothing."""
    folder = there_and_back(tiny_checkpoint("jina_clip"), tmp_path, bits=4)
    model, processor = mlx_mm.load(tmp_path / "ours", dtype="float32")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    reference = make_reference(config, load_file(folder / "model.safetensors"))
    pixels = processor.images([PICTURE])["pixel_values"]
    with torch.no_grad():
        states = reference.vision.forward_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
        right = reference.vision.forward_head(states)
    got = model.get_image_features(**mlx_mm.to_mlx({"pixel_values": pixels}))
    assert difference(got, right) <= 1e-4 * max(1.0, float(right.abs().max()))
    batch = processor.text(["a cat", "a dog and a cat"])
    mask = torch.from_numpy(batch["attention_mask"]).long()
    with torch.no_grad():
        states = reference.text(torch.from_numpy(batch["input_ids"]).long(), attention_mask=mask).last_hidden_state
    right = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    got = model.get_text_features(**mlx_mm.to_mlx(batch))
    assert difference(got, right) <= 1e-4 * max(1.0, float(right.abs().max()))
