"""What runs here, and what a checkpoint is."""

import math
import platform
from collections.abc import Sequence
from importlib import metadata

from mlx_mm import __version__
from mlx_mm.backend import blas, device
from mlx_mm.checkpoint import card, hub, matching, reading
from mlx_mm.errors import ModalityError
from mlx_mm.load import open_checkpoint
from mlx_mm.models import MODEL_TYPES
from mlx_mm.quantize.apply import default_settings, read_block


def describe_machine() -> dict[str, object]:
    """Versions, device, and on a CPU the matrix library in use with its measured speed."""
    status = device.prepare()
    versions = {"mlx_mm": __version__}
    versions |= {name: metadata.version(name) for name in ("mlx", "numpy", "tokenizers", "pillow")}
    result: dict[str, object] = {
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


def describe_model(path_or_repo: str, revision: str | None = None) -> dict[str, object]:
    """Family, sizes, precision and licence of a checkpoint, from its files alone: no weights are read."""
    opened = open_checkpoint(path_or_repo, revision=revision)
    checkpoint = reading.Checkpoint(opened.folder)
    block = read_block(opened.values)
    return {
        "folder": str(opened.folder),
        "family": opened.family.name,
        "model_type": opened.values["model_type"],
        "modalities": list(opened.modalities),
        "parameters": sum(math.prod(shape) for shape in matching.parameter_shapes(opened.model()).values()),
        "bytes": checkpoint.num_bytes,
        "format": "mlx" if checkpoint.is_mlx else "hugging face",
        "quantization": default_settings(block) if block else None,
        "padded": opened.values.get("padded"),
        "licence": card.read_licence(opened.folder) or opened.config.licence,
    }


def count_tokens(
    path_or_repo: str, images: Sequence[str], videos: Sequence[str], revision: str | None = None
) -> dict[str, int]:
    """What each picture and video costs a model that generates, without the markers around it; no weights are read."""
    opened = open_checkpoint(path_or_repo, revision=revision)
    processor = opened.processor() if opened.kind == "generator" else None
    if processor is None or processor.kind != "chat":
        raise ModalityError(f"{path_or_repo} gives vectors; expected a model that reads pictures as tokens. Name one.")
    counted = processor.count_tokens(images=list(images), videos=list(videos))
    return dict(zip([*images, *videos], [*counted["images"], *counted["videos"]], strict=True))
