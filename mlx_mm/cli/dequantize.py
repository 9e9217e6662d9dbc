"""`mlx_mm dequantize`: a converted folder -> float weights under Hugging Face's names."""

import argparse
from dataclasses import asdict
from pathlib import Path

from mlx_mm.cli.command import Command
from mlx_mm.cli.options import add_revision
from mlx_mm.cli.output import say, say_json, visible
from mlx_mm.cli.tables import plural


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `dequantize`."""
    parser.add_argument("source", help="folder that convert made, bundled name or hub id")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--dtype", help="of the floats: float32, float16, bfloat16 (default: float32, which is exact)")
    add_revision(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that stands at OUT")


def run(args: argparse.Namespace) -> int:
    """Write the floats, then print what was done."""
    from mlx_mm import dequantize

    report = dequantize(
        args.source, args.out, dtype=args.dtype, revision=args.revision, overwrite=args.overwrite, progress=True
    )
    if args.json:
        say_json({**asdict(report), "out": str(report.out)})
    else:
        say(
            f"{plural(report.layers, 'quantised layer')} of {report.parameters:,} parameters made floats: "
            f"{report.bytes / 1e6:,.1f} MB in {report.seconds:.1f} s\nwritten to {visible(str(report.out))}"
        )
    return 0


COMMAND = Command(
    "write converted weights as floats for transformers",
    add_arguments,
    run,
    ("mlx_mm dequantize emoji-4bit emoji-floats", "mlx_mm dequantize photos-4bit photos-half --dtype bfloat16"),
)
