"""The weights of layers as the kernels read them: float32 and, where inputs are rounded, 4 and 8 bits packed once, the
others in place.

Packed weights take the place of the layer's own: `layer.weight` is then a lazy array that unpacks them, for whoever
asks. What was prepared belongs to arrays, not to layers: with other weights a layer is prepared anew.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mm.backend.memory import HUGE_PAGE, in_huge_pages, use_huge_pages
from mlx_mm.backend.native import calls, signatures
from mlx_mm.backend.native.calls import Floats
from mlx_mm.backend.native.views import Numbers, UnsettledError, floats, is_settled, view

TYPES = {mx.float32: signatures.FLOAT32, mx.float16: signatures.FLOAT16, mx.bfloat16: signatures.BFLOAT16}
KINDS = {
    "affine": signatures.AFFINE,
    "mxfp4": signatures.MXFP4,
    "mxfp8": signatures.MXFP8,
    "nvfp4": signatures.NVFP4,
}
CACHE_LINE = 64
LEAST_BYTES = HUGE_PAGE  # of a weight that is worth a copy
_LOCK = threading.Lock()
Arrays: TypeAlias = tuple[mx.array | None, mx.array | None, mx.array | None, mx.array | None]  # of a layer


class Prepared:
    """What a layer's arrays are to the kernels. It is neither copied nor pickled with the layer, which prepares it
    again."""

    def __init__(self, of: Arrays) -> None:
        self.of = of

    def belongs_to(self, of: Arrays) -> bool:
        """Whether it was prepared of these very arrays."""
        mine = self.of
        return mine[0] is of[0] and mine[1] is of[1] and mine[2] is of[2] and mine[3] is of[3]

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


class PreparedLinear(Prepared):
    """weight: what the kernels read. bias: (N,) or None. owner: keeps the memory."""

    def __init__(self, of: Arrays, weight: signatures.Weight, bias: Floats | None, owner: object) -> None:
        super().__init__(of)
        self.weight, self.bias, self.owner = weight, bias, owner


class PreparedNorm(Prepared):
    """weight and bias: (D,) or None."""

    def __init__(self, of: Arrays, weight: Floats | None, bias: Floats | None) -> None:
        super().__init__(of)
        self.weight, self.bias = weight, bias


Kind = TypeVar("Kind", PreparedLinear, PreparedNorm)


def prepared_linear(library: ctypes.CDLL, layer: nn.Module, inputs: int) -> PreparedLinear:
    """Of nn.Linear and nn.QuantizedLinear, for such inputs. Raises UnsettledError while the layer is transformed."""
    quantised = "scales" in layer
    packs = quantised and inputs == signatures.INPUTS_FAST and layer.mode == "affine" and layer.bits in (4, 8)

    def prepare() -> PreparedLinear:
        if packs:
            weight, owner = _packed_words(library, layer)
        else:
            weight, owner = _quantised(layer) if quantised else _plain(library, layer)
        return PreparedLinear(_arrays(layer), weight, floats(layer.bias) if "bias" in layer else None, owner)

    def fits(kept: PreparedLinear) -> bool:
        return packs == (kept.weight.kind == signatures.AFFINE_PACKED)

    return _kept(layer, PreparedLinear, prepare, fits)


def read_in_place(layer: nn.Linear) -> None:
    """Have products read a weight of 16 bits where it is. A copy that is faster to read is worth its time and its
    memory where a layer runs more than once."""
    weight, owner = _rows(layer.weight)
    bias = floats(layer.bias) if "bias" in layer else None
    layer._prepared = PreparedLinear(_arrays(layer), weight, bias, owner)


def prepared_norm(layer: nn.Module) -> PreparedNorm:
    """Of nn.LayerNorm and nn.RMSNorm. Raises UnsettledError while the layer is transformed."""

    def prepare() -> PreparedNorm:
        arrays = _arrays(layer)
        return PreparedNorm(arrays, *(None if array is None else floats(array) for array in (arrays[0], arrays[3])))

    return _kept(layer, PreparedNorm, prepare)


def prepared_experts(layer: nn.Module) -> PreparedLinear:
    """Of mlx_lm's SwitchLinear and QuantizedSwitchLinear: weights (experts, N, K), one after the other, as stored."""

    def prepare() -> PreparedLinear:
        weight, owner = _quantised(layer) if "scales" in layer else _rows(layer.weight)
        return PreparedLinear(_arrays(layer), weight, None, owner)

    return _kept(layer, PreparedLinear, prepare)


def not_prepared(modules: object) -> list[mx.array]:
    """The arrays of those layers of which nothing is prepared; the others have no use for their own."""
    layers = (layer for module in _modules(modules) for layer in module.modules())
    return [
        array
        for layer in layers
        if not (isinstance(kept := layer.__dict__.get("_prepared"), Prepared) and kept.belongs_to(_arrays(layer)))
        for array in layer.values()
        if isinstance(array, mx.array)
    ]


def _modules(tree: object) -> list[nn.Module]:
    if isinstance(tree, nn.Module):
        return [tree]
    return [module for part in tree for module in _modules(part)] if isinstance(tree, list | tuple) else []


