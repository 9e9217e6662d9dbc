"""Rounding one weight: MLX's layout of codes, grids against a search by force, errors against GPTQ in float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from tiny import hashed

from mlx_mm.quantize.inputs import LEAST_SHARE, Inputs, inputs_of, shrunk_squares
from mlx_mm.quantize.rounding import pack, rounded
from mlx_mm.quantize.scheme import QuantConfig

AFFINE_BITS = (2, 3, 4, 5, 6, 8)


def weights(rows: int, width: int) -> np.ndarray:
    """Bell-shaped, as trained ones are."""
    return sum(hashed((rows, width), k) for k in range(4)).astype(np.float32)


def inputs(rows: int, width: int) -> np.ndarray:
    """Of which neighbours have much in common."""
    own = hashed((rows, width + 2), 9)
    return (own[:, :-2] + 0.8 * own[:, 1:-1] + 0.6 * own[:, 2:]).astype(np.float32) * np.linspace(
        0.5, 2, width, dtype=np.float32
    )


def expected_squares(x: np.ndarray) -> np.ndarray:
    squares, share = x.astype(np.float64).T @ x, max(LEAST_SHARE, x.shape[1] / (x.shape[1] + 2 * len(x)))
    return (1 - share) * squares + share * squares.diagonal().mean() * np.eye(x.shape[1])


def gptq(weight: np.ndarray, x: np.ndarray, scheme: QuantConfig, scales: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """The codes (out, in) of arXiv 2210.17323, algorithm 1, column by column in float64. scales, biases: (out,
    groups)."""
    work, width = weight.astype(np.float64), weight.shape[1]
    hessian = expected_squares(x)
    inverse = np.linalg.cholesky(np.linalg.inv(hessian)).T
    codes = np.zeros_like(work)
    for column in range(width):
        scale, bias = (grid[:, column // scheme.group_size].astype(np.float64) for grid in (scales, biases))
        codes[:, column] = np.clip(np.rint((work[:, column] - bias) / scale), 0, 2**scheme.bits - 1)
        error = (work[:, column] - codes[:, column] * scale - bias) / inverse[column, column]
        work[:, column:] -= error[:, None] * inverse[column, column:]
    return codes


def codes_of(packed: mx.array, scales: mx.array, scheme: QuantConfig) -> np.ndarray:
    """The codes in a packed weight, as MLX reads them."""
    return np.array(mx.dequantize(packed, mx.ones_like(scales), mx.zeros_like(scales), scheme.group_size, scheme.bits))


def values(parts: list[mx.array], scheme: QuantConfig) -> np.ndarray:
    return np.array(mx.dequantize(*parts, scheme.group_size, scheme.bits).astype(mx.float32))


def loss(weight: np.ndarray, parts: list[mx.array], scheme: QuantConfig, x: np.ndarray) -> float:
    """The share of a layer's outputs that is wrong."""
    return float((((values(parts, scheme) - weight) @ x.T) ** 2).sum() / ((weight @ x.T) ** 2).sum())


