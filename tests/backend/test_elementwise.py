"""Activations that have one form on a CPU and another on a GPU."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_mm.backend import device
from mlx_mm.backend.elementwise import swiglu


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_swiglu_is_the_same_on_a_gpu(dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.RandomState(0)
    gate, up = (mx.array(draw.standard_normal((3, 50)).astype(np.float32) * 4).astype(dtype) for _ in range(2))
    here = swiglu(gate, up)
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    there = swiglu(gate, up)
    assert here.dtype == there.dtype == dtype
    wide = [np.array(x.astype(mx.float32), dtype=np.float64) for x in (gate, up, here, there)]
    right = wide[0] / (1 + np.exp(-wide[0])) * wide[1]
    scale = np.abs(right).max()
    for got in wide[2:]:
        assert np.abs(got - right).max() < (2e-6 if dtype == mx.float32 else 2e-2) * scale
    swapped = np.array(swiglu(up, gate).astype(mx.float32))
    assert np.abs(swapped - right).max() > 0.1  # the first is the gate
