"""Mixtures of experts: a router's choice for each token, and the small MLPs that it chose."""

from collections.abc import Callable
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mm.backend.elementwise import swiglu
from mlx_mm.backend.native import calls, library, signatures
from mlx_mm.backend.native.views import is_view, run, serves, view
from mlx_mm.backend.native.weights import prepared_experts
from mlx_mm.backend.watching import at_work

Router = Callable[[mx.array], tuple[mx.array, mx.array]]


def route(router: Router, x: mx.array) -> tuple[mx.array, mx.array]:
    """router(x): (B, L, D) -> chosen experts and their weights, (B, L, k). It computes on arrays of MLX."""
    if not is_view(x):
        return router(x)
    chosen, weights = router(mx.array(x))
    mx.eval(chosen, weights)
    return cast(mx.array, view(chosen)), cast(mx.array, view(weights))


def experts(layer: nn.Module, x: mx.array, chosen: mx.array, weights: mx.array) -> mx.array:
    """The sum of down(silu(gate(x)) · up(x)) of each token's experts by their weights, (B, L, D) -> (B, L, D).

    layer: mlx_lm's SwitchGLU. chosen, weights: (B, L, k).
    """
    if not is_view(x):
        if serves(x):  # weights in 16 bits, which MLX would turn into float32 for each token
            return run(lambda x: experts(layer, x, chosen, weights), x)
        return (layer(x, chosen) * weights[..., None]).sum(axis=-2).astype(x.dtype)
    many, width = chosen.shape[-1], x.shape[-1]
    numbers = view(chosen).astype(np.int32).ravel()
    rows = np.repeat(view(x).reshape(-1, width), many, axis=0)
    gate, up = (_multiply(part, rows, numbers) for part in (layer.gate_proj, layer.up_proj))
    down = _multiply(layer.down_proj, view(swiglu(cast(mx.array, gate), cast(mx.array, up))), numbers)
    total = view(weights).reshape(-1, 1, many) @ down.reshape(-1, many, width)
    return cast(mx.array, total.reshape(x.shape))


def _multiply(layer: nn.Module, rows: calls.Floats, chosen: np.ndarray) -> calls.Floats:
    layer = at_work(layer, cast(mx.array, rows), cast(mx.array, chosen))
    prepared = prepared_experts(layer)
    inputs = library.inputs_of(signatures.INPUTS_FINE)
    return calls.experts(library.kernels(), prepared.weight, len(layer.weight), chosen, rows, inputs=inputs)
