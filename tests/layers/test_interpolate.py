"""Position-table resizing against `golden/posembed_resize.json`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import towers_numpy as reading
from tiny import golden, hashed

from mlx_mm.layers import interpolate
from mlx_mm.layers.interpolate import (
    ResizedTables,
    bicubic_matrix,
    bilinear_matrix,
    resize_table,
    stretch,
    stretch_taps,
)

FILE = golden("posembed_resize")
ROWS = [("bilinear", row) for row in FILE["bilinear_antialias"]] + [("bicubic", row) for row in FILE["bicubic"]]
RULES = {
    "bilinear": (bilinear_matrix, reading.bilinear),
    "bicubic": (bicubic_matrix, reading.bicubic),
}
MISTAKES = [("bilinear", "no_antialias"), ("bilinear", "align_corners"), ("bilinear", "swapped_axes")]
MISTAKES += [("bicubic", "bicubic_a_half"), ("bicubic", "align_corners"), ("bicubic", "zero_border")]


def name_of(row: dict[str, Any]) -> str:
    return f"{row['grid']}-to-{row['target_hw'][0]}x{row['target_hw'][1]}"


def table_of(row: dict[str, Any]) -> np.ndarray:
    return hashed((row["grid"], row["grid"], row["dim"]), row["k"]).astype(np.float32)


def flat(table: np.ndarray) -> mx.array:
    """(s, s, D) -> (s·s, D) as the checkpoints store it."""
    return mx.array(table.reshape(-1, table.shape[-1]))


def worst(got: np.ndarray, row: dict[str, Any]) -> float:
    """Largest difference to any number of the row; the two sums count per element."""
    got = np.asarray(got, dtype=np.float64)
    errors = [np.abs(got[0] - row["row0"]).max(), np.abs(got[-1] - row["row_last"]).max()]
    errors.append(abs(got.sum() - row["sum"]) / np.sqrt(got.size))
    errors.append(abs(np.abs(got).sum() - row["abs_sum"]) / np.sqrt(got.size))
    if "all" in row:
        errors.append(np.abs(got - row["all"]).max())
    return float(max(errors))


@pytest.mark.parametrize(("rule", "row"), ROWS, ids=[f"{rule}-{name_of(row)}" for rule, row in ROWS])
def test_resized_table(rule: str, row: dict[str, Any]) -> None:
    got = np.array(resize_table(flat(table_of(row)), tuple(row["target_hw"]), RULES[rule][0]))
    assert got.shape == (row["target_hw"][0] * row["target_hw"][1], row["dim"])
    assert worst(got, row) < 3e-6


@pytest.mark.parametrize(("rule", "mistake"), MISTAKES)
def test_known_mistake_misses_the_numbers(rule: str, mistake: str) -> None:
    errors = []
    for kind, row in ROWS:
        if kind == rule:
            table = table_of(row).astype(np.float64)
            errors.append(worst(reading.resize(table, *row["target_hw"], RULES[rule][1], frozenset([mistake])), row))
    assert max(errors) > 1e-2


def test_one_column_is_right_where_torch_is_not() -> None:
    row = FILE["torch_cpu_width1_defect"]
    got = np.array(resize_table(flat(table_of(row)), tuple(row["target_hw"]), bilinear_matrix))
    assert np.abs(got - row["correct"]).max() < 1e-6
    assert np.abs(got - row["torch_cpu"]).max() > 0.1


@pytest.mark.parametrize("rule", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("n_in", "n_out"), [(1, 1), (1, 9), (16, 16), (16, 1), (16, 256), (27, 34), (37, 5), (7, 8), (3, 2)]
)
def test_matrix_equals_the_plain_rule(rule: str, n_in: int, n_out: int) -> None:
    function, plain = RULES[rule]
    matrix = np.array(function(n_in, n_out), dtype=np.float64)
    assert matrix.shape == (n_out, n_in)
    assert np.abs(matrix.sum(1) - 1).max() < 1e-6
    assert np.abs(matrix - plain(n_in, n_out)).max() < 1e-6


@pytest.mark.parametrize("rule", ["bilinear", "bicubic"])
def test_same_size_is_the_identity(rule: str) -> None:
    table = mx.array(hashed((25, 3), 1).astype(np.float32))
    assert mx.array_equal(resize_table(table, (5, 5), RULES[rule][0]), table).item()


def test_result_keeps_the_dtype_of_the_table() -> None:
    table = mx.array(hashed((16, 8), 3).astype(np.float32))
    full = np.array(resize_table(table, (3, 6), bilinear_matrix))
    half = resize_table(table.astype(mx.bfloat16), (3, 6), bilinear_matrix)
    assert half.dtype == mx.bfloat16
    assert np.abs(np.array(half.astype(mx.float32)) - full).max() < 8e-3


# --- what is kept -----------------------------------------------------------------------------------------------


def test_matrices_are_made_once() -> None:
    for rule, _ in RULES.values():
        assert rule(5, 9) is rule(5, 9)
        assert mx.array_equal(rule(5, 9), rule.__wrapped__(5, 9)).item()


def test_stretching_takes_the_same_samples_each_time() -> None:
    x = mx.array(hashed((2, 7, 3), 4).astype(np.float32))
    first = np.array(stretch(x, 16))
    assert stretch_taps(7, 16) is stretch_taps(7, 16)
    assert np.array_equal(np.array(stretch(x, 16)), first)
    assert np.abs(first[:, [0, -1]] - np.array(x)[:, [0, -1]]).max() == 0
    assert np.array(stretch(x, 1)).shape == (2, 1, 3)


def table(side: int = 5, dims: int = 4, seed: int = 1, before: int = 0) -> mx.array:
    return mx.array(hashed((before + side * side, dims), seed).astype(np.float32))


def test_a_kept_table_has_the_same_bits() -> None:
    weight, kept = table(before=1), ResizedTables()
    for size in ((3, 7), (5, 5), (3, 7), (9, 2)):
        got = kept.resize(weight, size, bilinear_matrix, first=1)
        assert mx.array_equal(got, resize_table(weight[1:], size, bilinear_matrix)).item()
        assert kept.resize(weight, size, bilinear_matrix, first=1) is got
        assert kept.resize(weight, size, bilinear_matrix, first=1, keep=False) is not got


def test_another_weight_has_tables_of_its_own() -> None:
    kept, one, other = ResizedTables(), table(), table(seed=2)
    first = kept.resize(one, (3, 7), bicubic_matrix)
    second = kept.resize(other, (3, 7), bicubic_matrix)
    assert mx.array_equal(second, resize_table(other, (3, 7), bicubic_matrix)).item()
    assert not mx.array_equal(first, second).item()
    again = kept.resize(one, (3, 7), bicubic_matrix)
    assert again is not first
    assert mx.array_equal(again, first).item()
    equal = mx.array(np.array(one))
    assert kept.resize(equal, (3, 7), bicubic_matrix) is not again


def test_only_so_many_bytes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, kept = table(), ResizedTables()
    monkeypatch.setattr(interpolate, "MAX_KEPT_BYTES", 3 * 4 * 4 * 4)  # three grids of four cells, four numbers wide
    first = kept.resize(weight, (2, 2), bilinear_matrix)
    kept.resize(weight, (4, 1), bilinear_matrix)
    kept.resize(weight, (1, 4), bilinear_matrix)
    assert kept.resize(weight, (2, 2), bilinear_matrix) is first
    kept.resize(weight, (1, 3), bilinear_matrix)
    assert kept.resize(weight, (2, 2), bilinear_matrix) is not first


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_starts_with_none(copied: Callable[[ResizedTables], ResizedTables]) -> None:
    weight, kept = table(), ResizedTables()
    first = kept.resize(weight, (3, 3), bilinear_matrix)
    assert kept.resize(weight, (3, 3), bilinear_matrix) is first
    assert copied(kept).resize(weight, (3, 3), bilinear_matrix) is not first


def test_gradients_flow_through_what_is_resized() -> None:
    kept = ResizedTables()
    for keep in (True, False):
        slope = mx.grad(lambda weight, keep=keep: kept.resize(weight, (3, 7), bilinear_matrix, keep=keep).sum())(
            table()
        )
        right = mx.grad(lambda weight: resize_table(weight, (3, 7), bilinear_matrix).sum())(table())
        assert mx.array_equal(slope, right).item()
