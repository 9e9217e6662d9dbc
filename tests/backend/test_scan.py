"""Rows of bytes times queries, by NumPy and by the kernel of each instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_mm.backend import scan
from mlx_mm.backend.native.calls import Bytes, Floats


def draw(rows: int, width: int, queries: int, seed: int = 0) -> tuple[Bytes, Floats]:
    random = np.random.default_rng([seed, rows, width])
    return random.integers(-128, 128, (rows, width), dtype=np.int8), random.standard_normal(
        (queries, width), np.float32
    )


def check(codes: Bytes, queries: Floats) -> None:
    right = queries.astype(np.float64) @ codes.T.astype(np.float64)
    found = scan.products(codes, queries)
    lengths = np.linalg.norm(codes.astype(np.float64), axis=1)
    allowed = scan.deviations(queries)[:, None] * lengths
    assert found.dtype == np.float32
    assert (np.abs(found - right) <= allowed).all()
    assert (allowed <= 1.1e-3 * np.linalg.norm(queries, axis=1)[:, None] * lengths).all()


@pytest.mark.parametrize("kernels", [True, False])
def test_products(monkeypatch: pytest.MonkeyPatch, kernels: bool) -> None:
    if not kernels:
        monkeypatch.setattr(scan, "open_library", lambda: None)
    for rows, width, queries in ((1, 64, 1), (7, 128, 3), (5000, 64, 2), (900, 768, 1)):
        check(*draw(rows, width, queries))
    codes, queries = draw(50, 64, 2)
    check(codes, queries * 1e-6)
    check(codes, queries * 1e6)
    assert not scan.products(codes, np.zeros((1, 64), np.float32)).any()
    assert scan.products(codes[:0], queries).shape == (2, 0)
    spike = np.zeros((1, 64), np.float32)
    spike[0, :2] = 1, 1e-3
    check(codes, spike)


def test_queries_as_two_bytes() -> None:
    _, queries = draw(1, 64, 9)
    queries[3] = 0
    high, low, scale = scan.rounded(queries)
    assert np.abs(high).max() <= 127
    assert np.abs(low).max() <= 127
    assert np.abs((128.0 * high + low) * scale[:, None] - queries).max() < np.abs(queries).max() / scan.MOST
    assert np.abs(128.0 * high * scale[:, None] - queries).max() > 20 * np.abs(queries).max() / scan.MOST
