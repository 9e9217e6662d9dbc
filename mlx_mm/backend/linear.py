"""A product with a layer's weights that stay quantised in memory, as those of large models do."""

import itertools
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend import device
from mlx_mm.backend.streams import streams_of_others

Stream: TypeAlias = mx.Stream | mx.ThreadLocalStream

# From so many rows on, turning the weights into floats and multiplying those is faster on a CPU than MLX's quantised
# product there, a scalar loop (measured: 9 rows at a width of 4096, 3 at 768).
MIN_ROWS_FOR_FLOATS = 8
# Words of packed weights in a piece that is worth a thread of its own.
MIN_WORDS_PER_PIECE = 1 << 16


def linear(layer: nn.Module, x: mx.array) -> mx.array:
    """layer(x) for nn.Linear and nn.QuantizedLinear, (…, D) -> (…, E), the faster way on this device.

    Quantised on a CPU, the rows of the weight are divided among the processors: MLX reads them on one thread.
    """
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
        layer.scales[rows],
        None if layer.biases is None else layer.biases[rows],
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
        layer.scales[rows],
        None if layer.biases is None else layer.biases[rows],
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
        stream=stream,
    )
    return x @ weight.astype(x.dtype).T
