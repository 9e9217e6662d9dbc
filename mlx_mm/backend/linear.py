"""Products with the weights of a layer, which stay as they are stored where the device can read them so."""

import itertools
from collections.abc import Callable
from typing import TypeAlias, cast

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend import device, elementwise
from mlx_mm.backend.native import calls, library, signatures
from mlx_mm.backend.native.views import is_view, run, serves, view
from mlx_mm.backend.native.weights import prepared_linear
from mlx_mm.backend.streams import streams_of_others
from mlx_mm.backend.watching import at_work

Stream: TypeAlias = mx.Stream | mx.ThreadLocalStream
Activation: TypeAlias = Callable[[mx.array], mx.array]

# From so many rows on, turning the weights into floats and multiplying those is faster on a CPU than MLX's quantised
# product there, a scalar loop (measured: 9 rows at a width of 4096, 3 at 768).
MIN_ROWS_FOR_FLOATS = 8
# Words of packed weights in a piece that is worth a thread of its own.
MIN_WORDS_PER_PIECE = 1 << 16


def linear(
    layer: nn.Module, x: mx.array, *, activation: Activation | None = None, residual: mx.array | None = None
) -> mx.array:
    """activation(layer(x)) + residual for nn.Linear and nn.QuantizedLinear, (…, D) -> (…, E), the faster way here.

    A row's result does not depend on the others, to the last bit where CPU kernels compute it. With quantised weights
    these take inputs of 8 bits, unless MLX_MM_CPU=exact.
    """
    return _linear(layer, x, activation, residual, signatures.INPUTS_FAST)


def token_linear(layer: nn.Module, x: mx.array, *, residual: mx.array | None = None) -> mx.array:
    """layer(x) + residual for layers of a language model, which reads a long prompt and then token after token.

    As `linear`, but a few rows, whose cost is reading the weights, take inputs of 16 bits, and so a token's numbers
    depend on whether it came alone.
    """
    return _linear(layer, x, None, residual, signatures.INPUTS_FINE)


def _linear(
    layer: nn.Module, x: mx.array, activation: Activation | None, residual: mx.array | None, inputs: int
) -> mx.array:
    if is_view(x):
        return _native(at_work(layer, x), x, activation, residual, inputs)
    if serves(x):
        return run(lambda x: _linear(layer, x, activation, residual, inputs), x)
    product = _plain(at_work(layer, x), x)
    product = product if activation is None else activation(product)
    return product if residual is None else product + residual


def _native(
    layer: nn.Module, x: mx.array, activation: Activation | None, residual: mx.array | None, inputs: int
) -> mx.array:
    inputs = library.inputs_of(inputs)
    prepared = prepared_linear(library.kernels(), layer, inputs)
    kind = signatures.NONE if activation is None else elementwise.KINDS.get(activation)
    product = calls.product(
        library.kernels(),
        prepared.weight,
        view(x),
        bias=prepared.bias,
        activation=signatures.NONE if kind is None else kind,
        residual=None if residual is None or kind is None else view(residual),
        inputs=inputs,
    )
    result = cast(mx.array, product)
    if activation is not None and kind is None:
        result = activation(result) if residual is None else activation(result) + view(residual)
    return result


def _plain(layer: nn.Module, x: mx.array) -> mx.array:
    """Quantised on a CPU, the rows of the weight are divided among the processors: MLX reads them on one thread."""
    if not isinstance(layer, nn.QuantizedLinear) or not device.on_cpu():
        result: mx.array = layer(x)
        return result
    streams = [None, *streams_of_others()][: max(1, layer.weight.size // MIN_WORDS_PER_PIECE)]
    bounds = [len(layer.weight) * part // len(streams) for part in range(len(streams) + 1)]
    multiply = _multiply if x.size // x.shape[-1] < MIN_ROWS_FOR_FLOATS else _multiply_floats
    pieces = [
        multiply(layer, x, slice(*bound), stream)
        for stream, bound in zip(streams, itertools.pairwise(bounds), strict=True)
    ]
    product = mx.concatenate(pieces, axis=-1)
    return product + layer.bias if "bias" in layer else product


def _multiply(layer: nn.QuantizedLinear, x: mx.array, rows: slice, stream: Stream | None) -> mx.array:
    """x · weight[rows]ᵀ by MLX's quantised product."""
    return mx.quantized_matmul(
        x,
        layer.weight[rows],
        *_scales(layer, rows, x.dtype),
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
        stream=stream,
    )


def _multiply_floats(layer: nn.QuantizedLinear, x: mx.array, rows: slice, stream: Stream | None) -> mx.array:
    """The same over floats, which are made when x is there and not for many layers ahead; their product has threads of
    its own."""
    (packed,) = mx.depends([layer.weight[rows]], [x])
    weight = mx.dequantize(
        packed,
        *_scales(layer, rows, x.dtype),
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
        stream=stream,
    )
    return x @ weight.astype(x.dtype).T


def _scales(layer: nn.QuantizedLinear, rows: slice, dtype: mx.Dtype) -> tuple[mx.array, mx.array | None]:
    """Scales and biases of rows; of the affine mode as floats of a dtype, for weights that were loaded as stored."""
    if layer.biases is None:
        return layer.scales[rows], None
    return layer.scales[rows].astype(dtype), layer.biases[rows].astype(dtype)
