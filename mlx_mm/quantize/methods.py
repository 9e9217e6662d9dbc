"""The ways to round, by name, and what each asks of a layer's inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import numpy as np

from mlx_mm.errors import QuantizationError, shown
from mlx_mm.quantize.rounding import Inputs, compensated, searched
from mlx_mm.quantize.scheme import AFFINE, QuantConfig

# Rows of a weight (…, out, in), in the order of the file, -> packed weight, scales and, of the affine mode, biases
Rounder: TypeAlias = Callable[[mx.array], list[mx.array]]


@dataclass(frozen=True)
class Method:
    """searches: for a group's grid. weighs: columns by the energy of their inputs. compensates: for errors made before.

    The last two ask for inputs; a layer without them is rounded without these. Modes other than affine have one grid,
    which MLX finds.
    """

    searches: bool = False
    weighs: bool = False
    compensates: bool = False

    @property
    def asks_for_inputs(self) -> bool:
        return self.weighs or self.compensates

    def rounder(self, scheme: QuantConfig, dtype: mx.Dtype, inputs: Inputs | Sequence[Inputs] | None = None) -> Rounder:
        """What rounds one weight. dtype: of its scales and biases. inputs: of the layer, or of each of its experts."""
        if scheme.mode != AFFINE or not (self.searches or (self.compensates and inputs is not None)):
            return scheme.quantize
        experts = iter(inputs) if isinstance(inputs, Sequence) else None

        def round_rows(rows: mx.array) -> list[mx.array]:
            if rows.ndim == 2:
                assert not isinstance(inputs, Sequence)
                return self._round(rows, scheme, dtype, inputs)
            parts = [self._round(expert, scheme, dtype, next(experts) if experts else None) for expert in rows]
            return [mx.stack(list(part)) for part in zip(*parts, strict=True)]

        return round_rows

    def _round(self, rows: mx.array, scheme: QuantConfig, dtype: mx.Dtype, inputs: Inputs | None) -> list[mx.array]:
        weight = np.array(rows.astype(mx.float32))
        if inputs is not None and inputs.triangles is not None and self.compensates:
            return compensated(weight, scheme, dtype, inputs, searching=self.searches)
        return searched(weight, scheme, dtype, inputs.energy if inputs is not None and self.weighs else None)


METHODS = {
    "plain": Method(),
    "search": Method(searches=True),
    "weighted": Method(searches=True, weighs=True),
    "gptq": Method(compensates=True),
    "best": Method(searches=True, weighs=True, compensates=True),
}


def find_method(name: str) -> Method:
    """Raises QuantizationError for a name that is none."""
    if not isinstance(name, str) or name not in METHODS:
        raise QuantizationError(f"method is {shown(name)}; expected one of {', '.join(METHODS)}.")
    return METHODS[name]
