"""Which files a search considers: dates, places, cameras, folders, names and tags, as rows of the store."""

import math
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import InputError, is_number, shown
from mlx_mm.search.records import MediaKind, Where

EARTH_METRES = 6_371_008.8  # mean radius of the WGS 84 ellipsoid
FARTHEST = 1e9  # metres: no two places lie farther apart than 2e7, and more is a slip
EPOCH = datetime(1970, 1, 1)
DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d))?)?)?)?)?")

SURROGATE = re.compile("[\ud800-\udfff]")

# When a file was taken or changed, in seconds since 1970 of the wall clock, counted as if it were UTC's
MOMENT = "COALESCE(c.taken_at, CAST(strftime('%s', f.mtime_ns / 1000000000, 'unixepoch', 'localtime') AS INTEGER))"


@dataclass(frozen=True)
class Kept:
    """The files that are there and pass all filters. files, contents: their ids, (N,) int64, by file. moments: when
    each was taken or changed, (N,) seconds since 1970 of the wall clock."""

    files: npt.NDArray[np.int64]
    contents: npt.NDArray[np.int64]
    moments: npt.NDArray[np.float64]


def check(where: Where) -> None:
    """Raise InputError for filters that nothing can pass: impossible dates and places, an empty name."""
    if not isinstance(where, Where):
        raise InputError(f"where is {shown(where)}; expected a Where. Write where=mlx_mm.Where(since='2023').")
    _span(where)
    _place(where)
    if where.kind is not None and where.kind not in get_args(MediaKind):
        raise InputError(f"kind is {shown(where.kind)}; expected one of {', '.join(get_args(MediaKind))}. Choose one.")
    for name in ("camera", "tag", "name", "folder"):
        value = getattr(where, name)
        fits = isinstance(value, str) or (name == "folder" and isinstance(value, os.PathLike))
        if value is not None and (not fits or not str(value).strip() or "\0" in str(value)):
            raise InputError(f"{name} is {shown(value)}; expected some text. Leave it out where it does not matter.")


def keep(connection: sqlite3.Connection, where: Where) -> Kept:
    """The files that pass. Raises InputError as `check` does."""
    check(where)
    conditions, values = zip(*_conditions(connection, where), strict=True)
    rows = connection.execute(
        f"SELECT f.id, f.content, {MOMENT}, c.latitude, c.longitude FROM files f JOIN contents c ON c.id = f.content "
        "WHERE " + " AND ".join(conditions) + " ORDER BY f.id",
        [value for some in values for value in some],
    ).fetchall()
    place = _place(where)
    if place is not None:
        rows = [row for row in rows if metres_between(place[:2], row[3:]) <= place[2]]
    ids = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)
    return Kept(ids[:, 0], ids[:, 1], np.array([row[2] for row in rows], np.float64))


def metres_between(a: Sequence[float], b: Sequence[float]) -> float:
    """Length of the great circle between two places in degrees (north, east), by the haversine formula."""
    north_a, east_a, north_b, east_b = map(math.radians, (*a, *b))
    h = math.sin((north_a - north_b) / 2) ** 2
    h += math.cos(north_a) * math.cos(north_b) * math.sin((east_a - east_b) / 2) ** 2
    return 2 * EARTH_METRES * math.asin(min(1.0, math.sqrt(h)))


def folded(text: str) -> str:
    """Text as names, labels and cameras are compared: in NFC, without case, and with a mark in the place of what is no
    Unicode, as the index has of names that are no UTF-8."""
    return unicodedata.normalize("NFC", SURROGATE.sub("\ufffd", text)).casefold()


def _conditions(connection: sqlite3.Connection, where: Where) -> Iterator[tuple[str, list[object]]]:
    """SQL of each filter with its values; of places, only that there is one."""
    yield "f.state = 'here'", []
    since, until = _span(where)
    if since is not None:
        yield f"{MOMENT} >= ?", [since]
    if until is not None:
        yield f"{MOMENT} < ?", [until]
    if where.near is not None:
        yield "c.latitude IS NOT NULL AND c.longitude IS NOT NULL", []
    if where.kind is not None:
        yield "c.kind = ?", [where.kind]
    connection.create_function("folded", 1, lambda text: folded(text or ""), deterministic=True)
    for column, value in (("c.camera", where.camera), ("f.name", where.name)):
        if value is not None:
            yield f"instr(folded({column}), ?)", [folded(value)]
    if where.tag is not None:
        yield "f.content IN (SELECT content FROM tags WHERE folded(label) = ?)", [folded(where.tag)]
    if where.folder is not None:
        yield _below(connection, where.folder)


