"""The way from MLX's arrays to NumPy views of them and back: within `run` a stack of layers computes on views.

An array of MLX is computed when it is asked for; a kernel needs its numbers now. So `run` evaluates what a stack gets
once, the layers hand NumPy arrays to each other, and the result is an array of MLX again: between two kernels there is
nothing but a call. The functions of `backend` take either kind and return the kind that they were given.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_mm.backend import device
from mlx_mm.backend.blas import limited_threads
from mlx_mm.backend.native.calls import Floats

Numbers: TypeAlias = npt.NDArray[Any]  # of the dtype that an array of MLX has
Result = TypeVar("Result", mx.array, tuple[mx.array, ...])


class _Thread(threading.local):
    """plain: it computes on arrays of MLX, whatever there are kernels for."""

    plain = False


_thread = _Thread()


class UnsettledError(Exception):
    """An array takes part in a transformation of MLX, such as a gradient, which a kernel would cut off."""


def serves(x: object) -> bool:
    """Whether the kernels compute what is asked of x: a view within `run`, or float32 numbers of MLX on a CPU."""
    return isinstance(x, np.ndarray) or (
        isinstance(x, mx.array) and x.dtype == mx.float32 and x.size > 0 and device.has_kernels() and not _thread.plain
    )


def is_view(x: object) -> bool:
    """Whether x is numbers that a kernel reads, always float32, and not an array of MLX."""
    return isinstance(x, np.ndarray)


def run(function: Callable[..., Result], x: mx.array, *rest: object) -> Result:
    """function(x, *rest), where the kernels serve with a view in place of x.

    Called with a view it is a part of a larger run. Within transformations of MLX (compile, grad, vmap), which a view
    would leave, and wherever there are no kernels the function gets x as it is.
    """
    if isinstance(x, np.ndarray) or not serves(x):
        return function(x, *rest)
    try:
        start = view(x)
        with limited_threads(1):  # a worker of OpenBLAS that waits for work would take a processor
            return cast(Result, leave(function(cast(mx.array, start), *rest)))
    except UnsettledError:
        with _plainly():
            return function(x, *rest)


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Inside, this thread uses no kernels."""
    before, _thread.plain = _thread.plain, True
    try:
        yield
    finally:
        _thread.plain = before


def view(array: mx.array | Numbers) -> Numbers:
    """The numbers of an array, which is evaluated; those of a view itself. bfloat16 is seen as uint16.

    Raises UnsettledError for an array that takes part in a transformation.
    """
    if isinstance(array, np.ndarray):
        return array
    if not is_settled(array):
        raise UnsettledError
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
        mx.eval(array)
    return np.asarray(array)


def floats(array: mx.array) -> Floats:
    """A view of the numbers as float32, a copy where they are of another dtype."""
    return view(array if array.dtype == mx.float32 or not is_settled(array) else array.astype(mx.float32))


def is_settled(array: mx.array) -> bool:
    """Whether an array is numbers and nothing else, once it is evaluated."""
    try:
        mx.eval(array)
    except ValueError:  # within compile and vmap arrays stand for others
        return False
    graph = io.StringIO()
    mx.export_to_dot(graph, array)  # within grad and jvp they remember what they were computed from
    return "rectangle" not in graph.getvalue()


def leave(result: object) -> object:
    """Views as arrays of MLX; of a tuple, each."""
    if isinstance(result, tuple):
        return tuple(leave(part) for part in result)
    return mx.array(result) if isinstance(result, np.ndarray) else result
