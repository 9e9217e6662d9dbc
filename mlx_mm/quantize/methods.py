"""The ways to round, by name, and what each asks of a layer's inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import numpy as np

from mlx_mm.errors import QuantizationError, shown
from mlx_mm.quantize.inputs import Floats, Inputs
from mlx_mm.quantize.rounding import rounded
from mlx_mm.quantize.scheme import AFFINE, QuantConfig

# Rows of a weight (…, out, in), in the order of the file, -> packed weight, scales and, of the affine mode, biases
Rounder: TypeAlias = Callable[[mx.array], list[mx.array]]


@dataclass(frozen=True)
class Method:
    """searches: for a group's grid. asks_for_inputs: of layers, by which columns weigh, and errors are compensated.

    A layer without inputs is searched alone. Modes other than affine have one grid, which MLX finds.
    """

    searches: bool = False
    asks_for_inputs: bool = False

    def rounder(self, scheme: QuantConfig, dtype: mx.Dtype, inputs: Inputs | Sequence[Inputs] | None = None) -> Rounder:
        """What rounds one weight. dtype: of its scales and biases. inputs: of the layer, or of each of its experts."""
        if scheme.mode != AFFINE or not self.searches:
            return scheme.quantize
        inputs = inputs if self.asks_for_inputs else None
        experts = iter(inputs) if isinstance(inputs, Sequence) else None

        def round_rows(rows: mx.array) -> list[mx.array]:
            if rows.ndim == 2:
                assert not isinstance(inputs, Sequence)
                return rounded(_as_numpy(rows), scheme, dtype, inputs)
            parts = [rounded(_as_numpy(expert), scheme, dtype, next(experts) if experts else None) for expert in rows]
            return [mx.stack(list(part)) for part in zip(*parts, strict=True)]

        return round_rows


METHODS = {
    "plain": Method(),
    "search": Method(searches=True),
    "best": Method(searches=True, asks_for_inputs=True),
}


def find_method(name: str) -> Method:
    """Raises QuantizationError for a name that is none."""
    if not isinstance(name, str) or name not in METHODS:
        raise QuantizationError(f"method is {shown(name)}; expected one of {', '.join(METHODS)}.")
    return METHODS[name]


def _as_numpy(rows: mx.array) -> Floats:
    return np.asarray(rows.astype(mx.float32))
