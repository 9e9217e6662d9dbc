"""`mlx_mm search`: find pictures and sounds of an index by words, by examples, by date and place."""

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.cli.command import Command
from mlx_mm.cli.hits import hits_json, hits_table, summary
from mlx_mm.cli.indexes import add_index_model, open_index, path_of, refuse_together
from mlx_mm.cli.output import put_bytes, say, say_json, terminal_width

if TYPE_CHECKING:
    from mlx_mm.search.records import Where

_METRES = {"m": 1.0, "km": 1000.0, "mi": 1609.344}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `search`."""
    parser.add_argument("words", nargs="*", help="what is to be seen or heard, in your language")
    parser.add_argument("--like", action="append", default=[], metavar="FILE", help="what looks like it; repeatable")
    parser.add_argument("--unlike", action="append", default=[], metavar="FILE", help="what does not; repeatable")
    parser.add_argument("--not", dest="without", action="append", default=[], metavar="WORDS", help="without these")
    parser.add_argument(
        "--weight",
        type=_weighted,
        action="append",
        default=[],
        metavar="W:WORDS",
        help="more words, that count W times",
    )
    parser.add_argument("--since", metavar="DATE", help="taken on 2023, 2023-07 or 2023-07-14, or later")
    parser.add_argument("--until", metavar="DATE", help="taken then or before")
    parser.add_argument("--near", type=_place, metavar="LAT,LON,RADIUS", help="taken there, such as 54.3,13.1,20km")
    parser.add_argument("--camera", metavar="TEXT", help="a part of its name")
    parser.add_argument("--kind", choices=("image", "audio", "video"), help="what is looked for")
    parser.add_argument("--in", dest="folder", metavar="FOLDER", help="files below it")
    parser.add_argument("--tag", metavar="LABEL", help="a label that mlx_mm tag gave")
    parser.add_argument("--name", metavar="TEXT", help="a part of the file's name")
    parser.add_argument("--top", type=int, metavar="N", default=20, help="how many to show (default: %(default)s)")
    parser.add_argument("--min", dest="min_score", type=float, metavar="S", help="leave out lower scores")
    parser.add_argument("--all", action="store_true", help="show also what does not fit well")
    parser.add_argument("--sort", choices=("score", "date", "name"), default="score", help="(default: %(default)s)")
    parser.add_argument("-0", "--null", action="store_true", help="print nothing but paths, each with NUL: xargs -0")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw them on a contact sheet, a .png")
    parser.add_argument("--open", action="store_true", help="show the best one, or the sheet, on the desktop")
    add_index_model(parser)


def run(args: argparse.Namespace) -> int:
    """Print what was found; that nothing was is a result, too."""
    from mlx_mm.cli.contact_sheet import check_sheet
    from mlx_mm.cli.hit_sheet import draw_hits
    from mlx_mm.cli.viewer import check_display, show_file

    refuse_together(("--json", args.json), ("--null", args.null))
    if args.sheet is not None:
        check_sheet(args.sheet)
    if args.open:
        check_display()
    said = " ".join(args.words)
    words = [*([said] if said else []), *(text for _, text in args.weight)]
    weights = [*([1.0] if said else []), *(weight for weight, _ in args.weight), *(1.0 for _ in args.like)]
    with open_index(args) as index:
        hits = index.search(
            words,
            like=args.like,
            unlike=args.unlike,
            without=args.without,
            weights=weights if args.weight else None,
            where=_where(args),
            top=args.top,
            min_score=args.min_score,
            strong_only=not args.all,
            sort=args.sort,
        )
    asked = ", ".join([*(f'"{text}"' for text in words), *args.like]) or "these filters"
    if args.sheet is not None:
        draw_hits(args.sheet, asked, hits, path_of(args))
    if args.null:
        put_bytes(b"".join(_raw(hit.path) + b"\0" for hit in hits))
    elif args.json:
        say_json(hits_json(hits))
    else:
        if hits:
            say(hits_table(hits, terminal_width()))
        say(summary(hits, asked, show_all=args.all))
    if args.open and (hits or args.sheet is not None):
        show_file(str(args.sheet) if args.sheet is not None else hits[0].path)
    return 0


def _where(args: argparse.Namespace) -> "Where":
    from mlx_mm.search.records import Where

    return Where(
        since=args.since,
        until=args.until,
        near=args.near,
        camera=args.camera,
        kind=args.kind,
        folder=args.folder,
        tag=args.tag,
        name=args.name,
    )


def _raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _weighted(text: str) -> tuple[float, str]:
    weight, colon, words = text.partition(":")
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not (colon and words.strip() and 0 < number < math.inf):
        raise argparse.ArgumentTypeError(f"expected a weight above 0 and words, such as 2:dog, found {text!r}")
    return number, words


def _place(text: str) -> tuple[float, float, float]:
    number = r"\s*([+-]?\d+(?:\.\d+)?)\s*"
    found = re.fullmatch(rf"{number},{number},\s*(\d+(?:\.\d+)?)\s*(m|km|mi)\s*", text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"expected degrees north, east and a radius, as 54.3,13.1,20km, found {text!r}"
        )
    return float(found[1]), float(found[2]), float(found[3]) * _METRES[found[4]]


COMMAND = Command(
    "find pictures and sounds of an index by words",
    add_arguments,
    run,
    (
        'mlx_mm search "dog on a beach"',
        "mlx_mm search --like rex.jpg --not people --since 2023 --top 50",
        'mlx_mm search "glass breaking" --kind audio',
        'mlx_mm search "red car" --near 54.3,13.1,20km --sheet found.png --open',
        "mlx_mm search receipt -0 | xargs -0 cp -t receipts/",
    ),
)
