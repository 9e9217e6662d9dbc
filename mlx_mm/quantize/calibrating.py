"""Rounding layer by layer, as a model computes: each layer is rounded at its first inputs, and goes on rounded.

So what a layer gets comes from layers that are rounded already, as it will in use, and there is never more than one
layer's weight in memory: it is read, rounded and written when it is needed, and read from the new files from then on.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import asdict
from functools import partial
from typing import Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map_with_path

from mlx_mm.backend.native.views import is_view
from mlx_mm.backend.streams import check_wanted, compute
from mlx_mm.backend.watching import Watched
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.quantize.apply import Layers
from mlx_mm.quantize.inputs import Floats, Inputs, inputs_of
from mlx_mm.quantize.recipes import Planned
from mlx_mm.quantize.scheme import AFFINE
from mlx_mm.quantize.writing import Writing

MOST_ROWS = 8192  # of a layer's inputs that are counted, evenly chosen


class Model(Planned, Layers, Protocol):
    """What a walk asks of a model."""

    def load_weights(self, file_or_weights: str | list[tuple[str, mx.array]], strict: bool = True) -> nn.Module: ...
    def eval(self) -> nn.Module: ...


class Walk:
    """A model of whose layers each is written at its first inputs.

    model: without weights; it gets those that are no layer's, in float32. What is run with it is one batch at a time,
    all that belongs together in one: what comes later meets layers that are rounded already.
    """

    def __init__(self, model: Model, writing: Writing) -> None:
        self._writing = writing
        self._method = writing.tensors.method
        self._real: np.ndarray | None = None
        self._last: tuple[object, int, Inputs] | None = None  # inputs that several layers have in common
        compute(lambda: self._prepare(model))

    def see(self, run: Callable[[], object], real: np.ndarray | None = None) -> None:
        """Run a batch. real: (B, L), not 0 where its tokens are no padding."""
        self._real = None if real is None else real != 0
        run()
        self._last = None

    def _prepare(self, model: Model) -> None:
        arrays = self._writing.tensors.arrays
        layers = {
            path: layer
            for path, layer in model.named_modules()
            if hasattr(layer, "to_quantized") and model.quant_predicate(path, layer)
        }
        own = {name: array for name, array in arrays.items() if name.removesuffix(".weight") not in layers}
        model.load_weights([(name, _in_float32(array)) for name, array in own.items()], strict=False)
        model.eval()

        def stand_in(path: str, layer: nn.Module) -> nn.Module:
            return Watched(self._rounded(path, layer), partial(self._watch, path)) if path in layers else layer

        model.update_modules(tree_map_with_path(stand_in, model.leaf_modules(), is_leaf=nn.Module.is_module))

    def _rounded(self, path: str, layer: nn.Module) -> nn.Module:
        """The layer as it will be loaded, without its weight."""
        scheme = self._writing.tensors.schemes.get(f"{path}.weight")
        return layer if scheme is None else layer.to_quantized(**asdict(scheme))

    def _watch(self, path: str, rounded: nn.Module, x: mx.array, chosen: mx.array | None) -> nn.Module:
        check_wanted()
        name = f"{path}.weight"
        if name in self._writing.tensors.arrays:
            self._writing.write(name, self._inputs(name, rounded, x, chosen))
        layer = copy(rounded)  # so that nothing keeps what it reads
        for part, array in self._writing.parts(name).items():
            layer[part] = _in_float32(array)
        return layer

    def _inputs(
        self, name: str, layer: nn.Module, x: mx.array, chosen: mx.array | None
    ) -> Inputs | list[Inputs] | None:
        scheme = self._writing.tensors.schemes.get(name)
        if scheme is None or scheme.mode != AFFINE or not self._method.asks_for_inputs or hasattr(layer, "as_linear"):
            return None
        if chosen is not None:
            return _of_experts(x, chosen, self._writing.tensors.shapes[name][0])
        size = scheme.group_size
        if self._last is None or self._last[0] is not x or self._last[1] != size:
            self._last = x, size, inputs_of(self._rows(x), size)
        return self._last[2]

    def _rows(self, x: mx.array) -> Floats:
        """The inputs (rows, in) that are no padding, evenly chosen where they are many."""
        numbers = _numbers(x)
        if self._real is not None and numbers.shape[:-1] == self._real.shape:
            numbers = numbers[self._real]
        rows = numbers.reshape(-1, numbers.shape[-1])
        return rows if len(rows) <= MOST_ROWS else rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int)]


def _of_experts(x: mx.array, chosen: mx.array, count: int) -> list[Inputs]:
    """The energy of what each expert gets; of one that was not chosen that of all together."""
    numbers, experts = _numbers(x), np.asarray(chosen)
    if numbers.ndim > experts.ndim + 1:  # (…, 1 or k, 1, D)
        numbers = numbers[..., 0, :]
    rows = np.broadcast_to(numbers, (*experts.shape, numbers.shape[-1])).reshape(-1, numbers.shape[-1])
    whole = inputs_of(rows, None)
    experts = experts.ravel()
    return [inputs_of(rows[experts == expert], None) if (experts == expert).any() else whole for expert in range(count)]


def _numbers(x: mx.array) -> Floats:
    return cast(Floats, x) if is_view(x) else np.array(x.astype(mx.float32))


def _in_float32(array: mx.array | Rows) -> mx.array:
    array = array.join() if isinstance(array, Rows) else array
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array
