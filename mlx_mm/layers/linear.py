"""A product with a layer's weights that stay quantised in memory, as those of large models do."""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.layers.device import on_cpu

# From so many rows on, turning the weights into floats and multiplying those is faster on a CPU than MLX's quantised
# product there, a scalar loop (measured: 9 rows at a width of 4096, 3 at 768).
ROWS = 8


def linear(layer: nn.Module, x: mx.array) -> mx.array:
    """layer(x) for nn.Linear and nn.QuantizedLinear, (…, D) -> (…, E), the faster way on this device."""
    if not isinstance(layer, nn.QuantizedLinear) or not on_cpu() or x.size // x.shape[-1] < ROWS:
        result: mx.array = layer(x)
        return result
    weight = mx.dequantize(
        layer.weight, layer.scales, layer.biases, group_size=layer.group_size, bits=layer.bits, mode=layer.mode
    ).astype(x.dtype)
    return mx.addmm(layer.bias, x, weight.T) if "bias" in layer else x @ weight.T