@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_codes_lie_as_mlx_packs_them(bits: int) -> None:
    codes = ((hashed((3, 96), bits) * 1e6).astype(np.int64) % 2**bits).astype(np.uint8)
    packed, ones = pack(codes, bits), mx.ones((3, 3))
    assert packed.shape == (3, 96 * bits // 32)
    assert np.array_equal(codes_of(mx.array(packed), ones, QuantConfig(bits, 32)), codes)
    assert not np.array_equal(codes_of(mx.array(packed[:, ::-1].copy()), ones, QuantConfig(bits, 32)), codes)


@pytest.mark.parametrize("bits", [3, 4])
def test_errors_are_compensated_as_by_gptq(bits: int) -> None:
    scheme, weight, x = QuantConfig(bits, 32), weights(24, 128), inputs(400, 128)
    packed, *grids = rounded(weight, scheme, mx.float32, inputs_of(x, 32))
    ours, grids = codes_of(packed, grids[0], scheme), [np.array(grid) for grid in grids]
    assert (ours != gptq(weight, x, scheme, *grids)).mean() < 0.002  # ties, which float32 breaks in another way
    assert (ours != gptq(weight, x[:, ::-1], scheme, *grids)).mean() > 0.1


def test_few_inputs_say_little_of_how_columns_depend() -> None:
    """A layer is fitted to 16 inputs and tried on others; taken for many they would do harm."""
    scheme, weight, x = QuantConfig(4, 32), weights(96, 128), inputs(1200, 128)
    seen, unseen = x[:16], x[16:]
    found = loss(weight, rounded(weight, scheme, mx.float32), scheme, unseen)
    fitted, rash = (
        loss(weight, rounded(weight, scheme, mx.float32, inputs_of(rows, 32)), scheme, unseen)
        for rows in (seen, np.tile(seen, (100, 1)))
    )
    assert fitted < 1.1 * found < 0.9 * rash
    assert np.allclose(shrunk_squares(seen), expected_squares(seen), rtol=1e-4, atol=1e-5)


def test_a_grid_errs_hardly_more_than_the_best_of_many() -> None:
    """Scale and bias of a group, searched by force among 100 × 100."""
    scheme, weight = QuantConfig(2, 32), weights(4, 32)
    parts = rounded(weight, scheme, mx.float32)
    for row, found in zip(weight, values(parts, scheme), strict=True):
        scales = np.linspace(0.1, 1, 100)[:, None, None] * np.ptp(row) / 3
        biases = row.min() + np.linspace(0, 0.5, 100)[:, None] * np.ptp(row)
        grid = np.clip(np.rint((row - biases) / scales), 0, 3) * scales + biases
        best = ((grid - row) ** 2).sum(axis=-1).min()
        assert ((found - row) ** 2).sum() < 1.1 * best
    plain = values(scheme.quantize(mx.array(weight)), scheme)
    assert ((plain - weight) ** 2).sum() > 1.5 * ((values(parts, scheme) - weight) ** 2).sum()


@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_each_step_loses_less_on_inputs_that_were_not_seen(bits: int) -> None:
    scheme, weight, x = QuantConfig(bits, 64), weights(48, 128), inputs(1200, 128)
    seen, unseen = inputs_of(x[:600], 64), x[600:]
    plain = loss(weight, scheme.quantize(mx.array(weight)), scheme, unseen)
    found = loss(weight, rounded(weight, scheme, mx.float32), scheme, unseen)
    weighed = loss(weight, rounded(weight, scheme, mx.float32, Inputs(seen.energy)), scheme, unseen)
    best = loss(weight, rounded(weight, scheme, mx.float32, seen), scheme, unseen)
    assert best < 0.6 * plain
    assert best < 0.8 * min(found, weighed)
    assert found < (1.02 if bits > 4 else 0.97) * plain


def test_what_a_file_of_16_bits_loses_is_compensated_too() -> None:
    """Codes are chosen for the scales that are stored: those of float32 with scales rounded afterwards err more."""
    scheme, weight, x = QuantConfig(8, 64), weights(48, 128), inputs(600, 128)
    seen = inputs_of(x, 64)
    stored = rounded(weight, scheme, mx.bfloat16, seen)
    assert {part.dtype for part in stored[1:]} == {mx.bfloat16}
    later = rounded(weight, scheme, mx.float32, seen)
    later[1:] = [part.astype(mx.bfloat16) for part in later[1:]]
    as_floats = [[parts[0], *(part.astype(mx.float32) for part in parts[1:])] for parts in (stored, later)]
    first, second = (loss(weight, parts, scheme, x) for parts in as_floats)
    assert first < 0.5 * second


def test_blocks_of_columns_know_nothing_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_mm.quantize.inputs.MOST_COLUMNS", 96)
    scheme, weight, x = QuantConfig(4, 32), weights(8, 192), inputs(500, 192)
    packed, scales, biases = rounded(weight, scheme, mx.float32, inputs_of(x, 32))
    halves = [
        gptq(
            weight[:, 96 * k :][:, :96],
            x[:, 96 * k :][:, :96],
            scheme,
            *(np.array(g)[:, 3 * k :] for g in (scales, biases)),
        )
        for k in range(2)
    ]
    # Each half is damped by its own mean.
    assert (codes_of(packed, scales, scheme) != np.concatenate(halves, axis=1)).mean() < 0.002


def test_weights_and_inputs_without_content() -> None:
    """All zeros, all the same, and inputs that never come: nothing is divided by zero."""
    scheme, x = QuantConfig(4, 32), np.zeros((5, 64), np.float32)
    for weight in (np.zeros((3, 64), np.float32), np.full((3, 64), 0.25, np.float32)):
        for parts in (rounded(weight, scheme, mx.float16), rounded(weight, scheme, mx.float16, inputs_of(x, 32))):
            assert np.array_equal(values(parts, scheme), weight)
    weight = weights(3, 64)
    parts = rounded(weight, scheme, mx.float32, inputs_of(x, 32))
    assert np.abs(values(parts, scheme) - weight).max() < 0.5
