"""Norms of the last axis, with the weights of MLX's layers."""

from typing import cast

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.native import calls
from mlx_mm.backend.native.library import kernels
from mlx_mm.backend.native.views import is_view, run, serves, view
from mlx_mm.backend.native.weights import prepared_norm

_KINDS = nn.LayerNorm | nn.RMSNorm


def norm(layer: nn.LayerNorm | nn.RMSNorm, x: mx.array, *, residual: mx.array | None = None) -> mx.array:
    """layer(x) + residual, (…, D) -> (…, D)."""
    if is_view(x) and isinstance(layer, _KINDS):
        return _native(layer, view(x), residual)
    if serves(x) and isinstance(layer, _KINDS):
        return run(lambda x: norm(layer, x, residual=residual), x)
    result: mx.array = layer(x)
    return result if residual is None else result + residual


def _native(layer: nn.LayerNorm | nn.RMSNorm, x: calls.Floats, residual: mx.array | None) -> mx.array:
    prepared = prepared_norm(layer)
    added = None if residual is None else view(residual)
    if isinstance(layer, nn.LayerNorm):
        return cast(mx.array, calls.layer_norm(kernels(), x, prepared.weight, prepared.bias, layer.eps, added))
    return cast(mx.array, calls.rms_norm(kernels(), x, prepared.weight, layer.eps, added))
