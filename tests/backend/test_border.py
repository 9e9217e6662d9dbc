"""Arrays over the border between NumPy and MLX, in both directions."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_mm
from mlx_mm.backend.border import to_mlx, to_numpy


def test_it_is_a_public_name() -> None:
    assert mlx_mm.to_mlx is to_mlx


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.int64, mx.int32),
        (np.int32, mx.int32),
        (np.float64, mx.float32),
        (np.float32, mx.float32),
        (np.bool_, mx.bool_),
    ],
)
def test_dtypes(given: Any, expected: mx.Dtype) -> None:
    batch = to_mlx({"input_ids": np.array([[1, 0, 1]], dtype=given)})
    assert list(batch) == ["input_ids"]
    assert batch["input_ids"].dtype == expected
    assert batch["input_ids"].tolist() == [[1, 0, 1]]


def test_numbers_are_copied() -> None:
    values = np.ones((2, 2), np.float32)
    array = to_mlx({"x": values})["x"]
    values[:] = 7
    assert array.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_results_come_in_order_one_behind(count: int) -> None:
    submitted: list[int] = []

    def run() -> Any:
        for number in range(count):
            submitted.append(number)
            yield number, mx.full((2,), number)

    for number, vector in to_numpy(run()):
        assert isinstance(vector, np.ndarray)
        assert vector.tolist() == [number] * 2
        assert submitted[-1] == min(number + 1, count - 1)
    assert len(submitted) == count
