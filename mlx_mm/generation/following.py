"""Rank 0 answers, and the other ranks run what it runs, each with its part of the model.

Before each step of a request, or of a batch of them, rank 0 tells the others which one it is, and of which of its
caches; and also what becomes of the rows of a batch. They keep caches of their own under the numbers of `Twin`, which
follow those of rank 0 by the number of tokens. How tokens are chosen, where an answer ends and who asks is known to
rank 0 alone.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mm.backend.ranks import Group, from_first, in_touch, tell, tell_bytes, told, told_bytes
from mlx_mm.backend.streams import compute, finish
from mlx_mm.errors import InputError, RanksError
from mlx_mm.generation.deltas import Deltas
from mlx_mm.generation.prompt_cache import Layers, StoredLayer
from mlx_mm.generation.request import LayerCache, Request, SharedDecoder
from mlx_mm.generation.twins import Twin, forgotten
from mlx_mm.processing.batch import Batch

# What is told, each with some numbers: those of twins, and others. That of a new twin comes first.
END, REST, FORGET, REQUEST, RUN, ROW, DECODE, MERGE, EXTEND, FILTER, EXTRACT, COPY = range(12)
Rows: TypeAlias = list[Any]  # mlx_lm's caches of a prompt, or of a batch, and at the end its deltas


class Divided(Protocol):
    """What is asked of a model here. group: None for a whole one."""

    @property
    def group(self) -> Group | None: ...
    def request(self, batch: Batch) -> Request: ...


class _Leader:
    """broken: a step was told and not done, so that the others wait for the rest of it. wake: those who rest."""

    broken = False
    wake: Callable[[], None] | None = None


def request_of(model: Divided, batch: Batch) -> Request:
    """The request of a model for a batch, in which the other ranks of the model take part."""
    request = model.request(batch)
    return request if model.group is None else _Led(request, batch, model.group)


def deltas_of(model: SharedDecoder, request: Request, layers: Layers) -> Deltas:
    """Of a batch of one row, which goes on where a request of `request_of` has come to with its caches."""
    return request.as_row(model, layers) if isinstance(request, _Led) else Deltas([model.delta(request)])


class _Led:
    """A request that runs on all ranks."""

    def __init__(self, request: Request, batch: Batch, group: Group) -> None:
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **batch)
        self._request, self._group, self._twin = request, group, Twin()
        _say(group, REQUEST, self._twin.number, len(packed.getvalue()))
        tell_bytes(packed.getvalue(), group)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self._request.layers

    @property
    def left_padding(self) -> list[int]:
        return self._request.left_padding

    def token_keys(self) -> list[int]:
        return self._request.token_keys()

    def __call__(self, input_ids: mx.array, cache: Sequence[LayerCache] | None = None) -> mx.array:
        layers = cast(Layers, cache)
        _say(self._group, RUN, *self._place(layers), input_ids.shape[1])
        with _step():
            logits = self._request(_shared(input_ids, self._group), layers)
            mx.async_eval(logits, [layer.state for layer in layers])  # what the others evaluate, in their order
        return logits

    def as_row(self, model: SharedDecoder, layers: Layers) -> Deltas:
        """See `deltas_of`."""
        delta = model.delta(self._request)
        _say(self._group, ROW, *self._place(layers))
        assert layers.twin is not None
        return _LedDeltas([delta], self._group, layers.twin)

    def _place(self, layers: Layers) -> tuple[int, ...]:
        """Which request and which cache, how many tokens this has, and of which kind it is."""
        before = layers[0].offset
        if layers.twin is None and before:
            raise InputError(
                "A prompt goes on whose cache the other ranks do not have, such as one from a file; expected one that "
                "began with all ranks. Begin anew, with a cache of its own."
            )
        layers.twin = layers.twin or Twin()
        return layers.twin.number, self._twin.number, before, *_kind(layers[0])


class _LedDeltas(Deltas):
    """Of a batch whose rows the other ranks have, too; what becomes of them is told after it was done here."""

    twin: Twin

    def __init__(self, rows: list[int], group: Group, twin: Twin | None = None) -> None:
        super().__init__(rows)
        self._group, self.twin = group, twin or Twin()

    @classmethod
    def merge(cls, caches: Sequence[_LedDeltas]) -> _LedDeltas:
        merged = cls([row for cache in caches for row in cache.rows], caches[0]._group)
        merged._say(MERGE, *[cache.twin.number for cache in caches])
        return merged

    def extend(self, other: _LedDeltas) -> None:
        super().extend(other)
        self._say(EXTEND, other.twin.number)

    def filter(self, keep: Sequence[int]) -> None:
        super().filter(keep)
        self._say(FILTER, *keep)

    def extract(self, index: int) -> Deltas:
        row = _LedDeltas([self.rows[index]], self._group)
        row._say(EXTRACT, self.twin.number, index)
        return row

    def __deepcopy__(self, memo: object) -> _LedDeltas:
        copied = _LedDeltas(list(self.rows), self._group)
        copied._say(COPY, self.twin.number)
        return copied

    def decode(self, model: SharedDecoder, input_ids: mx.array, layers: Sequence[LayerCache]) -> mx.array:
        self._say(DECODE)
        with _step():
            logits = super().decode(model, _shared(input_ids, self._group), layers)
            mx.async_eval(logits)
        return logits

    def _say(self, kind: int, *fields: int) -> None:
        _say(self._group, kind, self.twin.number, *fields)


def rest(model: Divided, wake: Callable[[], None]) -> None:
    """Let the other ranks wait for what comes next in a way of their own, see `follow`, which `wake` ends."""
    if model.group is not None and _Leader.wake is None:
        _say(model.group, REST)
        _Leader.wake = wake


def dismiss(model: Divided) -> None:
    """Let the other ranks end. Nothing for a whole model, and where they can only be ended from outside."""
    if model.group is not None and not _Leader.broken:
        _say(model.group, END)
        finish()  # before this process can end


def check_whole() -> None:
    """Raise RanksError where a step failed that all ranks have begun: they do nothing together any more."""
    if _Leader.broken:
        raise RanksError("A step failed that all ranks have begun; expected whole ones. Start all ranks again.")


@contextlib.contextmanager
def _step() -> Iterator[None]:
    """Inside is a part of a step, in the middle of which others are where it fails."""
    _Leader.broken = True
    with in_touch():
        yield
    _Leader.broken = False


def _say(group: Group, kind: int, *fields: int) -> None:
    check_whole()
    if _Leader.wake is not None:
        _Leader.wake()
        _Leader.wake = None
    with _step():
        if numbers := forgotten():
            _tell(group, FORGET, numbers)
        _tell(group, kind, fields)


def _tell(group: Group, kind: int, fields: Sequence[int]) -> None:
    tell([kind, len(fields)], group)
    if fields:
        tell(fields, group)


def _shared(input_ids: mx.array, group: Group) -> mx.array:
    return from_first(input_ids.astype(mx.int32), group)


def _kind(layer: StoredLayer) -> tuple[int, int, int]:
    """Of a cache: the most tokens, 0 for any number; bits and group size, 0 where it is not quantised."""
    from mlx_lm.models.cache import QuantizedKVCache, RotatingKVCache

    if isinstance(layer, QuantizedKVCache):
        return 0, layer.bits, layer.group_size
    return (layer.max_size if isinstance(layer, RotatingKVCache) else 0), 0, 0


def follow(model: Divided, sleep: Callable[[], None] = lambda: None) -> None:
    """Run what rank 0 runs, until it dismisses its followers. sleep: waits until rank 0, which lets them rest, wakes
    them; without it MLX waits, which keeps a processor busy."""
    follower = _Follower(model, sleep)
    while compute(follower.step):
        continue


class _Follower:
    """requests, caches: by the numbers of their twins."""

    def __init__(self, model: Divided, sleep: Callable[[], None]) -> None:
        assert model.group is not None  # or there would be no rank 0
        self._model, self._group, self._sleep = model, model.group, sleep
        self._requests: dict[int, Request] = {}
        self._caches: dict[int, Rows] = {}

    def step(self) -> bool:
        """Do what rank 0 tells next; False at the end."""
        kind, count = told(2, self._group)
        fields = told(count, self._group) if count else []
        if kind == REST:
            self._sleep()
        elif kind == FORGET:
            for number in fields:
                self._requests.pop(number, None)
                self._caches.pop(number, None)
        elif kind == REQUEST:
            number, size = fields
            with np.load(io.BytesIO(told_bytes(size, self._group)), allow_pickle=False) as arrays:
                self._requests[number] = self._model.request(dict(arrays))
        elif kind == RUN:
            self._run(*fields)
        elif kind == ROW:
            request, rows = self._placed(*fields)
            rows[-1] = Deltas([self._decoder.delta(request)])
        elif kind == DECODE:
            self._decode(self._caches[fields[0]])
        elif kind != END:
            self._change(kind, *fields)
        return kind != END

    @property
    def _decoder(self) -> SharedDecoder:
        assert isinstance(self._model, SharedDecoder)  # or rank 0 would have no batches
        return self._model

    def _placed(
        self, number: int, request: int, before: int, limit: int, bits: int, group_size: int
    ) -> tuple[Request, Rows]:
        """A request, and the cache of that number cut to as many tokens as that of rank 0; a new one for a new number.
        The last of it waits for a row's delta."""
        from mlx_lm.generate import maybe_quantize_kv_cache
        from mlx_lm.models.cache import make_prompt_cache

        found = self._requests[request]
        if number not in self._caches:
            self._caches[number] = [*make_prompt_cache(cast(nn.Module, found), limit or None), Deltas([])]
        rows = self._caches[number]
        layers = rows[:-1]
        for layer in layers:
            layer.trim(layer.offset - before)
        maybe_quantize_kv_cache(layers, quantized_kv_start=0, kv_group_size=group_size, kv_bits=bits or None)
        rows[:-1] = layers
        return found, rows

    def _run(self, *fields: int) -> None:
        request, rows = self._placed(*fields[:-1])
        layers = rows[:-1]
        logits = request(_shared(mx.zeros((1, fields[-1])), self._group), cache=layers)
        mx.eval(logits, [layer.state for layer in layers])

    def _decode(self, rows: Rows) -> None:
        *layers, deltas = rows
        logits = deltas.decode(self._decoder, _shared(mx.zeros((len(deltas.rows), 1)), self._group), layers)
        mx.eval(logits, [layer.state for layer in layers])

    def _change(self, kind: int, number: int, *fields: int) -> None:
        """What mlx_lm does with the rows of a batch, on all of its caches."""
        caches = self._caches
        if kind == MERGE:
            caches[number] = [same[0].merge(same) for same in zip(*[caches[field] for field in fields], strict=True)]
        elif kind == EXTEND:
            for cache, other in zip(caches[number], caches[fields[0]], strict=True):
                cache.extend(other)
        elif kind == FILTER:
            for cache in caches[number]:
                cache.filter(list(fields))
        elif kind == EXTRACT:
            caches[number] = [cache.extract(fields[1]) for cache in caches[fields[0]]]
        else:
            caches[number] = copy.deepcopy(caches[fields[0]])
