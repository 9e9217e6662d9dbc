"""Prepared items in groups: so many at a time, and of like size, so that little is padded."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from mlx_mm.processing.batch import Batch

Item = TypeVar("Item")
Key = TypeVar("Key")

# Padding included: 32 texts of 512, or 2 of 8192; more only takes more memory.
MAX_TOKENS_PER_BATCH = 16_384


def grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in order, `size` at a time; the last group may be smaller."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def windows(items: Iterable[tuple[int, Batch]], size: int, batch_size: int) -> Iterator[list[tuple[int, Batch]]]:
    """The same, or `batch_size` pictures at a time that are all of one size: these need not wait for others like them,
    and run while the next are decoded."""
    window: list[tuple[int, Batch]] = []
    for item in items:
        window.append(item)
        alike = len(window) == batch_size and len({numbers(batch) for _, batch in window}) == 1
        if len(window) == size or (alike and "input_ids" not in item[1]):
            yield window
            window = []
    if window:
        yield window


def by_size(items: Sequence[tuple[int, Batch]], batch_size: int) -> Iterator[list[tuple[int, Batch]]]:
    """The items (index, batch of one) from small to large, at most `batch_size` at a time.

    Of texts only as many as MAX_TOKENS_PER_BATCH allows, but one always.
    """
    chunk: list[tuple[int, Batch]] = []
    longest = 0
    for index, batch in sorted(items, key=lambda item: numbers(item[1])):
        tokens = batch["input_ids"].shape[1] if "input_ids" in batch else 0
        longest = max(longest, tokens)
        if chunk and (len(chunk) == batch_size or (len(chunk) + 1) * longest > MAX_TOKENS_PER_BATCH):
            yield chunk
            chunk, longest = [], tokens
        chunk.append((index, batch))
    if chunk:
        yield chunk


def alike(items: Sequence[tuple[Key, Batch]], batch_size: int) -> Iterator[list[tuple[Key, Batch]]]:
    """The items (key, batch of one) in chunks of one shape, at most `batch_size` in each: nothing is padded."""
    shapes: dict[object, list[tuple[Key, Batch]]] = {}
    for item in items:
        shapes.setdefault(tuple((name, array.shape) for name, array in item[1].items()), []).append(item)
    for same in shapes.values():
        yield from grouped(same, batch_size)


def numbers(batch: Batch) -> int:
    """How many there are in all arrays."""
    return sum(array.size for array in batch.values())
