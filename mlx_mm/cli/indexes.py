"""The index that a command is about, and what is written of the files in it."""

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.errors import InputError

if TYPE_CHECKING:
    from mlx_mm.search.index import Index

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS = ("B", "kB", "MB", "GB", "TB")


def add_index(parser: argparse.ArgumentParser) -> None:
    """Which one."""
    parser.add_argument("--index", type=Path, metavar="PATH", help="the index, NAME.mmindex (default: yours)")


def add_index_model(parser: argparse.ArgumentParser) -> None:
    """The model of an index that is there already."""
    add_index(parser)
    parser.add_argument("-m", "--model", help="one of the index's models (default: all it has)")


def path_of(args: argparse.Namespace) -> Path:
    """Where the index lies that was asked for."""
    from mlx_mm.search.place import default_index

    given: Path | None = args.index
    return default_index() if given is None else given.expanduser()


def open_index(args: argparse.Namespace) -> "Index":
    """The index that was asked for."""
    from mlx_mm.search.index import Index

    return Index(path_of(args), model=getattr(args, "model", None))


def shown_path(path: str | Path) -> str:
    """A path for people: below the home folder it begins with ~."""
    text, home = str(path), os.path.expanduser("~")
    below = home.rstrip(os.sep) + os.sep
    return f"~{os.sep}{text[len(below) :]}" if home != os.sep and text.startswith(below) else text


def shown_bytes(count: float) -> str:
    """ "812 B", "3.1 MB"."""
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"


def shown_seconds(seconds: float) -> str:
    """ "0.4 s", "1 min 3 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    minutes, hours = whole // 60, whole // 3600
    return f"{minutes} min {whole % 60} s" if hours == 0 else f"{hours:,} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """A place in a sound or video: "0:07", "3:12", "1:02:03"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(text: str) -> float:
    """Seconds of "90", "90s", "15m", "2h" or "1d"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip().lower())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 15m or 2h, found {text!r}")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def refuse_together(*options: tuple[str, bool]) -> None:
    """InputError where two of these options are given: each is a task of its own."""
    given = [name for name, is_given in options if is_given]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} stand together; expected one of them. Leave the rest out.")
