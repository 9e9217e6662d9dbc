"""Lists of inputs, and the joining of what became of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import InputError
from mlx_mm.processing.sources import each_once, is_file

Batch = dict[str, npt.NDArray[Any]]
Item = TypeVar("Item")


def as_list(values: Item | Iterable[Item], name: str, single: type | tuple[type, ...]) -> list[Item]:
    """A single item is a batch of one; InputError for none.

    single: types of one item that could be iterated over; an open file is one item, too.
    """
    several = isinstance(values, Iterable) and not isinstance(values, single) and not is_file(values)
    items = cast("list[Item]", each_once(cast("Iterable[Item]", values)) if several else [values])
    if not items:
        raise InputError(f"The list of {name} is empty; expected at least one. Leave the call out for an empty batch.")
    return items


def as_items(values: object) -> tuple[list[object], bool]:
    """The items of a list, a tuple or an iterator, also none; anything else is a single item, and then True.

    An open file is a single item; one that stands among the items twice is read once.
    """
    if isinstance(values, list | tuple | Iterator) and not is_file(values):
        return each_once(values), False
    return [values], True


def collate(items: Sequence[Batch], padding: Mapping[str, int]) -> Batch:
    """One batch from several, in order. padding: array name -> what fills its axis 1 up to the longest.

    Raises InputError when the items differ in their keys, or in a size that padding does not make equal.
    """
    if not items:
        raise InputError("No items were given; expected at least one. Leave the call out for an empty batch.")
    if any(item.keys() != items[0].keys() for item in items):
        raise InputError("The items hold different arrays; expected the same keys in all. Collate each kind alone.")
    batch = {}
    for key in items[0]:
        arrays = [item[key] for item in items]
        if key in padding:
            arrays = _pad(arrays, padding[key])
        shapes = sorted({array.shape[1:] for array in arrays})
        if len(shapes) > 1:
            raise InputError(
                f"{key} has the shapes {', '.join(map(str, shapes))} per item; expected one. "
                "Use the same settings for all items of a batch."
            )
        batch[key] = np.concatenate(arrays)
    return batch


def merge(text: Batch | None, media: Batch | None, kind: str) -> Batch:
    """The arrays of texts and of "images" or "audio" in one dict, text first; InputError where there are none."""
    if text is None and media is None:
        raise InputError(f"Neither text nor {kind} was given; expected at least one of them. Pass text= or {kind}=.")
    return {**(text or {}), **(media or {})}


def _pad(arrays: list[npt.NDArray[Any]], value: int) -> list[npt.NDArray[Any]]:
    longest = max(array.shape[1] for array in arrays)
    widths = ([(0, 0), (0, longest - array.shape[1])] + [(0, 0)] * (array.ndim - 2) for array in arrays)
    return [np.pad(array, width, constant_values=value) for array, width in zip(arrays, widths, strict=True)]
