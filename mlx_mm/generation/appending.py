"""Adding the keys and values of new tokens to a cache.

mlx_lm's caches are arrays of MLX that are written by making new ones. On a CPU a layer's keys and values are numbers,
and are written in place, into memory that nobody else can see: an array that this file made, behind all that was ever
written to it. A cache that was copied, cut or filled from elsewhere gets memory of its own first.
"""

from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

import mlx.core as mx

from mlx_mm.backend.native.views import Numbers, is_view, view
from mlx_mm.generation.request import LayerCache

STEP = 256  # tokens for which there is room at a time, as in mlx_lm


class _Owned(NamedTuple):
    """What we made for a cache, its numbers, and for how many tokens they were ever written."""

    keys: mx.array
    values: mx.array
    numbers: tuple[Numbers, Numbers]
    written: int


class PlainCache(LayerCache):
    """The fields of mlx_lm's KVCache."""

    keys: mx.array | None
    values: mx.array | None
    offset: int


_OWNED: WeakKeyDictionary[LayerCache, _Owned] = WeakKeyDictionary()


def append(cache: LayerCache, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
    """Keys and values (B, H, n, d) of the next tokens -> those of all tokens (B, H, S, d), as update_and_fetch."""
    if not is_view(keys):
        return cache.update_and_fetch(keys, values)
    if type(cache).__name__ != "KVCache":
        keys, values = cache.update_and_fetch(mx.array(keys), mx.array(values))
        return cast(mx.array, view(keys)), cast(mx.array, view(values))
    plain = cast(PlainCache, cache)
    start, end = plain.offset, plain.offset + keys.shape[2]
    owned = _OWNED.get(cache)
    if (
        owned is None
        or owned.keys is not plain.keys
        or owned.values is not plain.values
        or start < owned.written
        or end > owned.keys.shape[2]
    ):
        rooms = _room(plain.keys, keys, start, end), _room(plain.values, values, start, end)
        owned = _Owned(*rooms, (view(rooms[0]), view(rooms[1])), start)
        plain.keys, plain.values = rooms
    _OWNED[cache] = owned._replace(written=end)
    plain.offset = end
    for numbers, new in zip(owned.numbers, (keys, values), strict=True):
        numbers[:, :, start:end] = new
    return cast(mx.array, owned.numbers[0][:, :, :end]), cast(mx.array, owned.numbers[1][:, :, :end])


def _room(old: mx.array | None, new: mx.array, start: int, end: int) -> mx.array:
    """An array with the first `start` tokens of the old one and room for those up to `end`."""
    batch, heads, _, width = new.shape
    room = mx.empty((batch, heads, -(-end // STEP) * STEP, width))
    mx.eval(room)
    if old is not None:
        view(room)[:, :, :start] = view(old)[:, :, :start]
    return room