def _kept(
    layer: nn.Module, kind: type[Kind], prepare: Callable[[], Kind], fits: Callable[[Kind], bool] = lambda kept: True
) -> Kind:
    """What was prepared of the layer's arrays, now or before, so that it fits."""
    kept = layer.__dict__.get("_prepared")
    if isinstance(kept, kind) and kept.belongs_to(_arrays(layer)) and fits(kept):
        return kept
    with _LOCK:
        arrays = _arrays(layer)
        kept = layer.__dict__.get("_prepared")  # by another thread meanwhile
        if not (isinstance(kept, kind) and kept.belongs_to(arrays) and fits(kept)):
            if not all(array is None or is_settled(array) for array in arrays):
                raise UnsettledError
            kept = prepare()
            layer._prepared = kept
    return kept


def _arrays(layer: nn.Module) -> Arrays:
    return layer.get("weight"), layer.get("scales"), layer.get("biases"), layer.get("bias")


def _quantised(layer: nn.Module, copies: bool = True) -> tuple[signatures.Weight, object]:
    """MLX's packed words, read where they are. copies: large ones are copied once, so that they are read faster."""
    for name in ("weight", "scales", "biases") if copies else ():
        if layer.get(name) is not None:
            layer[name] = _in_huge_pages(layer[name])
    parts = [array if array is None else np.ascontiguousarray(view(array)) for array in _arrays(layer)[:3]]
    affine = layer.mode == "affine"
    rows, words = layer.weight.shape[-2:]
    weight = signatures.Weight(
        KINDS[layer.mode],
        TYPES[layer.scales.dtype] if affine else signatures.FLOAT32,
        layer.bits,
        layer.group_size,
        rows,
        words * 32 // layer.bits,
        *map(calls.address, parts),
    )
    return weight, parts


def _rows(array: mx.array) -> tuple[signatures.Weight, Numbers]:
    """Rows of floats, read where they are."""
    numbers = np.ascontiguousarray(view(array))
    return signatures.Weight(
        signatures.ROWS, TYPES[array.dtype], 0, 0, *array.shape[-2:], calls.address(numbers)
    ), numbers


def _plain(library: ctypes.CDLL, layer: nn.Module) -> tuple[signatures.Weight, object]:
    """16-bit weights as they are; float32 in panels, which the layer's own array then shows."""
    if layer.weight.dtype != mx.float32:
        layer.weight = _in_huge_pages(layer.weight)
        return _rows(layer.weight)
    weight, _ = _rows(layer.weight)
    packed = _pack(library, layer, "weight")
    weight.kind, weight.data = signatures.PACKED, calls.address(view(packed))
    return weight, packed


def _packed_words(library: ctypes.CDLL, layer: nn.Module) -> tuple[signatures.Weight, object]:
    """A quantised weight with its words packed as if they were float32, and float32 scales and biases with them."""
    weight, _ = _quantised(layer, copies=False)
    names = ("weight", "scales", "biases") if weight.type == signatures.FLOAT32 else ("weight",)
    packed = {name: _pack(library, layer, name) for name in names}
    parts = [view(packed.get(name, layer[name])) for name in ("weight", "scales", "biases")]
    weight.kind = signatures.AFFINE_PACKED
    weight.data, weight.scales, weight.biases = map(calls.address, parts)
    return weight, parts


def _pack(library: ctypes.CDLL, layer: nn.Module, name: str) -> mx.array:
    """An array (N, K) of a layer, of 32 bits each, in panels, of which the layer's own array then is a view."""
    numbers = np.ascontiguousarray(view(layer[name]))
    (count, cols), panel = numbers.shape, int(library.mm_panel())
    rows = signatures.Weight(signatures.ROWS, signatures.FLOAT32, 0, 0, count, cols, calls.address(numbers))
    panels = math.ceil(count / panel)
    # Floats anywhere: they then fit where those of another layer were, and weights are not in memory twice.
    begin = CACHE_LINE if layer[name].dtype == mx.uint32 else 1
    packed = _new_array((panels, cols, panel), layer[name].dtype, begin)
    calls.check(library.mm_pack(ctypes.byref(rows), calls.address(view(packed))))
    with mx.stream(_stream()):
        layer[name] = packed.swapaxes(1, 2).reshape(panels * panel, cols)[:count]
    return packed


def _in_huge_pages(array: mx.array) -> mx.array:
    """A copy of a large array that is faster to read, the array itself where it is small."""
    if array.nbytes < LEAST_BYTES or in_huge_pages(calls.address(view(array)) or 0, array.nbytes):
        return array
    copy = _new_array(array.shape, array.dtype, HUGE_PAGE)
    view(copy)[...] = view(array)
    return copy


def _new_array(shape: tuple[int, ...], dtype: mx.Dtype, begin: int) -> mx.array:
    """An array whose numbers are still to be written. It begins at a multiple of `begin` bytes, for which as much more
    room is taken: of a large page, or of a cache line, since a vector of 64 bytes that crosses two loads half as fast.
    """
    count = math.prod(shape)
    room = mx.empty((count + begin // dtype.size,), dtype)
    first = -(calls.address(view(room)) or 0) % begin // dtype.size
    array = room[first : first + count].reshape(shape)  # the same memory
    mx.eval(array)
    use_huge_pages(calls.address(view(array)) or 0, array.nbytes)
    return array


@functools.cache
def _stream() -> mx.Stream:
    """For what another thread than this one may evaluate."""
    return mx.new_thread_unsafe_stream(mx.cpu)
