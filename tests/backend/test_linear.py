"""Products with weights that stay quantised: the same numbers whichever way they are computed."""

from __future__ import annotations

import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from comparing import close

from mlx_mm.backend import device
from mlx_mm.backend import linear as room
from mlx_mm.backend.linear import MIN_ROWS_FOR_FLOATS, linear

pytestmark = pytest.mark.usefixtures("without_kernels")  # tests/backend/native has theirs


def layer(*, bias: bool, mode: str = "affine", rows: int = 256, width: int = 512) -> nn.QuantizedLinear:
    mx.random.seed(0)
    group = {"affine": 64, "mxfp4": 32}[mode]
    return nn.QuantizedLinear.from_linear(nn.Linear(width, rows, bias=bias), group, 4, mode=mode)


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, MIN_ROWS_FOR_FLOATS - 1, MIN_ROWS_FOR_FLOATS, 40])
def test_all_ways_agree(rows: int, bias: bool, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quantised = layer(bias=bias, mode=mode)
    x = mx.random.normal((1, rows, 512))
    right = quantised(x)
    for piece in (1, 1 << 40):  # as many pieces as processors, and one
        monkeypatch.setattr(room, "MIN_WORDS_PER_PIECE", piece)
        assert close(linear(quantised, x), right, 1e-5)
    assert not close(right, nn.Linear(512, 256)(x), 0.1)


def test_pieces_are_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    quantised, x = layer(bias=True, rows=250), mx.random.normal((2, 1, 512))
    whole = np.array(quantised(x))
    for streams in (0, 1, 2, 6):
        own = [mx.new_stream(mx.cpu) for _ in range(streams)]
        monkeypatch.setattr(room, "streams_of_others", lambda own=own: own)
        monkeypatch.setattr(room, "MIN_WORDS_PER_PIECE", 1)
        assert np.array_equal(np.array(linear(quantised, x)), whole)


def test_small_layers_are_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    usual = mx.quantized_matmul
    monkeypatch.setattr(mx, "quantized_matmul", lambda *a, **k: calls.append(a[1].shape[0]) or usual(*a, **k))
    monkeypatch.setattr(room, "streams_of_others", lambda: [mx.new_stream(mx.cpu) for _ in range(3)])
    linear(layer(bias=False), mx.ones((1, 512)))
    assert calls == [256]
    calls.clear()
    linear(layer(bias=False, rows=2048, width=1024), mx.ones((1, 1024)))
    assert calls == [512] * 4


def test_from_other_threads() -> None:
    quantised, x = layer(bias=False, rows=4096, width=1024), mx.random.normal((1, 1024))
    right = np.array(quantised(x))
    found = []

    def run() -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            found.append(np.array(linear(quantised, x)))
        mx.clear_streams()

    for _ in range(3):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(result, right) for result in found)
    assert np.array_equal(np.array(linear(quantised, x)), right)


def test_floats_and_gpus_are_left_to_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, x = nn.Linear(64, 64), mx.ones((1, 64))
    assert np.array_equal(np.array(linear(plain, x)), np.array(plain(x)))
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    monkeypatch.setattr(mx, "dequantize", lambda *_a, **_k: pytest.fail("dequantised"))
    linear(layer(bias=False), mx.ones((40, 512)))
