"""`mlx_mm models`: the checkpoints on this machine, and removing one."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.checkpoint.bundled import PICTURES
from mlx_mm.cli.command import Command
from mlx_mm.cli.demo_run import cache_folder
from mlx_mm.cli.notes import note
from mlx_mm.cli.output import say, say_json, terminal_width, visible, watched
from mlx_mm.cli.reading import stdin_line
from mlx_mm.cli.tables import table
from mlx_mm.errors import InputError

if TYPE_CHECKING:
    from mlx_mm.checkpoint.local import LocalCheckpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `models`."""
    parser.add_argument(
        "folders", nargs="*", type=Path, help="where to look besides, and one level below (default: the current one)"
    )
    parser.add_argument("--remove", metavar="NAME", help="delete a converted folder, or a model of the hub's cache")
    parser.add_argument("--yes", action="store_true", help="remove without asking")


def run(args: argparse.Namespace) -> int:
    """List what is there, or remove one."""
    from mlx_mm.checkpoint.local import find_checkpoints, remove
    from mlx_mm.models import MODEL_TYPES

    if args.yes and args.remove is None:
        raise InputError("--yes is about --remove, which is not given. Leave it out.")
    found = find_checkpoints([*(args.folders or [Path()]), cache_folder()], MODEL_TYPES)
    if args.remove is None:
        if args.json:
            say_json([plain(one) for one in found])
        else:
            say(models_table(found, terminal_width()))
        return 0
    one = named(args.remove, found)
    if not args.yes and not confirmed(one):
        note("nothing was removed")
        return 1
    remove(one)
    if args.json:
        say_json({"removed": plain(one)})
    else:
        say(f"removed {visible(one.name)}, {one.bytes / 1e6:,.1f} MB")
    return 0


def named(name: str, found: "list[LocalCheckpoint]") -> "LocalCheckpoint":
    """The checkpoint of that name or in that folder; InputError where there is none, or it is bundled."""
    from mlx_mm.checkpoint.local import read

    one = next((one for one in found if one.name == name), None) or read(Path(name).expanduser())
    if one is None:
        raise InputError(f"There is no model {name} on this machine; expected one that `mlx_mm models` lists.")
    if one.kind == "bundled":
        raise InputError(f"{name} is bundled, a part of the package; expected one that was converted or downloaded.")
    return one


def confirmed(one: "LocalCheckpoint") -> bool:
    """Ask whether to remove it; InputError where nobody can be asked."""
    if not (watched(sys.stdin) and watched(sys.stderr)):
        raise InputError("--remove asks first, and there is no terminal to ask at; expected --yes. Pass it to remove.")
    note(f"remove {one.name}, {one.bytes / 1e6:,.1f} MB, from {one.folder}? y or n")
    return (stdin_line() or "").strip().lower() in ("y", "yes")


def models_table(found: "list[LocalCheckpoint]", width: int | None = None) -> str:
    """A line for each, under a heading. width: as of `table`."""
    rows = [("name", "kind", "size", "bits", "licence", "folder")]
    for one in found:
        bits = "-" if one.bits is None else str(one.bits)
        rows.append((one.name, one.kind, f"{one.bytes / 1e6:,.1f} MB", bits, one.licence or "-", str(one.folder)))
    return table(rows, "<<>><<", width)


def plain(one: "LocalCheckpoint") -> dict[str, object]:
    """A checkpoint with plain types only."""
    return {**vars(one), "folder": str(one.folder)}


COMMAND = Command(
    "list the models on this machine, or remove one",
    add_arguments,
    run,
    (
        "mlx_mm models",
        "mlx_mm models ~/models --json",
        "mlx_mm models --remove glm-flash-4bit",
        f"mlx_mm models --remove {PICTURES.advised} --yes",
    ),
)
