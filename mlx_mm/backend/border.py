"""The border between NumPy, which prepares inputs and takes results, and MLX, which computes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_mm.backend import device
from mlx_mm.errors import InputError, shown

Key = TypeVar("Key")

NARROWER: Mapping[np.dtype[np.generic], type[np.generic]] = {
    np.dtype(np.int64): np.int32,
    np.dtype(np.float64): np.float32,
}

NUMBERS_AT_ONCE = 1 << 16  # that stay in a processor's cache


def to_mlx(batch: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, mx.array]:
    """A processor's NumPy arrays as mlx arrays under the same keys; 64-bit numbers become 32-bit ones.

    Raises InputError for anything else.
    """
    if not isinstance(batch, Mapping) or not all(map(_has_numbers, batch.values())):
        found = {key: _kind(value) for key, value in batch.items()} if isinstance(batch, Mapping) else batch
        raise InputError(f"The batch is {shown(found)}; expected NumPy arrays by name. Pass what a processor gives.")
    narrow = ((key, value.astype(NARROWER.get(value.dtype, value.dtype), copy=False)) for key, value in batch.items())
    return {key: mx.array(value) for key, value in narrow}


def _has_numbers(array: object) -> bool:
    """Whether mlx can hold it: numbers of 64 bits at most."""
    return isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and array.dtype.itemsize <= 8


def _kind(value: object) -> str:
    return f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def read_rows(array: mx.array) -> list[list[float]]:
    """The numbers of (N, M), or of (N,) as rows of one: for what decides shapes, and for checks of what is given.

    What `to_mlx` made is in memory and costs no waiting; any other array is waited for. So nothing that a model has
    computed is read with this.
    """
    rows = cast(list[list[float] | float], array.tolist())
    return [row if isinstance(row, list) else [row] for row in rows]


def largest_magnitude(array: mx.array) -> float:
    """Of the numbers of a float array that has some; NaN where one is NaN."""
    if device.on_cpu():
        # Without their sign floats are in the order of the whole numbers that their bits are, NaN above infinity.
        whole = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
        numbers = np.asarray(whole).ravel(order="K")  # which copies nothing where they lie together
        bits = numbers.view(f"u{numbers.itemsize}")
        blocks = (bits[start : start + NUMBERS_AT_ONCE] for start in range(0, bits.size, NUMBERS_AT_ONCE))
        magnitude = bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
        largest = np.array(max((block & magnitude).max() for block in blocks))
        if array.dtype == mx.bfloat16:
            return float((largest.astype(np.uint32) << 16).view(np.float32))
        return float(largest.view(numbers.dtype))
    ends: mx.array = mx.maximum(array.max(), -array.min()).astype(mx.float32)  # NaN comes through
    return float(ends.item())  # type: ignore[arg-type]


def to_numpy(results: Iterable[tuple[Key, mx.array]]) -> Iterator[tuple[Key, npt.NDArray[np.float32]]]:
    """Each float32 array as NumPy's, one behind: a GPU has the next to compute while the numbers are copied."""
    waiting: list[tuple[Key, mx.array]] = []
    for result in results:
        waiting.append(result)
        if len(waiting) == 2:
            yield _copied(waiting.pop(0))
    yield from map(_copied, waiting)


def _copied(result: tuple[Key, mx.array]) -> tuple[Key, npt.NDArray[np.float32]]:
    return result[0], np.array(result[1])