def _below(connection: sqlite3.Connection, folder: str | Path) -> tuple[str, list[object]]:
    """That a file lies below a folder: one of this computer, or else below any folder of the index.

    Names are compared as bytes and as text in NFC: macOS takes both spellings of an umlaut for one name.
    """
    named = Path(folder).expanduser()
    places = {os.path.abspath(named), os.path.realpath(named)}
    found: list[str] = []
    values: list[object] = []
    for root, path in connection.execute("SELECT id, path FROM roots").fetchall():
        top = os.fsdecode(path)
        for place in places:
            if top == place or _inside(top, place) is not None:
                found.append("f.root = ?")
                values.append(root)
            elif (inner := _inside(place, top)) is not None:
                found.append("(f.root = ? AND (substr(f.path, 1, ?) = ? OR substr(f.name, 1, ?) = ?))")
                values += [root, *_starts(inner)]
    if not found and not named.is_absolute():
        inner = os.path.normpath(named)
        found.append("(substr(f.path, 1, ?) = ? OR substr(f.name, 1, ?) = ?)")
        values += _starts(inner)
    if not found:
        raise InputError(
            f"The folder {named} is neither in the index nor above it; expected one that is. Add it, or leave it out."
        )
    return f"({' OR '.join(found)})", values


def _inside(path: str, folder: str) -> str | None:
    """The rest of a path that lies below a folder."""
    start = folder.rstrip(os.sep) + os.sep
    return path.removeprefix(start) if path.startswith(start) else None


def _starts(inner: str) -> list[object]:
    """How bytes and text of the paths below it begin, each after its length."""
    path = os.fsencode(inner + os.sep)
    name = unicodedata.normalize("NFC", path.decode("utf-8", "replace"))
    return [len(path), path, len(name), name]


def _span(where: Where) -> tuple[float | None, float | None]:
    """From when on and before when, in seconds since 1970."""
    since = None if where.since is None else _moments("since", where.since)[0]
    until = None if where.until is None else _moments("until", where.until)[1]
    if since is not None and until is not None and until <= since:
        raise InputError(
            f"until is {shown(where.until)}, before since, {shown(where.since)}; expected a later date. Swap them."
        )
    return since, until


def _moments(name: str, text: str) -> tuple[float, float]:
    """When a date begins, and when the next one of its kind does."""
    match = DATE.fullmatch(text) if isinstance(text, str) else None
    parts = [int(part) for part in match.groups() if part is not None] if match else []
    try:
        begin = datetime(*(parts + [1, 1][len(parts) - 1 :]))  # type: ignore[arg-type]  # of a year, its first day
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is {shown(text)}, which is no date; expected one such as 2023, 2023-07, 2023-07-14 or "
            "2023-07-14T18:30. Correct it."
        ) from error
    return (begin - EPOCH).total_seconds(), (_next(begin, len(parts)) - EPOCH).total_seconds()


def _next(begin: datetime, parts: int) -> datetime:
    """The next year, month, day, hour, minute or second."""
    try:
        if parts == 1:
            return begin.replace(year=begin.year + 1)
        if parts == 2:
            return (begin + timedelta(days=31)).replace(day=1)
        return begin + (timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1))[parts - 3]
    except (ValueError, OverflowError):  # after the year 9999
        return datetime.max


def _place(where: Where) -> tuple[float, float, float] | None:
    near = where.near
    if near is None:
        return None
    if not isinstance(near, tuple | list) or len(near) != 3 or not all(map(is_number, near)):
        raise InputError(f"near is {shown(near)}; expected three numbers: degrees north, degrees east, metres.")
    north, east, metres = near
    if not (abs(north) <= 90 and abs(east) <= 180 and 0 < metres <= FARTHEST):
        raise InputError(
            f"near is {shown(near)}; expected -90 to 90 degrees north, -180 to 180 degrees east, and metres "
            f"above 0, up to {FARTHEST:g}. Correct it."
        )
    return float(north), float(east), float(metres)
