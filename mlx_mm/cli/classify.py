"""`mlx_mm classify`: images or sounds -> scores of labels, as a table or JSON."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from mlx_mm.checkpoint.bundled import PICTURES
from mlx_mm.cli.command import Command
from mlx_mm.cli.files import input_lines, modality_of, require_some
from mlx_mm.cli.notes import Skipped
from mlx_mm.cli.opening import fitting_encoder, modality_beside_text, open_encoder
from mlx_mm.cli.options import add_encoder, add_fast_decode, add_inputs
from mlx_mm.cli.output import json_text, put_json, say, terminal_width
from mlx_mm.cli.reading import lines, read_text
from mlx_mm.cli.tables import table
from mlx_mm.errors import InputError

FileScores: TypeAlias = Sequence[tuple[str, Sequence[tuple[str, float]]]]  # file, its labels with their scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `classify`."""
    add_inputs(parser)
    parser.add_argument(
        "-l", "--labels", action="append", help="words to choose from, comma-separated; may be given more than once"
    )
    parser.add_argument("--labels-file", type=Path, help="file with one label per line")
    parser.add_argument("--template", action="append", help="sentence with {} for the label; several are averaged")
    parser.add_argument("--top", type=int, default=5, help="labels to print for each picture (default: %(default)s)")
    add_fast_decode(parser)
    add_encoder(parser)


def run(args: argparse.Namespace) -> int:
    """Print the best labels of each input that can be read."""
    from mlx_mm import classify
    from mlx_mm.classify import check_labels
    from mlx_mm.models.modalities import require_modality

    labels = read_labels(args.labels, args.labels_file)
    templates: list[str] | None = args.template
    top: int = args.top
    if top < 1:
        raise InputError(f"--top is {top}; expected 1 or more.")
    skipped = Skipped()
    inputs = require_some(input_lines(args.inputs, null=args.null))
    fitting = PICTURES if args.model else fitting_encoder(inputs)
    checkpoint = open_encoder(args.model, args.revision, fitting)
    modality = modality_of(inputs) or modality_beside_text(checkpoint)
    check_labels(checkpoint, labels, templates)
    require_modality(checkpoint, modality)
    files = require_some(skipped.find(inputs, modality))
    model, processor = checkpoint.load()
    results = classify(
        model,
        processor,
        files,
        labels,
        template=templates,
        batch_size=args.batch_size,
        fast_decode=args.fast_decode,
        progress=True,
        on_error=skipped.on_error(files),
    )
    names = require_some(skipped.remaining(files))
    rows = [(name, result[:top]) for name, result in zip(names, results, strict=True)]
    if args.json:
        put_json(scores_json(rows))
    else:
        say(scores_table(rows, terminal_width()))
    skipped.report()
    return 0


def read_labels(given: Sequence[str] | None, file: Path | None) -> list[str] | None:
    """Labels of comma-separated texts and of the lines of a file; None where neither is given."""
    if given is None and file is None:
        return None
    labels = [part.strip() for text in given or [] for part in text.split(",")]
    if file is not None:
        labels += [line.strip() for line in lines(read_text(file))]
    return [label for label in labels if label]


def scores_table(results: FileScores, width: int | None = None) -> str:
    """File, label, score; the file only in its first line. width: as of `table`."""
    rows = []
    for name, scores in results:
        for i, (label, score) in enumerate(scores):
            rows.append((name if i == 0 else "", label, f"{score:.3f}"))
    return table(rows, "<<>", width)


def scores_json(results: FileScores) -> str:
    """A JSON array of {"id", "labels": [{"label", "score"}]}."""
    rows = [
        {"id": name, "labels": [{"label": label, "score": score} for label, score in scores]}
        for name, scores in results
    ]
    return json_text(rows, indent=2)


COMMAND = Command(
    "score pictures or sounds against labels",
    add_arguments,
    run,
    (
        "mlx_mm classify photos/ --labels 'cat, pizza, rocket' --top 2",
        "mlx_mm classify holiday.jpg --labels-file words.txt --template 'a photo of a {}' --json",
        "mlx_mm classify sounds/ --labels 'rain, applause'",
    ),
)
