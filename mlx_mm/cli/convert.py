"""`mlx_mm convert`: a Hugging Face checkpoint -> MLX weights of few bits, and what became of its layers."""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mlx_mm.checkpoint.bundled import PICTURES
from mlx_mm.cli.command import Command
from mlx_mm.cli.compare import add_calibrate
from mlx_mm.cli.costs import cost_table
from mlx_mm.cli.curves import check_plot, curve_table, draw_report
from mlx_mm.cli.options import add_revision
from mlx_mm.cli.output import say, say_json, terminal_width, visible
from mlx_mm.cli.reading import read_json_file
from mlx_mm.cli.tables import plural, table
from mlx_mm.errors import InputError

if TYPE_CHECKING:
    from mlx_mm.convert import ConvertReport
    from mlx_mm.quantize.plan import LayerPlan
    from mlx_mm.quantize.recipes import Recipe


BITS = ("2", "3", "4", "5", "6", "8")
USUAL = "usual"  # bits of a mode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `convert`."""
    parser.add_argument("source", help="folder, bundled name or hub id of a Hugging Face checkpoint")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument(
        "--bits", type=_bits, default=USUAL, help=f"{', '.join(BITS)} or none (default: 4, or the mode's own)"
    )
    parser.add_argument("--group-size", type=int, help="32, 64 or 128 (default: 64, or the mode's own)")
    parser.add_argument("--mode", default="affine", help="affine, mxfp4, mxfp8 or nvfp4 (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        help="of what is not quantised: float32, float16, bfloat16 (default: the source's, float16 for float32)",
    )
    parser.add_argument(
        "--recipe",
        help="all-4, all-8, text-only, embeddings-8bit, mixed-4-6, mixed-4-8, or a .json file of {pattern: settings}",
    )
    targets = parser.add_mutually_exclusive_group()
    targets.add_argument(
        "--target-cosine", type=float, metavar="C", help="deal out bits: the smallest with this cosine (0.999)"
    )
    targets.add_argument("--target-size", metavar="SIZE", help="deal out bits: the best of this size (1.2GB)")
    targets.add_argument(
        "--target-kl", type=float, metavar="KL", help="the same as --target-cosine, of answers and scores (0.01)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="with a target: draw size against loss")
    add_revision(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that stands at OUT")
    parser.add_argument("--method", default="best", help="of rounding: plain, search or best (default: %(default)s)")
    add_calibrate(parser)
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure afterwards what was lost (default: yes)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert, then print what was done."""
    from mlx_mm import convert
    from mlx_mm.quantize.scheme import usual

    if args.plot is not None:
        if args.target_cosine is None and args.target_size is None and args.target_kl is None:
            raise InputError("--plot stands without a target; expected one beside it, such as --target-size 1.2GB.")
        check_plot(args.plot)
    report = convert(
        args.source,
        args.out,
        bits=usual(args.mode)[0] if args.bits == USUAL else args.bits,
        group_size=args.group_size,
        mode=args.mode,
        dtype=args.dtype,
        recipe=read_recipe(args.recipe),
        target_cosine=args.target_cosine,
        target_size=args.target_size,
        target_kl=args.target_kl,
        method=args.method,
        calibrate=args.calibrate,
        revision=args.revision,
        overwrite=args.overwrite,
        check=args.check,
        progress=True,
    )
    if args.plot is not None:
        draw_report(args.plot, report)
    if args.json:
        say_json(report_as_dict(report))
    else:
        say(report_table(report, terminal_width()))
    return 0


def read_recipe(recipe: str | None) -> "str | Recipe | None":
    """A name as it is, or what a .json file holds; `convert` checks either. InputError for a file that is no JSON."""
    if recipe is None or not recipe.endswith(".json"):
        return recipe
    return cast("Recipe", read_json_file(Path(recipe), "{path pattern: settings or false}"))


def report_as_dict(report: "ConvertReport") -> dict[str, object]:
    """A conversion report with plain types only."""
    cost = None if report.cost is None else report.cost.as_dict()
    return {**asdict(report), "out": str(report.out), "cost": cost}


def report_table(report: "ConvertReport", width: int | None = None) -> str:
    """What a conversion did: groups of layers, sizes, licence. width: as of `table`."""
    groups: dict[tuple[str, str], list[LayerPlan]] = {}
    for choice in report.choices:
        scheme = choice.scheme
        what = f"kept, {choice.reason}" if scheme is None else f"{scheme}{choice.reason and ': '}{choice.reason}"
        groups.setdefault((choice.path.split(".")[0], what), []).append(choice)
    rows = []
    for (tower, what), choices in groups.items():
        kinds = ", ".join(sorted({choice.path.split(".")[-1] for choice in choices}))
        parameters = sum(math.prod(choice.shape) for choice in choices)
        rows.append((tower, what, plural(len(choices), "layer"), f"{parameters:,} weights", kinds))
    lines = [table(sorted(rows), "<<>><", width)] if rows else ["nothing quantised"]
    for key, (old, new) in report.padded.items():
        lines.append(f"{key} {old} -> {new}: zeros added so that the group size divides it; exact")
    lines.append(
        f"{report.parameters:,} parameters, {report.source_bytes / 1e6:,.1f} MB -> {report.bytes / 1e6:,.1f} MB "
        f"in {report.seconds:.1f} s"
    )
    if report.curve:
        lines.append(curve_table(report.curve, report.bytes, width))
    if report.cost is not None:
        lines.append(cost_table(report.cost, width))
    lines.append(f"licence of the weights: {visible(report.licence or 'not named by the source')}")
    lines.append(f"written to {visible(str(report.out))}")
    return "\n".join(lines)


def _bits(text: str) -> int | str | None:
    if text == "none":
        return None
    if text != USUAL and text not in BITS:
        raise argparse.ArgumentTypeError(f"expected {', '.join(BITS)} or none, found {text!r}")
    return text if text == USUAL else int(text)


COMMAND = Command(
    "convert a Hugging Face checkpoint to few bits",
    add_arguments,
    run,
    (
        "mlx_mm convert emoji-siglip2 emoji-8bit --bits 8",
        f"mlx_mm convert {PICTURES.advised} photos-4bit",
        f"mlx_mm convert {PICTURES.advised} photos-small --target-cosine 0.999 --plot curve.png",
        "mlx_mm convert ./my-checkpoint my-checkpoint-float16 --bits none --dtype float16",
    ),
)
