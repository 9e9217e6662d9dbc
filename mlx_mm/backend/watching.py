"""Layers that are seen at work: something that is called with what a layer gets, and says which one computes."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

# (layer, x, chosen) -> the layer that is to compute. x: what the layer gets, a view of NumPy where kernels compute.
# chosen: of layers of experts, the expert of each row of x, (…, k) for x (…, 1 or k, 1, D), or (N,) for a view (N, D).
Watch: TypeAlias = Callable[[nn.Module, mx.array, mx.array | None], nn.Module]


class Watched(nn.Module):
    """Stands in a model for a leaf layer, whose parameters are then none of the model's."""

    def __init__(self, layer: nn.Module, watch: Watch) -> None:
        super().__init__()
        self._seen = partial(watch, layer)  # hidden within: a layer of its own would be a part of the model

    def __call__(self, x: mx.array, *rest: mx.array, **options: bool) -> mx.array:
        """What the layer that computes gives."""
        result: mx.array = self._seen(x, rest[0] if rest else None)(x, *rest, **options)
        return result

    def as_linear(self, x: mx.array) -> mx.array:
        """What a table of tokens gives as the last layer of a language model."""
        result: mx.array = self._seen(x, None).as_linear(x)
        return result


def at_work(layer: nn.Module, x: mx.array, chosen: mx.array | None = None) -> nn.Module:
    """The layer that computes for x: of a watched one whichever it says, else the layer itself."""
    if isinstance(layer, Watched):
        watched: nn.Module = layer._seen(x, chosen)
        return watched
    return layer
