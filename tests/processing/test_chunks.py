"""Prepared items in groups."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_mm.processing.chunks import MAX_TOKENS_PER_BATCH, by_size, grouped, windows


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (3, [3]), (7, [3, 3, 1])])
def test_groups(count: int, sizes: list[int]) -> None:
    groups = list(grouped(iter(range(count)), 3))
    assert [len(group) for group in groups] == sizes
    assert [item for group in groups for item in group] == list(range(count))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([7] * 7, [3, 3, 1]),  # all alike: each batch as soon as it is full
        ([7, 7, 8, 7, 7, 7, 7, 7, 7, 9], [6, 3, 1]),  # the first are not, and are sorted with what comes
        ([1, 2, 3, 4, 5, 6, 7], [6, 1]),
        ([5, 5], [2]),
        ([], []),
    ],
)
def test_those_of_one_size_need_not_wait(sizes: list[int], expected: list[int]) -> None:
    items = [(i, {"pixel_values": np.zeros((1, size))}) for i, size in enumerate(sizes)]
    groups = list(windows(iter(items), 6, 3))
    assert [len(group) for group in groups] == expected
    assert [i for group in groups for i, _ in group] == list(range(len(sizes)))


def test_from_small_to_large_and_otherwise_in_order() -> None:
    items = [(i, {"pixel_values": np.zeros((1, size))}) for i, size in enumerate((5, 2, 9, 2, 5))]
    assert [[i for i, _ in chunk] for chunk in by_size(items, 2)] == [[1, 3], [0, 4], [2]]


@pytest.mark.parametrize(("length", "rows"), [(512, 32), (513, 31), (8192, 2), (MAX_TOKENS_PER_BATCH, 1), (20_000, 1)])
def test_texts_have_a_budget_of_tokens(length: int, rows: int) -> None:
    items = [(i, {"input_ids": np.zeros((1, length), np.int32)}) for i in range(40)]
    assert {len(chunk) for chunk in by_size(items, 32)} <= {rows, 40 % rows or rows}
    pixels = [(i, {"pixel_values": item["input_ids"]}) for i, item in items]
    assert [len(chunk) for chunk in by_size(pixels, 32)] == [32, 8]
