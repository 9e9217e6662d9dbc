"""Prompts that ended, as they are kept for those that begin alike."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from mlx_mm.generation.prompt_cache import PromptCache
from mlx_mm.server.features import Features
from mlx_mm.server.prompt_caches import PromptCaches

BYTES = 2 * 4 * 256  # of a token


def filled(*keys: int) -> PromptCache:
    cache, layer = PromptCache(), KVCache()
    layer.keys = layer.values = mx.zeros((1, 1, len(keys), 256))
    layer.offset = len(keys)
    cache.keys, cache.layers = list(keys), [layer]
    return cache


def test_the_longest_beginning_is_moved_out() -> None:
    caches = PromptCaches(100 * BYTES)
    short, long = filled(1, 2, 3), filled(1, 2, 3, 4, 5)
    caches.put("a", short)
    caches.put("a", long)
    assert caches.nbytes == 8 * BYTES
    assert caches.take("b", [1, 2, 3, 4, 5]).keys == []
    assert caches.take("a", [1, 2, 3, 4, 5, 6]) is long
    assert caches.take("a", [1, 2, 3, 4, 5, 6]) is short
    assert (len(caches), caches.nbytes) == (0, 0)


def test_a_conversation_is_not_given_up_for_a_few_tokens() -> None:
    caches = PromptCaches(100 * BYTES)
    caches.put("a", filled(*range(20)))
    assert caches.take("a", [0, 1, 2, 99]).keys == []
    assert len(caches) == 1


@pytest.mark.parametrize("count", [1, 5])
def test_bytes_are_bounded_and_the_oldest_goes_first(count: int) -> None:
    caches = PromptCaches(10 * BYTES)
    for number in range(count + 4):
        caches.put("a", filled(*[100 + number] * 3))
        assert caches.nbytes <= 10 * BYTES
    assert [caches.take("a", [100 + number] * 3).keys[:1] for number in range(count + 4)] == [
        *[[]] * (count + 1),
        *[[100 + number] for number in range(count + 1, count + 4)],
    ]
    caches.put("a", filled(*range(11)))
    assert len(caches) == 0
    assert caches.evicted == count + 1


def test_their_number_is_bounded() -> None:
    caches = PromptCaches(1000 * BYTES)
    for number in range(100):
        caches.put("a", filled(number))
    assert (len(caches), caches.evicted) == (64, 36)
    assert caches.take("a", [35, 0]).keys == []
    assert caches.take("a", [36, 0]).keys == [36]


def test_those_of_a_model_that_is_unloaded_go() -> None:
    caches = PromptCaches(100 * BYTES)
    caches.put("a", filled(1))
    caches.put("b", filled(1))
    caches.drop("a")
    assert caches.take("a", [1]).keys == []
    assert caches.take("b", [1]).keys == [1]


def test_features_are_bounded_too_and_of_one_model() -> None:
    features = Features(10 * 4)
    first, second = features.of("a"), features.of("b")
    together = mx.arange(9, dtype=mx.float32)
    first.put(b"1", together[:4])
    first.put(b"2", together[4:8])
    second.put(b"1", together[8:])
    taken = first.get(b"1")  # and so the most recent
    first.put(b"3", mx.ones(3))
    assert features.nbytes == 8 * 4
    assert taken is not None
    assert taken.tolist() == [0, 1, 2, 3]
    assert first.get(b"2") is None
    assert second.get(b"1").tolist() == [8]  # type: ignore[union-attr]
    features.drop("a")
    assert (first.get(b"1"), first.get(b"3"), features.nbytes) == (None, None, 4)
    first.put(b"4", mx.ones(11))
    assert first.get(b"4") is None
