"""Keys and values written in place: the numbers of mlx_lm's cache, and nobody else's memory."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import BatchKVCache, KVCache, RotatingKVCache

from mlx_mm.generation.appending import STEP, append


def tokens(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    keys, values = np.random.default_rng(seed).standard_normal((2, 1, 2, count, 8)).astype(np.float32)
    return keys, values


def grow(cache: Any, counts: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What the last of several calls gives."""
    for number, count in enumerate(counts):
        result = append(cache, *tokens(count, seed + number))  # type: ignore[arg-type]
        assert all(isinstance(part, np.ndarray) for part in result)
    return tuple(np.array(part) for part in result)


def usual(counts: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    cache = KVCache()
    for number, count in enumerate(counts):
        result = cache.update_and_fetch(*map(mx.array, tokens(count, seed + number)))
    return tuple(np.array(part) for part in result)


@pytest.mark.parametrize("counts", [[1], [5, 1, 1], [STEP - 1, 1, 1], [STEP, 3], [3, 2 * STEP + 1, 1]])
@pytest.mark.parametrize("kind", [KVCache, lambda: RotatingKVCache(4 * STEP), lambda: BatchKVCache([0])])
def test_the_numbers_of_the_usual_way(counts: list[int], kind: Any) -> None:
    found, right = grow(kind(), counts), usual(counts)
    assert all(np.array_equal(*pair) for pair in zip(found, right, strict=True))
    assert not np.array_equal(found[0], usual(counts, seed=7)[0])


def test_a_copy_has_memory_of_its_own() -> None:
    first = KVCache()
    grow(first, [5])
    second = copy.deepcopy(first)
    one, two = grow(first, [2], seed=10), grow(second, [2], seed=20)
    assert np.array_equal(one[0], np.concatenate([tokens(5, 0)[0], tokens(2, 10)[0]], axis=2))
    assert np.array_equal(two[0], np.concatenate([tokens(5, 0)[0], tokens(2, 20)[0]], axis=2))
    assert np.array_equal(np.array(first.keys[..., :7, :]), one[0])


def test_what_was_cut_off_is_not_written_over() -> None:
    """Someone may still hold it, as a snapshot that shares the memory does."""
    cache = KVCache()
    grow(cache, [6])
    snapshot = copy.deepcopy(cache)
    cache.trim(4)
    found = grow(cache, [3], seed=30)
    assert np.array_equal(found[0], np.concatenate([tokens(6, 0)[0][:, :, :2], tokens(3, 30)[0]], axis=2))
    assert np.array_equal(np.array(snapshot.keys[..., :6, :]), tokens(6, 0)[0])
    assert cache.offset == 5


def test_a_cache_from_elsewhere() -> None:
    cache = KVCache()
    cache.update_and_fetch(*map(mx.array, tokens(4, 0)))
    before = mx.array(cache.keys)
    found = grow(cache, [1], seed=1)
    assert np.array_equal(found[0], usual([4, 1])[0])
    cache.keys, cache.values = map(mx.array, tokens(3, 5))
    cache.offset = 3
    assert np.array_equal(grow(cache, [1], seed=6)[0], usual([3, 1], seed=5)[0])
    assert np.array_equal(np.array(before[..., :4, :]), tokens(4, 0)[0])
    keys, _ = append(cache, *map(mx.array, tokens(1, 9)))  # and back to the usual way
    assert isinstance(keys, mx.array)
    assert keys.shape[2] == cache.offset == 5
