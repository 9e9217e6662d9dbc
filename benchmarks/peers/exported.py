"""A vision tower as an ONNX file, made by torch once and kept beside the checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

from workers import MissingError


def exported(folder: Path) -> Path:
    """folder/model.onnx: pixels (B, 3, H, W) -> pooled vectors (B, D), B free."""
    path = folder / "model.onnx"
    if not path.exists():
        sys.modules["torchvision"] = None
        try:
            import onnx  # noqa: F401
            import torch
            from transformers import AutoModel
        except ImportError as error:
            raise MissingError(f"{error.name} is not installed, which exporting needs") from error
        model = AutoModel.from_pretrained(folder / "source", attn_implementation="sdpa", dtype=torch.float32)
        model = model.eval().requires_grad_(False)

        class Pooled(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model  # as a part of it, its weights become initialisers, which are quantised

            def forward(self, pixels):
                return self.model(pixel_values=pixels).pooler_output

        side, part = model.config.image_size, path.with_suffix(".part")
        with torch.inference_mode():
            torch.onnx.export(
                Pooled().eval(),
                (torch.zeros(2, 3, side, side),),
                part,
                input_names=["pixels"],
                output_names=["vectors"],
                dynamic_axes={"pixels": {0: "batch"}, "vectors": {0: "batch"}},
                dynamo=False,  # the other exporter needs onnxscript
            )
        part.rename(path)
    return path


def pixels_of(folder: Path, batch: int):
    """What the others are given, as these engines want it."""
    import json

    import encoders

    config = json.loads((folder / "source" / "config.json").read_text())
    return encoders.make_batch(config, "image", batch, 0).transpose(0, 3, 1, 2).copy()
