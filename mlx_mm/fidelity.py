"""How close the vectors of a converted checkpoint are to those of its source."""

from pathlib import Path
from typing import Any

import numpy as np

from mlx_mm import hub
from mlx_mm.embed import encode_image, encode_text
from mlx_mm.load import load


def cosines_to_source(source: Path, converted: Path) -> dict[str, tuple[float, float]]:
    """Mean and lowest cosine per modality, over the bundled pictures and their names."""
    ours, theirs = _vectors(converted), _vectors(source)
    result = {}
    for kind, vectors in ours.items():
        cosines = (vectors * theirs[kind]).sum(axis=-1)
        result[kind] = float(cosines.mean()), float(cosines.min())
    return result


def _vectors(folder: Path) -> dict[str, np.ndarray]:
    model, processor = load(folder)
    pictures = sorted((hub.BUNDLED / "pictures").glob("*.png"))
    names = [path.stem.replace("_", " ") for path in pictures]
    inputs: dict[str, tuple[Any, Any]] = {"text": (encode_text, names), "image": (encode_image, pictures)}
    return {kind: inputs[kind][0](model, processor, inputs[kind][1]) for kind in model.modalities}
