"""A batch in parts: on a CPU, its rows are divided among the processors."""

import functools
import itertools
from collections.abc import Callable

import mlx.core as mx

from mlx_mm.backend import device, streams
from mlx_mm.backend.blas import limited_threads
from mlx_mm.backend.native.weights import not_prepared

Features = Callable[..., mx.array]  # arrays by name -> (B, D)


def run_in_parts(function: Features, batch: dict[str, mx.array], weights: object) -> mx.array:
    """function(**batch); on a CPU without kernels of ours its rows are divided among the processors.

    On a GPU the result is on its way, so that the next batch can be prepared and submitted meanwhile. Kernels of ours
    use all processors for one batch. MLX computes on a CPU everything but matrix products on one thread, so each part
    gets a thread with a stream of its own, and its products one BLAS thread. The result is that of one call but for the
    last digits. weights: modules or other trees of arrays that the function uses; parts need them evaluated first,
    because only one thread may evaluate them.
    """
    rows = _rows(batch)
    parts = min(rows, device.processors())
    if parts < 2 or not _divided():
        return _run_whole(function, batch, weights)
    return _run_pieces(function, batch, weights, [rows * part // parts for part in range(parts + 1)])


def run_row_by_row(function: Features, batch: dict[str, mx.array], weights: object) -> mx.array:
    """The same, but on a CPU to the last bit a row's result does not depend on its neighbours: it is computed alone,
    or by kernels that compute each row in the same order.

    A GPU computes one batch, whose rows differ from those of another in their last digits.
    """
    if not _divided():
        return _run_whole(function, batch, weights)
    return _run_pieces(function, batch, weights, list(range(_rows(batch) + 1)))


def _run_whole(function: Features, batch: dict[str, mx.array], weights: object) -> mx.array:
    def run() -> mx.array:
        result = function(**batch)
        (mx.eval if device.on_cpu() else mx.async_eval)(result)
        return result

    with streams.computing():
        mx.eval(batch, not_prepared(weights))  # and no longer held: the first run packs them, and frees its own
        return streams.compute(run)


def _divided() -> bool:
    return device.on_cpu() and not device.has_kernels()


def _run_pieces(function: Features, batch: dict[str, mx.array], weights: object, bounds: list[int]) -> mx.array:
    """The rows between two bounds at a time, in as many threads as there are processors."""

    def run(start: int, end: int) -> mx.array:
        result = function(**_piece(batch, start, end))
        mx.eval(result)
        return result

    with streams.computing():
        mx.eval(batch, weights)
        streams.finish()  # a step of an answer may still run; its products have all threads
        with limited_threads(1):
            pieces = streams.compute_parts([functools.partial(run, *bound) for bound in itertools.pairwise(bounds)])
        result = mx.concatenate(pieces)
        mx.eval(result)
    return result


def _piece(batch: dict[str, mx.array], start: int, end: int) -> dict[str, mx.array]:
    return {name: array[start:end] for name, array in batch.items()}


def _rows(batch: dict[str, mx.array]) -> int:
    return next(iter(batch.values())).shape[0]
