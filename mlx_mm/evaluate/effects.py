"""What each layer would cost in each number of bits: how much it errs, times what its errors do to the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mm.backend.streams import check_wanted, compute
from mlx_mm.checkpoint import reading
from mlx_mm.checkpoint.writing import total_bytes
from mlx_mm.evaluate.comparing import SMALL_BYTES, losses_of, some_of_each
from mlx_mm.evaluate.layers import some_rows
from mlx_mm.evaluate.outputs import prompts, results
from mlx_mm.evaluate.streamed import Streamed
from mlx_mm.load import OpenCheckpoint
from mlx_mm.models.contracts import Modality
from mlx_mm.probes import Probes, fitting
from mlx_mm.progress import Progress, progressing
from mlx_mm.quantize.budget import Option
from mlx_mm.quantize.inputs import Inputs, inputs_of
from mlx_mm.quantize.methods import Method
from mlx_mm.quantize.scheme import QuantConfig

ROWS = 256  # inputs of a layer that are tried
OUTPUTS = 256  # of its outputs
ITEMS = 24  # of each kind
TRIED_BITS = 4  # in which a whole layer is rounded to see what its errors do

Schemes = Mapping[str, Sequence[QuantConfig]]


@dataclass
class _Errors:
    """Squares of errors of layers, by path and scheme, as inputs come. plain: of plain rounding in TRIED_BITS."""

    schemes: Schemes
    method: Method
    squares: dict[str, dict[QuantConfig, float]] = field(default_factory=dict)
    plain: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, float] = field(default_factory=dict)
    reached: dict[str, set[Modality]] = field(default_factory=dict)

    def look(self, now: list[Modality], path: str, layer: nn.Module, x: mx.array, chosen: mx.array | None) -> nn.Module:
        if path in self.schemes and now[-1] not in self.reached.setdefault(path, set()):
            check_wanted()
            self.reached[path].add(now[-1])
            self._add(path, *_sampled(layer, np.asarray(x), None if chosen is None else np.asarray(chosen)))
        return layer

    def _add(self, path: str, weight: mx.array, inputs: np.ndarray | None) -> None:
        """weight: (out, in) of some outputs. inputs: (N, in), None of a table."""
        energy = None if inputs is None else Inputs(inputs_of(inputs, None).energy)
        rows = None if inputs is None else mx.array(inputs)
        self.outputs[path] = self.outputs.get(path, 0.0) + _squares(weight, rows)
        tried = tried_scheme(self.schemes[path])
        self.plain[path] = self.plain.get(path, 0.0) + _error(weight, tried, tried.quantize(weight), rows)
        of_layer = self.squares.setdefault(path, {})
        for scheme in self.schemes[path]:
            parts = self.method.rounder(scheme, mx.float16, energy)(weight)
            of_layer[scheme] = of_layer.get(scheme, 0.0) + _error(weight, scheme, parts, rows)


def tried_scheme(schemes: Sequence[QuantConfig]) -> QuantConfig:
    """One of them."""
    return min(schemes, key=lambda scheme: (abs(scheme.bits - TRIED_BITS), -scheme.group_size))


def layer_options(
    source: OpenCheckpoint,
    schemes: Schemes,
    sizes: Mapping[str, tuple[tuple[int, ...], mx.Dtype]],
    method: Method,
    probes: Probes,
    progress: Progress = False,
) -> dict[str, list[Option]]:
    """What each layer takes and costs in each scheme, tried on some of the items that are rounded with.

    schemes: those that come into question, by path. sizes: the shape of each weight and the dtype of its scales. A
    layer's own error in a scheme is measured on some of its inputs and outputs, rounded as `method` does without
    compensation. What its errors do is measured once: the whole layer is rounded plainly, alone, and the model run.
    Both together say what it costs in any scheme, since what a result loses grows with the square of an error. Of
    sources above 2 GB, which would be read once for each layer, half the square of its relative error is taken instead.
    Layers that no input reaches are left out.
    """
    used = some_of_each(fitting(probes, source).halves()[0], ITEMS)
    small = reading.Checkpoint(source.folder).num_bytes <= SMALL_BYTES
    streamed = Streamed(source, keep=small)
    task = prompts(used, streamed.model, source.processor())
    errors = _Errors(schemes, method)
    now: list[Modality] = []
    streamed.look = partial(errors.look, now)
    given = results(streamed.model, task, now.append)
    streamed.look = None
    options = {}
    with progressing(progress, len(errors.reached), "weighing", "layer") as advance:
        for path, reached in errors.reached.items():
            tried = tried_scheme(schemes[path])
            if small:
                part = {kind: task.batches[kind] for kind in task.batches if kind in reached}
                rounded = compute(partial(_rounded, streamed, path, tried))
                streamed.look = partial(_exchanged, path, rounded)
                got = results(streamed.model, dataclasses.replace(task, batches=part), lambda _modality: None)
                streamed.look = None
                effects = losses_of(streamed.model, got, {kind: given[kind] for kind in got})
            else:
                relative = errors.plain[path] / errors.outputs[path] / 2 if errors.outputs[path] else 0.0
                effects = {str(kind): relative for kind in sorted(reached)}
            shape, dtype = sizes[path]
            scale = 1 / errors.plain[path] if errors.plain[path] else 0.0
            options[path] = [
                Option(
                    scheme,
                    total_bytes(scheme.sizes(shape, dtype)),
                    {kind: effect * scale * errors.squares[path][scheme] for kind, effect in effects.items()},
                )
                for scheme in schemes[path]
            ]
            advance(1)
    return options


def _rounded(streamed: Streamed, path: str, scheme: QuantConfig) -> nn.Module:
    rounded: nn.Module = streamed.take(path).to_quantized(**dataclasses.asdict(scheme))
    mx.eval(rounded.parameters())
    return rounded


def _exchanged(which: str, rounded: nn.Module, path: str, layer: nn.Module, *_: object) -> nn.Module:
    return rounded if path == which else layer


def _sampled(layer: nn.Module, x: np.ndarray, chosen: np.ndarray | None) -> tuple[mx.array, np.ndarray | None]:
    """Some rows (M, in) of a layer's weight, or of the expert that is chosen most, and the inputs (N, in) to them; of
    a table the rows that are looked up, and None."""
    weight: mx.array = layer.weight
    if not np.issubdtype(x.dtype, np.floating):
        return weight[mx.array(some_rows(np.unique(x), OUTPUTS))].astype(mx.float32), None
    inputs = x.reshape(-1, x.shape[-1])
    if chosen is not None:
        numbers = chosen.reshape(-1)
        expert = int(np.bincount(numbers).argmax())
        inputs = np.repeat(inputs, len(numbers) // len(inputs), axis=0)[numbers == expert]
        weight = weight[expert]
    outputs = mx.array(some_rows(np.arange(weight.shape[0]), OUTPUTS))
    return weight[outputs].astype(mx.float32), some_rows(inputs, ROWS).astype(np.float32)


def _error(weight: mx.array, scheme: QuantConfig, parts: list[mx.array], rows: mx.array | None) -> float:
    packed, scales, *biases = parts
    got = mx.dequantize(
        packed,
        scales.astype(mx.float32),
        biases[0].astype(mx.float32),
        scheme.group_size,
        scheme.bits,
        scheme.mode,
    )
    return _squares(got - weight, rows)


def _squares(weight: mx.array, rows: mx.array | None) -> float:
    return float(mx.square(weight if rows is None else rows @ weight.T).sum().item())  # type: ignore[arg-type]
