"""What single layers lose: each is given the inputs that the source's has, and both outputs are compared."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mm.models.contracts import Modality
from mlx_mm.quantize.cost import LayerCost

MOST_ROWS = 64  # inputs of a layer that are compared in each batch
MOST_OUTPUTS = 1024  # numbers of each that are compared


@dataclass
class LayerErrors:
    """Squares of what layers give, and of the differences, as they come; by path.

    bits: of the layers that are compared, None where the other's is not quantised. reached: by which kinds of inputs.
    """

    bits: dict[str, int | None]
    outputs: dict[str, float] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    reached: dict[str, set[Modality]] = field(default_factory=dict)

    def compare(
        self, path: str, ours: nn.Module, theirs: nn.Module, x: mx.array, chosen: mx.array | None, modality: Modality
    ) -> None:
        """Add what a layer of the other and one of the source give for x."""
        self.reached.setdefault(path, set()).add(modality)
        output, difference = _squares(ours, theirs, np.asarray(x), None if chosen is None else np.asarray(chosen))
        self.outputs[path] = self.outputs.get(path, 0.0) + output
        self.differences[path] = self.differences.get(path, 0.0) + difference

    def worst(self, count: int) -> list[LayerCost]:
        """The layers whose own error is the largest, worst first."""
        costs = [
            LayerCost(path, self.bits[path], (self.differences[path] / output) ** 0.5 if output else 0.0)
            for path, output in self.outputs.items()
        ]
        return sorted(costs, key=lambda cost: (-cost.error, cost.path))[:count]


def _squares(ours: nn.Module, theirs: nn.Module, x: np.ndarray, chosen: np.ndarray | None) -> tuple[float, float]:
    """|y|² and |y' - y|² over some of the rows of x and some of the outputs."""
    if not np.issubdtype(x.dtype, np.floating):  # ids, which look rows up
        ids = mx.array(some_rows(np.unique(x), MOST_ROWS * 4))
        source = _matrix(theirs, ids)
        return _sum(source), _sum(_matrix(ours, ids) - source)
    if chosen is not None:
        return _of_experts(ours, theirs, x, chosen)
    rows = mx.array(some_rows(x.reshape(-1, x.shape[-1]), MOST_ROWS)).astype(mx.float32)
    outputs = mx.array(some_rows(np.arange(theirs.weight.shape[0]), MOST_OUTPUTS))
    return _products(rows, _matrix(ours, outputs), _matrix(theirs, outputs))


def _of_experts(ours: nn.Module, theirs: nn.Module, x: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """Each row by the expert that it has; x (N, D) with chosen (N,), or as mlx_lm has them."""
    width, numbers = x.shape[-1], chosen.reshape(-1)
    flat = x.reshape(-1, width)
    flat = np.repeat(flat, len(numbers) // len(flat), axis=0)
    places = some_rows(np.arange(len(numbers)), MOST_ROWS)
    totals = np.zeros(2)
    for expert in np.unique(numbers[places]):
        rows = mx.array(flat[places[numbers[places] == expert]]).astype(mx.float32)
        where = int(expert)
        totals += _products(rows, _matrix(ours, where), _matrix(theirs, where))
    return float(totals[0]), float(totals[1])


def _products(x: mx.array, ours: mx.array, theirs: mx.array) -> tuple[float, float]:
    source = x @ theirs.T
    return _sum(source), _sum(x @ (ours - theirs).T)


def _matrix(layer: nn.Module, rows: mx.array | int) -> mx.array:
    """Some rows of a layer's weight, or an expert's, as float32."""
    weight = layer.weight[rows]
    if "scales" not in layer:
        return weight.astype(mx.float32)
    scales, biases = layer.scales[rows], layer.get("biases")
    if layer.mode == "affine":
        scales = scales.astype(mx.float32)
    biases = None if biases is None else biases[rows].astype(mx.float32)
    return mx.dequantize(weight, scales, biases, layer.group_size, layer.bits, layer.mode).astype(mx.float32)


def _sum(array: mx.array) -> float:
    return float(mx.square(array).sum().item())  # type: ignore[arg-type]


def some_rows(items: np.ndarray, most: int) -> np.ndarray:
    """At most so many, evenly from the first to the last."""
    if len(items) <= most:
        return items
    return items[np.arange(most) * (len(items) - 1) // (most - 1)]
