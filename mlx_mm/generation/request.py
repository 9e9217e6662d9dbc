"""What mlx_lm's token loop takes for a model: one prompt, or a batch of them, on its way through a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # so that what prepares inputs may name these without MLX
    import mlx.core as mx
    import mlx.nn as nn


class LayerCache(Protocol):
    """One of mlx_lm's caches: keys and values of the tokens that one layer has seen.

    offset: the position of the next token; a number, or one for each row, (B,), where rows have padding.
    """

    @property
    def offset(self) -> int | mx.array: ...
    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]: ...
    def size(self) -> int: ...


class Request(Protocol):
    """Positions and features of the media belong to it and not to the model, so that several may run at once.

    layers: one for each cache that a run needs. A call: the next tokens (B, n) -> logits (B, 1, V) after the last of
    them; where they stand is read from the cache. token_keys: one number for each token of a single prompt; equal
    keys mean that a model computes the same of them.
    """

    @property
    def layers(self) -> Sequence[nn.Module]: ...
    @property
    def left_padding(self) -> list[int]: ...
    def token_keys(self) -> list[int]: ...
    def __call__(self, input_ids: mx.array, cache: Sequence[LayerCache] | None = None) -> mx.array: ...


@runtime_checkable
class SharedDecoder(Protocol):
    """A generator that takes a token of each of several requests in one step.

    delta: how far the tokens after a request's prompt stand from their count. decode: the last token of each row
    (B, 1), mlx_lm's caches of a batch, one for each layer, and the rows' deltas -> logits (B, 1, V).
    """

    def delta(self, request: Request) -> int: ...
    def decode(self, input_ids: mx.array, cache: Sequence[LayerCache], deltas: Sequence[int]) -> mx.array: ...


class FeatureStore(Protocol):
    """Features of pictures, by a key that is another for another picture. get: None for one it does not have."""

    def get(self, key: bytes) -> mx.array | None: ...
    def put(self, key: bytes, features: mx.array) -> None: ...


@runtime_checkable
class HasPictures(Protocol):
    """A request that takes features of its pictures from a store that others use too, and puts there what it computes.

    Called before it runs, if at all.
    """

    def share(self, store: FeatureStore) -> None: ...
