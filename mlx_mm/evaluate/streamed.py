"""A model that is run layer by layer: each is read from the disk when it is reached, and let go when it has run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path

from mlx_mm.backend import device
from mlx_mm.backend.native import weights
from mlx_mm.backend.streams import compute
from mlx_mm.backend.watching import Watched
from mlx_mm.load import OpenCheckpoint
from mlx_mm.models.contracts import Model

# (path, layer, x, chosen) -> the layer that is to compute; x and chosen as of `backend.watching.Watch`
Look: TypeAlias = Callable[[str, nn.Module, mx.array, "mx.array | None"], nn.Module]


class Streamed:
    """model: of a checkpoint, in which layers that may be quantised are read when they are reached.

    keep: they stay in memory, which a model that is small or runs often needs. looks: called with each layer before it
    computes; it gives the one that is to compute.
    """

    def __init__(self, opened: OpenCheckpoint, *, keep: bool = False) -> None:
        self._opened, self._keep = opened, keep
        self.model = opened.load_lazily(cast_tables=keep)
        self.look: Look | None = None
        self._layers = _layers(self.model)
        compute(self._watch)

    @property
    def paths(self) -> list[str]:
        """Of the layers that are read when they are reached."""
        return list(self._watched)

    def take(self, path: str) -> nn.Module:
        """The layer at a path; unless they are kept, each is read anew the next time."""
        if self._keep:
            return self._layers[path]
        if path not in self._layers:
            self._layers = _layers(self._opened.load_lazily(cast_tables=False))
        return self._layers.pop(path)

    def _watch(self) -> None:
        self._watched = tuple(self._layers)

        def replace(path: str, layer: nn.Module) -> nn.Module:
            return Watched(nn.Module(), partial(self._reached, path)) if path in self._layers else layer

        self.model.update_modules(tree_map_with_path(replace, self.model.leaf_modules(), is_leaf=nn.Module.is_module))

    def _reached(self, path: str, _layer: nn.Module, x: mx.array, chosen: mx.array | None) -> nn.Module:
        if isinstance(x, mx.array):
            mx.eval(x)  # so that what came before it is let go
        layer = self.take(path)
        layer = layer if self.look is None else self.look(path, layer, x, chosen)
        if self._keep or not device.has_kernels():
            return layer
        if isinstance(layer, nn.Linear) and layer.weight.dtype != mx.float32:
            weights.read_in_place(layer)
        return _Table(layer) if isinstance(layer, nn.Embedding) else layer


class _Table(nn.Module):
    """A table as it is stored. Its rows become float32 when they are looked up: whole it would take twice as much."""

    def __init__(self, stored: nn.Embedding) -> None:
        super().__init__()
        self._stored = stored

    def __call__(self, ids: mx.array) -> mx.array:
        return self._stored(ids).astype(mx.float32)

    def as_linear(self, x: mx.array) -> mx.array:
        return self._stored.as_linear(x)


def _layers(model: Model) -> dict[str, nn.Module]:
    """Those that may be quantised or are, by path."""
    found: list[tuple[str, nn.Module]] = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)  # type: ignore[assignment]
    return {
        path: layer
        for path, layer in found
        if "scales" in layer or (hasattr(layer, "to_quantized") and model.quant_predicate(path, layer))
    }
