"""Rotary positions against the formulas written out in NumPy float64, and against MLX's own."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from tiny import hashed

from mlx_mm.backend import device
from mlx_mm.layers.attention import Rotation
from mlx_mm.layers.rope import (
    grid_angles,
    inverse_frequencies,
    line_angles,
    rotate_halves,
    rotate_neighbours,
)

BASES = [10000.0, 20000.0, 500000.0]
WIDTHS = [4, 16, 24, 64, 80]
PAIRINGS = {"halves": rotate_halves, "neighbours": rotate_neighbours}


def states(*shape: int) -> np.ndarray:
    return hashed(shape, 40).astype(np.float32)


def angles_of(positions: np.ndarray, dims: int, base: float) -> np.ndarray:
    """position · base^(-2j/dims), float64 (L, dims/2)."""
    return positions[:, None] * np.array([base ** (-2 * j / dims) for j in range(dims // 2)])


def turned(x: np.ndarray, angles: np.ndarray, pairing: str) -> np.ndarray:
    """Pair by pair: the complex number of two numbers times e^(i·angle)."""
    out, dims = np.empty(x.shape), x.shape[-1]
    for j in range(dims // 2):
        a, b = (j, j + dims // 2) if pairing == "halves" else (2 * j, 2 * j + 1)
        z = (x[..., a].astype(np.float64) + 1j * x[..., b]) * np.exp(1j * angles[:, j])
        out[..., a], out[..., b] = z.real, z.imag
    return out


def worst(got: mx.array, right: np.ndarray) -> float:
    return float(np.abs(np.array(got.astype(mx.float32), dtype=np.float64) - right).max())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dims", WIDTHS)
def test_inverse_frequencies_round_twice(dims: int, base: float) -> None:
    """Power, then reciprocal, each to float32, to the last bit."""
    powers = np.array([base ** (2 * j / dims) for j in range(dims // 2)]).astype(np.float32)
    got = inverse_frequencies(dims, base)
    assert got.dtype == mx.float32
    assert np.array_equal(np.array(got), np.float32(1) / powers)
    exact = np.array([base ** (-2 * j / dims) for j in range(dims // 2)])
    assert np.abs(np.array(got) / exact - 1).max() < 1.3e-7


def test_frequencies_of_the_text_tower() -> None:
    got = np.array(inverse_frequencies(64, 20000.0))
    assert np.abs(got[:4] - [1, 0.73382552, 0.5384999, 0.39516497]).max() < 1e-7
    assert abs(got[-1] - 6.813608745984274e-05) < 1e-11


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dims", WIDTHS)
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_turning_is_the_formula(pairing: str, dims: int, base: float) -> None:
    x, positions = states(2, 3, 20, dims), np.arange(20.0)
    angles = mx.arange(20)[:, None] * inverse_frequencies(dims, base)
    got = PAIRINGS[pairing](angles)(mx.array(x))
    assert got.shape == x.shape
    assert worst(got, turned(x, angles_of(positions, dims, base), pairing)) < 3e-6
    other = next(name for name in PAIRINGS if name != pairing)
    assert worst(got, turned(x, angles_of(positions, dims, base), other)) > 0.1


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_far_positions(pairing: str) -> None:
    """Up to 8,192: float32 angles are off by some 5e-4 there, no more, and angles in bfloat16 by far more."""
    positions = np.array([0, 1, 255, 256, 257, 4095, 8000, 8191, 8192], np.float64)
    x = states(1, 2, len(positions), 64)
    frequencies = inverse_frequencies(64, 20000.0)
    right = turned(x, angles_of(positions, 64, 20000.0), pairing)
    angles = mx.array(positions.astype(np.float32))[:, None] * frequencies
    assert worst(PAIRINGS[pairing](angles)(mx.array(x)), right) < 1e-3
    # Given the rounded frequencies and products, what is left are cosines and sines.
    own = turned(x, np.array(angles, dtype=np.float64), pairing)
    assert worst(PAIRINGS[pairing](angles)(mx.array(x)), own) < 1e-6
    coarse = angles.astype(mx.bfloat16).astype(mx.float32)
    assert worst(PAIRINGS[pairing](coarse)(mx.array(x)), right) > 0.5


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("length", [2048, 8192])
def test_far_places_have_the_bits_of_mlx(length: int) -> None:
    """Given the powers whose reciprocals the frequencies are. From its base alone MLX is off by more than 1e-4."""
    powers = mx.array([20000.0 ** (2 * j / 64) for j in range(32)], mx.float32)
    x = mx.array(states(1, 2, length, 64))
    got = rotate_halves(line_angles(length, 64, 20000.0))(x)
    options = {"traditional": False, "scale": 1.0, "offset": 0}
    assert worst(got, np.array(mx.fast.rope(x, 64, base=None, freqs=powers, **options))) == 0
    assert worst(got, np.array(mx.fast.rope(x, 64, base=20000.0, **options))) > 1e-4


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("rotate", PAIRINGS.values(), ids=PAIRINGS)
def test_a_gpu_turns_in_one_go(
    rotate: Callable[..., Rotation], dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of any length and number, and grids of their own rows."""
    for shape, rows in (((2, 3, 7, 16), 7), ((1, 5, 9, 16), 9), ((4, 3, 9, 16), 9)):
        x = mx.array(states(*shape)).astype(dtype)
        turn = rotate(line_angles(rows, 16, 20000.0))
        monkeypatch.setattr(device, "on_cpu", lambda: True)
        right = turn(x).astype(mx.float32)
        monkeypatch.setattr(device, "on_cpu", lambda: False)
        got = turn(x)
        assert (got.shape, got.dtype) == (x.shape, dtype)
        assert worst(got, np.array(right)) <= (1e-6 if dtype == mx.float32 else 2e-2)


