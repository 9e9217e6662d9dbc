"""A batch in parts: on a CPU, its rows are divided among the processors."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend import device
from mlx_mm.backend.blas import limited_threads


def run_in_parts(function: Callable[..., mx.array], batch: dict[str, mx.array], model: nn.Module | None) -> mx.array:
    """function(**batch), evaluated; on a CPU the rows of the batch are divided among the processors.

    MLX computes everything but matrix products on one thread, so each part gets a thread with a stream of its own,
    and its products one BLAS thread. The result is that of one call but for the last digits. model: whose weights
    the function uses; they are evaluated first, because a thread cannot evaluate what another one began. None: those
    that it really uses are found by running the first rows alone, and the others stay unread.
    """
    rows = _rows(batch)
    parts = min(rows, device.processors()) if device.on_cpu() else 1
    if parts < 2:
        result = function(**batch)
        mx.eval(result)
        return result
    return _run_pieces(function, batch, model, [rows * part // parts for part in range(parts + 1)])


def run_row_by_row(function: Callable[..., mx.array], batch: dict[str, mx.array], model: nn.Module | None) -> mx.array:
    """The same, but each row is computed alone: to the last bit, its result does not depend on its neighbours."""
    bounds = list(range(_rows(batch) + 1))
    if device.on_cpu():
        return _run_pieces(function, batch, model, bounds)
    result = mx.concatenate([function(**_piece(batch, *pair)) for pair in itertools.pairwise(bounds)])
    mx.eval(result)
    return result


def _run_pieces(
    function: Callable[..., mx.array], batch: dict[str, mx.array], model: nn.Module | None, bounds: list[int]
) -> mx.array:
    """The rows between two bounds at a time, in as many threads as there are processors."""
    mx.eval(batch, {} if model is None else model.parameters())

    def run(start: int, end: int) -> mx.array:
        try:
            with mx.stream(mx.new_stream(mx.cpu)):  # another thread's stream cannot be used
                result = function(**_piece(batch, start, end))
                mx.eval(result)
        finally:
            mx.clear_streams()  # one that outlives its thread can abort the process when it ends
        return result

    results = []
    with limited_threads(1), ThreadPoolExecutor(device.processors()) as workers:
        if model is None:
            results.append(function(**_piece(batch, *bounds[:2])))
            mx.eval(results)
            bounds = bounds[1:]
        results += workers.map(run, bounds[:-1], bounds[1:])
    return mx.concatenate(results)


def _piece(batch: dict[str, mx.array], start: int, end: int) -> dict[str, mx.array]:
    return {name: array[start:end] for name, array in batch.items()}


def _rows(batch: dict[str, mx.array]) -> int:
    return next(iter(batch.values())).shape[0]
