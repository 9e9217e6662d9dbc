"""A batch in parts: on a CPU, its rows are divided among the processors."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx

from mlx_mm.backend import device
from mlx_mm.backend.blas import limited_threads


def run_in_parts(function: Callable[..., mx.array], batch: dict[str, mx.array], weights: object) -> mx.array:
    """function(**batch), evaluated; on a CPU the rows of the batch are divided among the processors.

    MLX computes everything but matrix products on one thread, so each part gets a thread with a stream of its own,
    and its products one BLAS thread. The result is that of one call but for the last digits. weights: modules or
    other trees of arrays that the function uses; they are evaluated first, because a thread cannot evaluate what
    another one began.
    """
    rows = _rows(batch)
    parts = min(rows, device.processors()) if device.on_cpu() else 1
    if parts < 2:
        result = function(**batch)
        mx.eval(result)
        return result
    return _run_pieces(function, batch, weights, [rows * part // parts for part in range(parts + 1)])


def run_row_by_row(function: Callable[..., mx.array], batch: dict[str, mx.array], weights: object) -> mx.array:
    """The same, but each row is computed alone: to the last bit, its result does not depend on its neighbours."""
    bounds = list(range(_rows(batch) + 1))
    if device.on_cpu():
        return _run_pieces(function, batch, weights, bounds)
    result = mx.concatenate([function(**_piece(batch, *pair)) for pair in itertools.pairwise(bounds)])
    mx.eval(result)
    return result


def _run_pieces(
    function: Callable[..., mx.array], batch: dict[str, mx.array], weights: object, bounds: list[int]
) -> mx.array:
    """The rows between two bounds at a time, in as many threads as there are processors."""
    mx.eval(batch, weights)

    def run(start: int, end: int) -> mx.array:
        try:
            with mx.stream(mx.new_stream(mx.cpu)):  # another thread's stream cannot be used
                result = function(**_piece(batch, start, end))
                mx.eval(result)
        finally:
            mx.clear_streams()  # one that outlives its thread can abort the process when it ends
        return result

    with limited_threads(1), ThreadPoolExecutor(device.processors()) as workers:
        results = list(workers.map(run, bounds[:-1], bounds[1:]))
    return mx.concatenate(results)


def _piece(batch: dict[str, mx.array], start: int, end: int) -> dict[str, mx.array]:
    return {name: array[start:end] for name, array in batch.items()}


def _rows(batch: dict[str, mx.array]) -> int:
    return next(iter(batch.values())).shape[0]