@pytest.mark.parametrize(("pairing", "traditional"), [("halves", False), ("neighbours", True)])
@pytest.mark.parametrize("length", [1, 7, 512])
def test_equals_the_kernel_of_mlx(pairing: str, traditional: bool, length: int) -> None:
    x = mx.array(states(2, 4, length, 32))
    angles = mx.arange(length)[:, None] * inverse_frequencies(32, 20000.0)
    right = mx.fast.rope(x, 32, traditional=traditional, base=20000.0, scale=1.0, offset=0)
    assert worst(PAIRINGS[pairing](angles)(x), np.array(right)) < 1e-4


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("rotate", PAIRINGS.values(), ids=PAIRINGS)
def test_dtype_is_kept(rotate: Callable[[mx.array], Rotation], dtype: mx.Dtype) -> None:
    """Neighbouring far positions stay apart, although bfloat16 has no 301."""
    x = mx.broadcast_to(mx.array(states(1, 2, 1, 16)), (1, 2, 3, 16)).astype(dtype)
    angles = mx.array([[300.0], [301.0], [302.0]]) * inverse_frequencies(16, 20000.0)
    got = rotate(angles)(x)
    assert got.dtype == dtype
    right = np.array(rotate(angles)(x.astype(mx.float32)))
    assert worst(got, right) < (2e-3 if dtype == mx.float16 else 2e-2)
    assert np.abs(np.diff(np.array(got.astype(mx.float32)), axis=2)).max() > 0.1


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("rotate", PAIRINGS.values(), ids=PAIRINGS)
def test_rounding_the_cosines_once_changes_nothing(rotate: Callable[..., Rotation], dtype: mx.Dtype) -> None:
    x = mx.array(states(2, 3, 9, 16)).astype(dtype)
    angles = mx.arange(9)[:, None] * inverse_frequencies(16, 20000.0)
    assert mx.array_equal(rotate(angles, dtype)(x), rotate(angles)(x)).item()


@pytest.mark.parametrize("rotate", PAIRINGS.values(), ids=PAIRINGS)
def test_angles_of_each_row(rotate: Callable[..., Rotation]) -> None:
    """(B, 1, L, d/2): every text of a batch has places of its own."""
    x = mx.array(states(2, 3, 5, 16))
    angles = (mx.array([[0], [7]]) + mx.arange(5))[:, None, :, None] * inverse_frequencies(16, 20000.0)
    whole = rotate(angles)(x)
    for i in range(2):
        assert worst(whole[i : i + 1], np.array(rotate(angles[i, 0])(x[i : i + 1]))) == 0
    assert worst(whole[1:], np.array(rotate(angles[0, 0])(x[1:]))) > 0.1


