"""The best contents, exactly, whatever the bytes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from filling import make, unit

from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.codes import open_codes
from mlx_mm.search.nearest import nearest


def two_cones(count: int, dim: int, seed: int, queries: int) -> tuple[Vectors, Vectors]:
    """Pictures and texts as a model has them: each kind around a direction of its own, pictures in clusters."""
    random = np.random.default_rng(seed)
    middles = random.standard_normal((60, dim)) * 0.6
    pictures = (
        random.standard_normal(dim) * 1.5
        + middles[random.integers(0, 60, count)]
        + random.standard_normal((count, dim)) * 0.4
    )
    texts = (
        random.standard_normal(dim) * 1.5
        + middles[random.integers(0, 60, queries)] * 0.4
        + random.standard_normal((queries, dim)) * 0.3
    )
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (pictures, texts))


def test_recall_is_whole(tmp_path: Path) -> None:
    pictures, texts = two_cones(4000, 48, 0, 40)
    store = make(tmp_path, pictures)
    codes = open_codes(store, 1)
    exact = texts @ pictures.astype(np.float16).astype(np.float32).T
    scores = codes.scores(texts)
    by_bytes = 0
    for text, own, right in zip(texts, scores, exact, strict=True):
        best = np.sort(right)[::-1][:20]
        found = nearest(store, codes, text, 20)
        assert np.abs(found.scores - best).max() < 1e-6
        assert set(found.ids - 1) == set(np.argsort(-right, kind="stable")[:20])
        assert np.array_equal(nearest(store, codes, text, 20, scores=own[None]).ids, found.ids)
        by_bytes += len(set(np.argsort(-own)[:20]) & set(np.argsort(-right)[:20]))
    assert by_bytes < 20 * len(texts)  # bytes alone would not do


def test_of_vectors_that_are_nearly_alike(tmp_path: Path) -> None:
    """More of them than are read at first have the same bytes: the bound asks for all."""
    base = unit(1, 64)
    vectors = base + 2e-3 * unit(3000, 64, seed=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = make(tmp_path, vectors)
    codes = open_codes(store, 1)
    exact = vectors.astype(np.float16).astype(np.float32) @ base[0]
    found = nearest(store, codes, base[0], 10)
    assert np.abs(found.scores - np.sort(exact)[::-1][:10]).max() < 1e-7
    naive = np.argsort(-codes.scores(base)[0])[:74]
    assert not set(np.argsort(-exact)[:10]) <= set(naive)


def test_contents_with_many_parts(tmp_path: Path) -> None:
    vectors = unit(1200, 16)
    query = vectors[600]
    vectors[400:700] = query + 0.01 * vectors[400:700]  # three sounds fill all first places
    store = make(tmp_path, vectors, parts=100)
    codes = open_codes(store, 1)
    exact = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32) @ query
    best = exact.reshape(12, 100).max(axis=1)
    for count in (0, 1, 3, 5, 12, 50):
        found = nearest(store, codes, query, count)
        assert found.contents.tolist() == (np.argsort(-best)[:count] + 1).tolist()
        assert np.allclose(found.scores, np.sort(best)[::-1][:count], atol=1e-6)
        assert ((found.ids - 1) // 100 + 1).tolist() == found.contents.tolist()


def test_masks_weights_and_what_is_gone(tmp_path: Path) -> None:
    vectors = unit(500, 24)
    store = make(tmp_path, vectors)
    codes = open_codes(store, 1)
    queries, weights = unit(3, 24, seed=2) * 4, np.array([1.0, -2.0, 0.5], np.float32)
    exact = vectors.astype(np.float16).astype(np.float32) @ (weights @ queries)
    mask = np.arange(500) % 3 == 0
    found = nearest(store, codes, queries, 7, mask=mask, weights=weights, scores=codes.scores(queries))
    allowed = np.flatnonzero(mask)
    assert found.ids.tolist() == (allowed[np.argsort(-exact[allowed])[:7]] + 1).tolist()
    assert np.allclose(found.scores, np.sort(exact[allowed])[::-1][:7], atol=1e-5)
    assert not len(nearest(store, codes, queries, 7, mask=np.zeros(500, np.bool_), weights=weights).ids)
    assert len(nearest(store, codes, queries, 7, mask=np.arange(500) < 3, weights=weights).ids) == 3
    with store.writing() as rows:
        rows.execute("DELETE FROM vectors WHERE id = ?", (int(found.ids[0]),))
    after = nearest(store, codes, queries, 6, mask=mask, weights=weights)
    assert after.ids.tolist() == found.ids[1:].tolist()


def test_an_empty_space(tmp_path: Path) -> None:
    store = make(tmp_path, unit(0, 8))
    found = nearest(store, open_codes(store, 1), unit(1, 8)[0], 5)
    assert not len(found.ids)
