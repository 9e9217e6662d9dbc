"""Rank 0 answers, and the other ranks run what it runs, each with its part of the model.

Before each step of a request rank 0 tells the others which one it is, and of which of its caches; they keep caches of
their own, which follow those of rank 0 by the number of tokens. How tokens are chosen, where an answer ends and who
asks is known to rank 0 alone.
"""

import io
from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mm.backend.ranks import Group, from_first, tell, tell_bytes, told, told_bytes
from mlx_mm.backend.streams import compute, finish
from mlx_mm.errors import InputError
from mlx_mm.generation.prompt_cache import StoredLayer
from mlx_mm.generation.request import LayerCache, Request
from mlx_mm.processing.batch import Batch

END, REQUEST, RUN = range(3)
FIELDS = 8  # of what is told before each step
MOST = 8  # requests, and caches, that are kept; of more the one that was used longest ago is forgotten


class Divided(Protocol):
    """What is asked of a model here. group: None for a whole one."""

    @property
    def group(self) -> Group | None: ...
    def request(self, batch: Batch) -> Request: ...


class _Leader:
    """What rank 0 has told. caches: by id() of the list, the number that the others know it by, and how many tokens it
    has there. broken: a step was told and not done, so that the others wait for the rest of it."""

    requests = numbers = 0
    caches: ClassVar[OrderedDict[int, int]] = OrderedDict()
    broken = False


def request_of(model: Divided, batch: Batch) -> Request:
    """The request of a model for a batch, in which the other ranks of the model take part."""
    request = model.request(batch)
    return request if model.group is None else _Led(request, batch, model.group)


class _Led:
    """A request that runs on all ranks."""

    def __init__(self, request: Request, batch: Batch, group: Group) -> None:
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **batch)
        self._request, self._group = request, group
        _Leader.requests += 1
        self._number = _Leader.requests
        _say(group, REQUEST, self._number, len(packed.getvalue()))
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
        layers = cast(Sequence[StoredLayer], cache)
        before, known = layers[0].offset, _Leader.caches
        if before == 0:
            _Leader.numbers += 1
            known[id(layers)] = _Leader.numbers
        elif id(layers) not in known:
            raise InputError(
                "A prompt goes on whose cache the ranks have forgotten, or which comes from a file; expected one of "
                f"the {MOST} used last. Begin anew, with a cache of its own."
            )
        known.move_to_end(id(layers))
        if len(known) > MOST:
            known.popitem(last=False)
        limit, bits, group_size = _kind(layers[0])
        _say(self._group, RUN, self._number, known[id(layers)], before, input_ids.shape[1], limit, bits, group_size)
        _Leader.broken = True
        logits = self._request(from_first(input_ids.astype(mx.int32), self._group), cache)
        mx.async_eval(logits, [layer.state for layer in layers])  # what the others evaluate, in their order
        _Leader.broken = False
        return logits


def dismiss(model: Divided) -> None:
    """Let the other ranks end. Nothing for a whole model, and where they can only be ended from outside."""
    if model.group is not None and not _Leader.broken:
        _say(model.group, END)
        finish()  # before this process can end


def follow(model: Divided) -> None:
    """Run what rank 0 runs, until it dismisses its followers."""
    assert model.group is not None  # or there would be no rank 0
    group = model.group
    requests: OrderedDict[int, Request] = OrderedDict()
    caches: OrderedDict[int, list[StoredLayer]] = OrderedDict()

    def step() -> bool:
        kind, number, cache, before, length, limit, bits, group_size = told(FIELDS, group)
        if kind == END:
            return False
        if kind == REQUEST:
            with np.load(io.BytesIO(told_bytes(cache, group)), allow_pickle=False) as arrays:
                requests[number] = model.request(dict(arrays))
        else:
            request = requests[number]
            layers = _follow_cache(caches, cache, request, before, limit)
            _quantize(layers, bits, group_size)
            logits = request(from_first(mx.zeros((1, length), mx.int32), group), cache=layers)
            mx.eval(logits, [layer.state for layer in layers])
            requests.move_to_end(number)
            caches.move_to_end(cache)
        for kept in (requests, caches):
            if len(kept) > MOST:
                kept.popitem(last=False)
        return True

    while compute(step):
        continue


def _say(group: Group, *fields: int) -> None:
    if _Leader.broken:
        raise InputError("A step failed that all ranks have begun; expected whole ones. Start all ranks again.")
    tell([*fields, *[0] * (FIELDS - len(fields))], group)


def _kind(layer: StoredLayer) -> tuple[int, int, int]:
    """Of a cache: the most tokens, 0 for any number; bits and group size, 0 where it is not quantised."""
    from mlx_lm.models.cache import QuantizedKVCache, RotatingKVCache

    if isinstance(layer, QuantizedKVCache):
        return 0, layer.bits, layer.group_size
    return (layer.max_size if isinstance(layer, RotatingKVCache) else 0), 0, 0


def _follow_cache(
    caches: OrderedDict[int, list[StoredLayer]], number: int, request: Request, before: int, limit: int
) -> list[StoredLayer]:
    """The cache of that number, cut to as many tokens as that of rank 0; a new one for a new number."""
    from mlx_lm.models.cache import make_prompt_cache

    if number not in caches:
        caches[number] = make_prompt_cache(cast(nn.Module, request), limit or None)
    for layer in caches[number]:
        layer.trim(layer.offset - before)
    return caches[number]


def _quantize(layers: list[StoredLayer], bits: int, group_size: int) -> None:
    """As rank 0 does after each step."""
    from mlx_lm.generate import maybe_quantize_kv_cache

    maybe_quantize_kv_cache(layers, quantized_kv_start=0, kv_group_size=group_size, kv_bits=bits or None)
