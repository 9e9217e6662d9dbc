"""What people pass to public functions, each kind held to one rule: texts, several of something, switches, numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from mlx_mm.errors import InputError, is_number, shown
from mlx_mm.processing.batch import as_items

Texts: TypeAlias = str | Iterable[str]  # arrays and columns of a table too

ONE = (str, bytes, bytearray, memoryview, os.PathLike, Mapping)  # could be iterated over, and is one item
WORDS = "OSTU"  # NumPy's kinds of arrays that hold texts or objects


def unpacked(values: object, batch_axes: int | None = None) -> object:
    """A list in the place of an array, a column or a view that holds several items; anything else as it is.

    batch_axes: how many axes an array of numbers has that is several items, such as 4 of pictures (N, H, W, 3). Known
    by what they can do: NumPy's arrays, columns of pandas, polars and Arrow, keys of a dict, sets, iterators.
    """
    if isinstance(values, (list, tuple, *ONE)) or hasattr(values, "read"):  # an open file is one item
        return values
    if isinstance(values, np.ndarray):
        return values.tolist() if values.dtype.kind in WORDS else list(values) if values.ndim == batch_axes else values
    if getattr(values, "ndim", 1) != 1:  # a table, or an array of numbers of another library
        return values
    for name in ("to_pylist", "tolist"):  # items that Python knows, where iterating gives those of the library
        convert = getattr(values, name, None)
        if callable(convert):
            return convert()
    return list(values) if isinstance(values, Iterable) else values


def listed(values: object, batch_axes: int | None = None) -> list[object]:
    """The items of what is one or several, as `unpacked` and `as_items` say; of None, none."""
    return [] if values is None else as_items(unpacked(values, batch_axes))[0]


def strings(values: object, kind: str) -> tuple[list[str], bool]:
    """Texts as a list, and whether it was a single one. kind: "Text", for the InputError of what is no text."""
    items = values.tolist() if isinstance(values, np.ndarray) else unpacked(values)
    several = isinstance(items, list | tuple)
    found: list[str] = []
    for index, item in enumerate(items if isinstance(items, list | tuple) else [items]):
        if not isinstance(item, str):
            how = "Decode it first" if isinstance(item, bytes | bytearray) else "Convert it or leave it out"
            where = f"{kind} number {index}" if several else f"A {kind.lower()}"
            raise InputError(f"{where} is {type(item).__name__}; expected str. {how}.")
        found.append(item)
    return found, not several


def flag(name: str, value: object, advice: str = "Leave it out for the default.") -> bool:
    """`value` where it is True or False, also NumPy's; InputError for all else: "false", 0 and None are slips."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InputError(f"{name} is {shown(value)}; expected True or False. {advice}")


def optional_flag(name: str, value: object) -> bool | None:
    """The same, and None for None."""
    return None if value is None else flag(name, value)


def positive(name: str, value: object, most: float, advice: str) -> float:
    """`value` as a float where it is a number above 0, up to `most`; InputError for all else, NaN too."""
    if is_number(value) and 0 < value <= most:
        return float(value)
    raise InputError(f"{name} is {shown(value)}; expected a number above 0, at most {most:g}. {advice}")


def text_or_path(argument: str, value: object, expected: str) -> str:
    """A str or a path as text; InputError for all else. expected: what it names."""
    if isinstance(value, str | os.PathLike) and isinstance(text := os.fspath(value), str):
        return text
    raise InputError(f"{argument} is {shown(value)}; expected {expected}. Pass it as a str or a Path.")
