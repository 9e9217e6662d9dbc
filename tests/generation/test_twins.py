"""What other ranks keep for rank 0, and when they may forget it."""

from __future__ import annotations

from mlx_mm.generation.deltas import Deltas
from mlx_mm.generation.prompt_cache import Layers
from mlx_mm.generation.twins import Twin, forgotten


def test_a_twin_is_forgotten_once_nothing_has_it() -> None:
    forgotten()
    twin, other = Twin(), Twin()
    first, second = twin.number, other.number
    layers = Layers(twin=twin)
    del twin, other
    assert forgotten() == [second]
    copied = layers.twin
    del layers
    assert forgotten() == []
    assert copied is not None
    del copied
    assert forgotten() == [first]
    assert forgotten() == []


def test_rows_of_a_batch_keep_their_numbers() -> None:
    batch = Deltas.merge([Deltas([1]), Deltas([-2]), Deltas([3])])
    batch.extend(Deltas([4, 5]))
    batch.filter([1, 2, 4])
    assert batch.rows == [-2, 3, 5]
    assert batch.extract(1).rows == [3]
    assert batch.rows == [-2, 3, 5]
