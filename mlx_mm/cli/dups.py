"""`mlx_mm dups`: files of an index that are identical, the same picture, or similar."""

import argparse
import hashlib
import os
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlx_mm.cli.command import Command
from mlx_mm.cli.hits import counted
from mlx_mm.cli.indexes import add_index, open_index, refuse_together, shown_bytes, shown_path
from mlx_mm.cli.output import put_bytes, say, say_json, terminal_width
from mlx_mm.cli.tables import table
from mlx_mm.errors import InputError, reason
from mlx_mm.processing.files import open_regular

if TYPE_CHECKING:
    from mlx_mm.search.index import Index
    from mlx_mm.search.records import Group

_WHAT = {
    "identical": "are the same bytes",
    "same": "show the same picture",
    "similar": "are similar",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `dups`."""
    parser.add_argument(
        "--kind",
        choices=tuple(_WHAT),
        default="same",
        help="the same bytes, the same picture in another size or format, or similar ones (default: %(default)s)",
    )
    parser.add_argument("--threshold", type=float, metavar="COSINE", help="how alike they must be")
    parser.add_argument("--paths-of-copies", action="store_true", help="print nothing but paths of what is not kept")
    parser.add_argument("-0", "--null", action="store_true", help="each of these ends with NUL: xargs -0")
    parser.add_argument("--keep-apart", nargs=2, metavar=("A", "B"), help="remember that two files are no duplicates")
    add_index(parser)


def run(args: argparse.Namespace) -> int:
    """Print groups; nothing is ever deleted."""
    refuse_together(("--json", args.json), ("--paths-of-copies", args.paths_of_copies))
    refuse_together(("--keep-apart", args.keep_apart is not None), ("--paths-of-copies", args.paths_of_copies))
    if args.null and not args.paths_of_copies:
        raise InputError("--null stands without --paths-of-copies; expected both. Add it, or leave --null out.")
    with open_index(args) as index:
        if args.keep_apart:
            return _keep_apart(index, args)
        groups = index.duplicates(args.kind, threshold=args.threshold)
    if args.paths_of_copies:
        end = b"\0" if args.null else b"\n"
        copies = [file.path for group in groups for file in group.files if file is not group.keeper]
        put_bytes(b"".join(path.encode("utf-8", "surrogateescape") + end for path in copies))
    elif args.json:
        say_json([asdict(group) for group in groups])
    else:
        say(groups_text(groups, args.kind, terminal_width()))
    return 0


def _keep_apart(index: "Index", args: argparse.Namespace) -> int:
    first, second = args.keep_apart
    index.keep_apart(digest_of(first), digest_of(second))
    if args.json:
        say_json({"kept_apart": [first, second]})
    else:
        say(f"{shown_path(first)} and {shown_path(second)} are no duplicates from now on")
    return 0


def digest_of(name: str) -> str:
    """By which an index knows the content of a file; a digest is taken as it is. Raises InputError."""
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return name
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open_regular(os.path.expanduser(name)) as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except (OSError, ValueError) as error:  # a ValueError for a name that no file can have
        raise InputError(f"Cannot read {name}: {reason(error)}. Expected a file of the index.") from error
    return digest.hexdigest()


def groups_text(groups: "list[Group]", kind: str, width: int | None = None) -> str:
    """A heading and a table for each group, and how much room the copies take. width: as of `table`."""
    blocks = []
    for group in groups:
        likeness = "" if kind == "identical" else f", cosine {group.score:.3f} or more"
        rows = []
        for file in group.files:
            pixels = "" if file.width is None or file.height is None else f"{file.width} x {file.height}"
            role = "keep" if file is group.keeper else ""
            rows.append((f"  {role:4}", pixels, shown_bytes(file.size), shown_path(file.path)))
        blocks.append(f"{counted(len(group.files), 'file')} {_WHAT[kind]}{likeness}\n{table(rows, '<>><', width)}")
    if not groups:
        return f"no files {_WHAT[kind]}"
    copies = [file.size for group in groups for file in group.files[1:]]
    room = f"{counted(len(groups), 'group')}; {counted(len(copies), 'copy', 'copies')} beside those to keep"
    return "\n\n".join([*blocks, f"{room}, {shown_bytes(sum(copies))}. Nothing was deleted."])


COMMAND = Command(
    "find files of an index that are the same picture",
    add_arguments,
    run,
    (
        "mlx_mm dups",
        "mlx_mm dups --kind similar --threshold 0.95",
        "mlx_mm dups --kind identical --paths-of-copies -0 | xargs -0 ls -l",
        "mlx_mm dups --keep-apart first.jpg second.jpg",
    ),
)
