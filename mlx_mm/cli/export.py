"""`mlx_mm export`: the files of an index with their vectors, for other programs."""

import argparse
from pathlib import Path

from mlx_mm.cli.command import Command
from mlx_mm.cli.hits import counted
from mlx_mm.cli.indexes import add_index, open_index
from mlx_mm.cli.output import say, say_json, visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `export`."""
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help=".npz, .jsonl or .parquet")
    parser.add_argument("--kind", choices=("image", "audio", "video"), help="only these files (default: all)")
    add_index(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    out: Path = args.out.expanduser()
    with open_index(args) as index:
        count = index.export(out, kind=args.kind)
    if args.json:
        say_json({"out": str(out), "vectors": count})
    else:
        say(f"{counted(count, 'vector')} -> {visible(str(out))}")
    return 0


COMMAND = Command(
    "write the vectors of an index for other programs",
    add_arguments,
    run,
    (
        "mlx_mm export -o photos.parquet",
        "mlx_mm export -o photos.npz --index photos.mmindex",
    ),
)
