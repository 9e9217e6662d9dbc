"""`mlx_mm tag`: give the files of an index the labels that fit them, by which they are found again."""

import argparse
from pathlib import Path

from mlx_mm.cli.classify import read_labels
from mlx_mm.cli.command import Command
from mlx_mm.cli.indexes import add_index_model, open_index
from mlx_mm.cli.output import say, say_json, terminal_width
from mlx_mm.cli.tables import table
from mlx_mm.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `tag`."""
    parser.add_argument(
        "-l", "--labels", action="append", help="words that may fit, comma-separated; may be given more than once"
    )
    parser.add_argument("--labels-file", type=Path, help="file with one label per line")
    parser.add_argument("--min", dest="least", type=float, metavar="S", help="the least score of a label that is given")
    parser.add_argument(
        "--kind", choices=("image", "audio", "video"), default="image", help="which files (default: %(default)s)"
    )
    add_index_model(parser)


def run(args: argparse.Namespace) -> int:
    """Tag, and print how many files each label has."""
    labels = read_labels(args.labels, args.labels_file)
    if not labels:
        raise InputError('No label is given; expected some words. Pass --labels "cat, receipt".')
    with open_index(args) as index:
        counts = index.tag(labels, least=args.least, kind=args.kind, progress=True)
    if args.json:
        say_json(counts)
    else:
        say(
            table(
                [("label", "files"), *((label, f"{count:,}") for label, count in counts.items())],
                "<>",
                terminal_width(),
            )
        )
    return 0


COMMAND = Command(
    "give the files of an index labels that fit",
    add_arguments,
    run,
    (
        'mlx_mm tag --labels "receipt, screenshot, cat"',
        "mlx_mm tag --labels-file words.txt --min 0.3",
        "mlx_mm tag --labels 'rain, applause' --kind audio",
    ),
)
