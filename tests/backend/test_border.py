"""What crosses the border between NumPy and MLX, and how."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_mm.backend.border import to_mlx


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.int64, mx.int32),
        (np.float64, mx.float32),
        (np.int32, mx.int32),
        (np.float32, mx.float32),
        (np.float16, mx.float16),
        (np.uint8, mx.uint8),
        (np.bool_, mx.bool_),
    ],
)
def test_wide_numbers_become_narrow(before: type, after: mx.Dtype) -> None:
    batch = {"x": np.array([[0, 1], [1, 0]], before)}
    result = to_mlx(batch)
    assert (result["x"].dtype, result["x"].tolist()) == (after, batch["x"].tolist())
    assert batch["x"].dtype == before
