"""What runs here, and what a checkpoint is."""

import math
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from mlx_mm import __version__
from mlx_mm.backend import blas, device
from mlx_mm.checkpoint import card, hub, matching, reading
from mlx_mm.errors import ModalityError
from mlx_mm.models import MODEL_TYPES, find_family
from mlx_mm.quantize import plan as quantize


def describe_machine() -> dict[str, Any]:
    """Versions, device, and on a CPU the matrix library in use with its measured speed."""
    status = device.prepare()
    versions = {"mlx_mm": __version__}
    versions |= {name: metadata.version(name) for name in ("mlx", "numpy", "tokenizers", "pillow")}
    result: dict[str, Any] = {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": "cpu" if device.on_cpu() else "gpu",
    }
    if device.on_cpu():
        result["blas"] = {
            "name": status.name,
            "active": status.active,
            "reason": status.reason,
            "threads": status.threads,
            "gflops": round(blas.measure_gflops(), 1),
        }
    return {**result, "model_types": sorted(MODEL_TYPES), "bundled": hub.bundled_names()}


def describe_model(path_or_repo: str, revision: str | None = None) -> dict[str, Any]:
    """Family, sizes, precision and licence of a checkpoint, from its files alone: no weights are read."""
    folder = hub.resolve(path_or_repo, revision)
    values = hub.read_config(folder)
    family = find_family(values["model_type"])
    config = family.config.from_dict(values)
    model = family.architecture(values.get("architectures"))(config)
    checkpoint = reading.Checkpoint(folder)
    block = quantize.read_config(values)
    return {
        "folder": str(folder),
        "family": family.name,
        "model_type": values["model_type"],
        "modalities": list(model.modalities),
        "parameters": sum(math.prod(shape) for shape in matching.parameter_shapes(model).values()),
        "bytes": checkpoint.num_bytes,
        "format": "mlx" if checkpoint.is_mlx else "hugging face",
        "quantization": quantize.default_scheme(block) if block else None,
        "padded": values.get("padded"),
        "licence": card.read_licence(folder) or config.licence,
    }


def count_tokens(
    path_or_repo: str, images: Sequence[str], videos: Sequence[str], revision: str | None = None
) -> dict[str, int]:
    """What each picture and video costs a model that generates, without the markers around it; no weights are read."""
    folder = hub.resolve(path_or_repo, revision)
    values = hub.read_config(folder)
    family = find_family(values["model_type"])
    config = family.config.from_dict(values)
    if family.architecture(values.get("architectures"))(config).kind != "generator":
        raise ModalityError(f"{path_or_repo} gives vectors; expected a model that reads pictures as tokens. Name one.")
    processor = family.processor(folder, config)
    counted = processor.count_tokens(images=list(images), videos=list(videos))
    return dict(zip([*images, *videos], [*counted["images"], *counted["videos"]], strict=True))