@pytest.mark.parametrize("rotate", PAIRINGS.values(), ids=PAIRINGS)
def test_part_of_a_head(rotate: Callable[..., Rotation]) -> None:
    x = mx.array(states(2, 3, 5, 24))
    turn = rotate(mx.arange(5)[:, None] * inverse_frequencies(16, 20000.0))
    got = turn(x)
    assert worst(got[..., :16], np.array(turn(x[..., :16]))) == 0
    assert worst(got[..., 16:], np.array(x[..., 16:])) == 0


@pytest.mark.parametrize("rotate", PAIRINGS.values(), ids=PAIRINGS)
def test_products_depend_on_the_distance_alone(rotate: Callable[[mx.array], Rotation]) -> None:
    q, k = mx.array(states(1, 1, 5, 16)), mx.array(hashed((1, 1, 5, 16), 41).astype(np.float32))
    lengths = mx.linalg.norm(q, axis=-1)
    products = []
    for start in (0, 1, 90):
        turn = rotate((mx.arange(5) + start)[:, None] * inverse_frequencies(16, 10000.0))
        products.append(np.array(turn(q) @ turn(k).swapaxes(-1, -2)))
        assert worst(mx.linalg.norm(turn(q), axis=-1), np.array(lengths)) < 1e-6
    for other in products[1:]:
        assert np.abs(other - products[0]).max() < 2e-5
    assert worst(q @ k.swapaxes(-1, -2), products[0]) > 0.1


@pytest.mark.parametrize("scale", [1.0, 16 / 3, 16 / 36])
@pytest.mark.parametrize(("rows", "cols"), [(3, 3), (2, 5), (5, 2), (1, 1)])
def test_angles_of_a_grid(rows: int, cols: int, scale: float) -> None:
    got = grid_angles(rows, cols, 16, scale=scale)
    assert got.dtype == mx.float32
    frequencies = [10000.0 ** (-2 * j / 8) for j in range(4)]
    right = [
        [row * scale * f for f in frequencies] + [col * scale * f for f in frequencies]
        for row in range(rows)
        for col in range(cols)
    ]
    assert got.shape == (rows * cols, 8)
    assert worst(got, np.array(right)) < 1e-5


@pytest.mark.parametrize("length", [1, 2, 3, 64, 65, 700, 2048, 8192])
def test_angles_of_a_line(length: int) -> None:
    """To the last bit those of these places alone, although lines of like length share a table."""
    got = line_angles(length, 64, 20000.0)
    right = mx.arange(length, dtype=mx.float32)[:, None] * inverse_frequencies(64, 20000.0)
    assert got.dtype == mx.float32
    assert mx.array_equal(got, right).item()


def test_tables_are_made_once() -> None:
    assert inverse_frequencies(64, 20000.0) is inverse_frequencies(64, 20000.0)
    assert grid_angles(3, 5, 16, scale=0.5) is grid_angles(3, 5, 16, scale=0.5)
    assert not mx.array_equal(grid_angles(3, 5, 16, scale=0.5), grid_angles(3, 5, 16)).item()


def test_base_of_a_grid() -> None:
    got = np.array(grid_angles(2, 2, 8, base=100.0))
    assert np.abs(got - [[0, 0, 0, 0], [0, 0, 1, 0.1], [1, 0.1, 0, 0], [1, 0.1, 1, 0.1]]).max() < 1e-7


def test_grid_of_the_published_tower() -> None:
    """Numbers of the fact sheet: 36×36 patches at the distances of 16×16, the patch of row 3 and column 7."""
    angles = np.array(grid_angles(36, 36, 64, scale=16 / 36))
    assert angles.shape == (1296, 32)
    assert abs(angles[36, 0] - 0.44444) < 1e-5
    assert abs(angles[35 * 36, 0] - 15.55556) < 1e-5
    assert np.abs(angles[1, 16:20] / angles[1, 16] - [1, 0.56234133, 0.31622777, 0.17782794]).max() < 1e-6
    assert angles[1, :16].max() == 0
    patch = angles[3 * 36 + 7]
    # The sheet counts the numbers of a head, two of which share an angle.
    cosines, sines = np.cos(patch[[0, 1, 16, 17]]), np.sin(patch[[0, 16]])
    assert np.abs(cosines - [0.2352376, 0.7318331, -0.9995355, -0.1777603]).max() < 1e-6
    assert np.abs(sines - [0.9719379, 0.0304768]).max() < 1e-6
