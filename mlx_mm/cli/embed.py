"""`mlx_mm embed`: images, sounds or texts -> vectors, in a file or as JSON lines."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mlx_mm.checkpoint.bundled import PICTURES
from mlx_mm.cli.command import Command
from mlx_mm.cli.files import input_lines, modality_of, require_some
from mlx_mm.cli.notes import Skipped, note
from mlx_mm.cli.opening import fitting_encoder, modality_beside_text, open_encoder
from mlx_mm.cli.options import add_encoder, add_fast_decode, add_inputs
from mlx_mm.cli.output import put_json, say, say_json, visible
from mlx_mm.cli.shards import add_shard, part_path, shard_of
from mlx_mm.cli.tables import plural
from mlx_mm.errors import InputError

if TYPE_CHECKING:
    from mlx_mm.models.contracts import Modality


class _Shared(TypedDict):
    """Options of every `encode_…`."""

    dim: int | None
    normalize: bool
    batch_size: int
    progress: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `embed`."""
    add_inputs(parser)
    parser.add_argument("--text", action="store_true", help="the inputs, or the lines of -, are texts")
    parser.add_argument("-o", "--out", type=Path, help=".npz, .jsonl or .parquet (default: JSON lines on stdout)")
    add_shard(parser, "OUT-I-of-N")
    parser.add_argument("--dim", type=int, help="keep the first DIM numbers of each vector")
    parser.add_argument("--no-normalize", action="store_true", help="leave the vectors at their own length")
    parser.add_argument("--max-num-patches", type=int, help="budget of NaFlex models; more keeps finer detail")
    add_fast_decode(parser)
    parser.add_argument("--task", help="what the vectors of texts are for, in models that distinguish it")
    parser.add_argument("--max-length", type=int, help="tokens of a text, of which the rest is cut off")
    parser.add_argument("--no-truncate", action="store_true", help="refuse longer texts instead of cutting them")
    add_encoder(parser)


def run(args: argparse.Namespace) -> int:
    """Write or print a vector for each input that can be read."""
    from mlx_mm import encode_audio, encode_image, encode_text
    from mlx_mm.cli.embeddings import check_output, json_lines, write_embeddings
    from mlx_mm.models.modalities import require_encoder

    shard = shard_of(args)
    out: Path | None = None if args.out is None else part_path(args.out, shard)
    if out is not None:
        check_output(out)
    if shard is not None and args.shard is None and (out is None or "-" in args.inputs):
        raise InputError(
            "A launcher runs this several times, which cannot share stdin and stdout; expected names and -o FILE. Give "
            "them, or run each with --shard I/N."
        )
    skipped = Skipped()
    inputs = require_some(input_lines(args.inputs, names=not args.text, null=args.null))
    fitting = PICTURES if args.text or args.model else fitting_encoder(inputs)
    checkpoint = open_encoder(args.model, args.revision, fitting)
    modality = "text" if args.text else modality_of(inputs) or modality_beside_text(checkpoint)
    _check_options(args, modality)
    require_encoder(checkpoint, modality)
    ids = inputs if modality == "text" else require_some(skipped.find(inputs, modality))
    if shard is not None:
        ids = [name for name in ids if shard.has(name)]
        if not ids:
            note(f"shard {shard} has none of these inputs, so nothing is written for it")
            return 0
    model, processor = checkpoint.load()
    shared: _Shared = {
        "dim": args.dim,
        "normalize": not args.no_normalize,
        "batch_size": args.batch_size,
        "progress": True,
    }
    on_error = skipped.on_error(ids)
    if modality == "text":
        task, length, truncate = args.task, args.max_length, not args.no_truncate
        embeddings = encode_text(model, processor, ids, task=task, max_length=length, truncate=truncate, **shared)
    elif modality == "audio":
        embeddings = encode_audio(model, processor, ids, on_error=on_error, **shared)
    else:
        patches, fast = args.max_num_patches, args.fast_decode
        embeddings = encode_image(
            model, processor, ids, max_num_patches=patches, fast_decode=fast, on_error=on_error, **shared
        )
    ids = require_some(skipped.remaining(ids))
    if out is None:
        for line in json_lines(ids, embeddings):
            put_json(line)
    else:
        write_embeddings(out, ids, embeddings, checkpoint.name)
        dim = embeddings.shape[1]
        summary = {"out": str(out), "vectors": len(ids), "dim": dim, "skipped": skipped.count}
        if args.json:
            say_json(summary, indent=None)
        else:
            say(f"{plural(len(ids), 'vector')} of {dim} numbers -> {visible(str(out))}")
    skipped.report()
    return 0


def _check_options(args: argparse.Namespace, modality: "Modality") -> None:
    """Raise InputError for options that say nothing about what is embedded."""
    about: dict[str, tuple[Modality, str, bool]] = {
        "--max-num-patches": ("image", "pictures", args.max_num_patches is not None),
        "--fast-decode": ("image", "pictures", args.fast_decode),
        "--task": ("text", "texts", args.task is not None),
        "--max-length": ("text", "texts", args.max_length is not None),
        "--no-truncate": ("text", "texts", args.no_truncate),
    }
    for option, (fitting, what, given) in about.items():
        if given and modality != fitting:
            raise InputError(f"{option} is about {what}, and this embeds {modality}. Leave it out.")


COMMAND = Command(
    "turn pictures, sounds or texts into vectors",
    add_arguments,
    run,
    (
        "mlx_mm embed photos/ -o photos.npz",
        'mlx_mm embed --text "a photo of a cat" -o query.jsonl',
        "mlx_mm embed photos/ -o photos.npz --shard 1/3",
        "find photos -name '*.jpg' -print0 | mlx_mm embed --null - -o photos.npz",
    ),
)
