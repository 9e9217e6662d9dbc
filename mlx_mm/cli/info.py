"""`mlx_mm info`: what runs here, or what a checkpoint is."""

import argparse
import math
from collections.abc import Sequence

from mlx_mm import __version__
from mlx_mm.cli.command import Command
from mlx_mm.cli.options import add_revision
from mlx_mm.cli.output import say, say_json, terminal_width
from mlx_mm.cli.tables import key_values
from mlx_mm.errors import InputError, ModalityError


def describe_machine() -> dict[str, object]:
    """Versions, device, on a CPU the kernels and the matrix library in use with its measured speed, and the bundled
    checkpoints with what they take.

    Raises InputError if MLX_MM_CPU, MLX_MM_THREADS or MLX_MM_BLAS has an unknown value.
    """
    import dataclasses
    import platform
    from importlib import metadata

    from mlx_mm.backend import blas, device
    from mlx_mm.backend.native import library
    from mlx_mm.checkpoint.bundled import EACH
    from mlx_mm.models import MODEL_TYPES

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
        result["native"] = dataclasses.asdict(library.native_status())
        result["blas"] = {
            "name": status.name,
            "active": status.active,
            "reason": status.reason,
            "threads": status.threads,
            "gflops": round(blas.measure_gflops(), 1),
        }
    bundled = {one.name: " ".join(one.modalities) for one in EACH.values()}
    return {**result, "model_types": sorted(MODEL_TYPES), "bundled": bundled}


def describe_model(path_or_repo: str, revision: str | None = None) -> dict[str, object]:
    """Family, sizes, precision and licence of a checkpoint, from its files alone: no weights are read."""
    from mlx_mm.checkpoint import card, matching, reading
    from mlx_mm.load import open_checkpoint
    from mlx_mm.quantize.apply import default_settings, read_block

    opened = open_checkpoint(path_or_repo, revision=revision)
    block = read_block(opened.values)
    shapes = matching.parameter_shapes(opened.model())  # first, so that no missing file hides a class we do not run
    checkpoint = reading.Checkpoint(opened.folder)
    return {
        "folder": str(opened.folder),
        "family": opened.family.name,
        "model_type": opened.values["model_type"],
        "modalities": list(opened.modalities),
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
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
    from mlx_mm.load import open_checkpoint

    opened = open_checkpoint(path_or_repo, revision=revision)
    processor = opened.processor() if opened.kind == "generator" else None
    if processor is None or processor.kind != "chat":
        raise ModalityError(f"{path_or_repo} gives vectors; expected a model that reads pictures as tokens. Name one.")
    counted = processor.count_tokens(images=list(images), videos=list(videos))
    return dict(zip([*images, *videos], [*counted["images"], *counted["videos"]], strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `info`."""
    parser.add_argument("model", nargs="?", help="folder, bundled name or hub id; without it, about this machine")
    add_revision(parser)
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="show how N machines would divide it; downloads no weights"
    )
    parser.add_argument("--pipeline", action="store_true", help="by layers, for machines of unlike size; with --ranks")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="as if it were converted to so many; with --ranks")
    parser.add_argument("--memory", metavar="SIZES", help="of one machine or of each, as 64GB,32GB: does it fit?")
    parser.add_argument("--image", action="append", default=[], help="show the tokens this picture costs; repeatable")
    parser.add_argument("--video", action="append", default=[], help="show the tokens this video costs; repeatable")


def run(args: argparse.Namespace) -> int:
    """Print what is known, one line or JSON key for each thing."""
    model: str | None = args.model
    images: list[str] = args.image
    videos: list[str] = args.video
    if (images or videos) and not model:
        raise InputError("--image and --video show what a model makes of them; expected one. Name it first.")
    if args.ranks is not None or args.memory is not None or args.bits is not None or args.pipeline:
        return _divided(args)
    tokens = count_tokens(model, images, videos, args.revision) if model and (images or videos) else None
    result = describe_model(model, args.revision) if model else describe_machine()
    if tokens is not None:
        result["tokens"] = tokens
    if args.json:
        say_json(result)
    else:
        say(key_values(result, terminal_width()))
    return 0


def _divided(args: argparse.Namespace) -> int:
    from mlx_mm.cli.division import describe_division, in_lines, read_memory

    if args.ranks is None or not args.model or args.image or args.video:
        raise InputError(
            "--ranks, --bits, --pipeline and --memory show how machines would divide a model; expected --ranks, a "
            "model, and no pictures or videos. Pass those."
        )
    memory = read_memory(args.memory, args.ranks)
    result = describe_division(
        args.model, args.ranks, memory, bits=args.bits, pipeline=args.pipeline, revision=args.revision
    )
    if args.json:
        say_json(result)
    else:
        say(key_values(in_lines(result), terminal_width()))
    return 0


COMMAND = Command(
    "show what runs here, or what a checkpoint is",
    add_arguments,
    run,
    (
        "mlx_mm info",
        "mlx_mm info emoji-siglip2 --json",
        "mlx_mm info zai-org/GLM-4.6V-Flash --image receipt.jpg",
        "mlx_mm info zai-org/GLM-4.6V --ranks 4 --memory 64GB",
        "mlx_mm info zai-org/GLM-4.6V --ranks 2 --pipeline --memory 96GB,32GB --bits 4",
    ),
)
