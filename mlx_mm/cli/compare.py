"""`mlx_mm compare`: what one checkpoint lost against another of the same model."""

import argparse

from mlx_mm.cli.command import Command
from mlx_mm.cli.costs import cost_table
from mlx_mm.cli.options import add_revision
from mlx_mm.cli.output import say, say_json, terminal_width


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `compare`."""
    parser.add_argument("first", help="folder, bundled name or hub id, such as the source")
    parser.add_argument("second", help="another of the same model, such as a converted one")
    add_calibrate(parser)
    add_revision(parser)


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    """On what models are tried."""
    parser.add_argument(
        "--calibrate", metavar="FOLDER", help="of your pictures, sounds, .txt or .jsonl (default: bundled ones)"
    )


def run(args: argparse.Namespace) -> int:
    """Compare, then print what was lost."""
    from mlx_mm import compare

    cost = compare(args.first, args.second, calibrate=args.calibrate, revision=args.revision, progress=True)
    if args.json:
        say_json({"first": args.first, "second": args.second, **cost.as_dict()})
    else:
        say(cost_table(cost, terminal_width()))
    return 0


COMMAND = Command(
    "measure what a converted checkpoint lost against its source",
    add_arguments,
    run,
    (
        "mlx_mm compare emoji-siglip2 emoji-4bit",
        "mlx_mm compare ./my-checkpoint ./my-checkpoint-4bit --calibrate ~/Pictures",
    ),
)
