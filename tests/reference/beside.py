"""A transformers model beside ours: random weights for it, and the same inputs for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from clap_tiny import write_clap_side_files
from metaclip_tiny import write_clip_side_files
from tiny import write_side_files

import mlx_mm

torch = pytest.importorskip("torch")


def randomise(model: Any, seed: int = 0) -> Any:
    """Every parameter away from its initial value, at sizes that keep the activations of the order of one."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if name in ("logit_scale", "logit_bias"):
            noise = torch.full_like(parameter, 2.3 if name == "logit_scale" else -3.7)
        elif parameter.ndim == 1 and "class_embedding" not in name:
            noise = noise * 0.1 + (1 if "norm" in name and name.endswith("weight") else 0)
        elif "probe" in name or ("embedding" in name and "patch" not in name):
            noise = noise * 0.5
        else:
            noise = noise / parameter[0].numel() ** 0.5
        parameter.data.copy_(noise)
    return model.eval()


# How a `model_type` begins -> what writes the processor and tokenizer files of its family
SIDE_FILES = {
    "siglip": write_side_files,
    "metaclip_2": write_clip_side_files,
    "clip": write_clip_side_files,
    "clap": write_clap_side_files,
}


def save(model: Any, folder: Path) -> Path:
    """A folder as transformers writes it, with tokenizer and processor files."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    write = next(write for name, write in SIDE_FILES.items() if config["model_type"].startswith(name))
    write(folder, config)
    return folder


def through_convert(model: Any, tmp_path: Path, **options: Any) -> Any:
    """The model, saved, converted and loaded; bits None unless an option says otherwise."""
    source = save(model, tmp_path / "source")
    mlx_mm.convert(source, tmp_path / "converted", **({"bits": None} | options))
    return mlx_mm.load(tmp_path / "converted")[0]


def ours(batch: dict[str, np.ndarray]) -> dict[str, mx.array]:
    """A batch in transformers' layout, pictures (B, 3, H, W), in ours."""
    out = dict(batch)
    if "pixel_values" in out and out["pixel_values"].ndim == 4:
        out["pixel_values"] = out["pixel_values"].transpose(0, 2, 3, 1)
    return mlx_mm.to_mlx(out)


def theirs(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def difference(got: Any, right: Any) -> float:
    """The largest between an array of ours and a tensor."""
    got, right = np.array(got, dtype=np.float64), right.detach().numpy().astype(np.float64)
    assert got.shape == right.shape
    return float(np.abs(got - right).max())
