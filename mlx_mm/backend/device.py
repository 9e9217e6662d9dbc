"""Every choice that depends on the device: on Metal MLX's own kernels, on a CPU what is fast there.

MLX's elementwise functions on an x86 CPU are scalar loops around libm: exp, tanh and erf take 20 to 100 times
as long as torch's. The CPU forms below only add, multiply, divide and take absolute values, which compilers
turn into SIMD code, and `mx.compile` merges them into a few loops (with g++; they are faster without, too).

They rest on one idea: exp(t) = p(t)^n for t >= 0, with n a power of two and p a short polynomial, p(0) = 1,
whose coefficients are all positive. Nothing needs clamping: for large t the power overflows to infinity and its
reciprocal is an exact zero. `benchmarks/fit_polynomials.py` computes the coefficients (minimax fits by Lawson's
algorithm) and prints their errors. Inputs must be finite and below 1e38.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.blas import BlasStatus, limited_threads, usable_cpus, use_fast_blas

Function = Callable[[mx.array], mx.array]

# exp(t) = p(t)^4: error of exp(-t) 2.5e-8, in float32 4.2e-7. For softmax: fewer squarings round less.
SOFTMAX_EXP = (
    0.2500001581425116,
    0.031248931141854088,
    0.002606349774487406,
    0.0001608572978357566,
    8.938774160451614e-06,
    1.7315245916782778e-07,
    2.7481930509513742e-08,
)
# exp(t) = p(t)^8: error of exp(-t) 5.4e-9, in float32 7.7e-7, of which GELU sees a third. Fewer loops.
EXP = (
    0.12499998644979249,
    0.00781257113777558,
    0.0003254110325391096,
    1.0242015180874745e-05,
    2.3442243013686597e-07,
    7.770440485273236e-09,
)
# 1 / erfc(t / √2) = p(t)^16: error of GELU 2.5e-7, in float32 5.0e-7.
ERFC = (
    0.04986413916744105,
    0.021157288793341417,
    0.003249330754980103,
    5.9706060277216595e-05,
    4.138808934053597e-05,
    6.332422109278916e-06,
)
TANH_SCALE = 2 * math.sqrt(2 / math.pi)
# glibc's mallopt: parameter number -> bytes (malloc.h). The second is the free memory kept for the next layer.
# The third is a count: with an arena for each thread, each would keep as much.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX = -3, -1, -8
MALLOC = {M_MMAP_THRESHOLD: 256 << 20, M_TRIM_THRESHOLD: 512 << 20, M_ARENA_MAX: 1}
MALLOC_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")

# Scores that attention computes at a time: 16 MB. A quarter leaves products of few rows, 25 to 70 % slower; twice as
# many are up to 15 % faster and take twice the memory: MLX allocates ahead, so twenty blocks or so are held at once.
SCORES = 1 << 22

# A masked score: finite, so that a row without any key gives a mean and not NaN.
MASKED = -1e30


def prepare() -> BlasStatus:
    """Get ready to run a model: on a Linux CPU the fast BLAS and memory that is used again. Cheap when repeated.

    Raises InputError if MLX_MM_BLAS has an unknown value.
    """
    if on_cpu():
        _keep_freed_memory()
    return use_fast_blas()


@functools.cache
def _keep_freed_memory() -> bool:
    """Let glibc keep freed arrays, up to MALLOC's limits, instead of returning them to the system at once.

    Without it each layer's arrays are mapped and zeroed anew: a quarter of a ViT's time. Settings that the user
    made win. Returns whether anything was set.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in MALLOC_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and all(mallopt(*setting) for setting in MALLOC.items())


def on_cpu() -> bool:
    """Whether MLX's default device is a CPU."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def compute_dtype(stored: mx.Dtype) -> mx.Dtype:
    """The dtype to compute in.

    Half-precision products are 10 to 140 times slower than float32 on a CPU. On a GPU float16 becomes float32 too:
    text towers of the CLIP kind lose accuracy in it, and bfloat16 would drop digits that the file has.
    """
    return mx.float32 if on_cpu() or stored == mx.float16 else stored


def dequantize_encoders() -> bool:
    """Whether quantised layers of an encoder are turned into float32 once, at load.

    MLX's quantised product on a CPU is a scalar loop: for 16 rows or more, float32 is 50 times faster.
    """
    return on_cpu()


def run_in_parts(function: Callable[..., mx.array], batch: dict[str, mx.array], model: nn.Module | None) -> mx.array:
    """function(**batch), evaluated; on a CPU the rows of the batch are divided among the processors.

    MLX computes everything but matrix products on one thread, so each part gets a thread with a stream of its own,
    and its products one BLAS thread. The result is that of one call but for the last digits. model: whose weights
    the function uses; they are evaluated first, because a thread cannot evaluate what another one began. None: those
    that it really uses are found by running the first rows alone, and the others stay unread.
    """
    rows = _rows(batch)
    parts = min(rows, processors()) if on_cpu() else 1
    if parts < 2:
        result = function(**batch)
        mx.eval(result)
        return result
    return _run_pieces(function, batch, model, [rows * part // parts for part in range(parts + 1)])


def run_row_by_row(function: Callable[..., mx.array], batch: dict[str, mx.array], model: nn.Module | None) -> mx.array:
    """The same, but each row is computed alone: to the last bit, its result does not depend on its neighbours."""
    bounds = list(range(_rows(batch) + 1))
    if on_cpu():
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
    with limited_threads(1), ThreadPoolExecutor(processors()) as workers:
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


def processors() -> int:
    """How many threads are worth starting."""
    return use_fast_blas().threads or usable_cpus()


def _power_of_polynomial(coefficients: tuple[float, ...], power: int, t: mx.array) -> mx.array:
    """(1 + c1 t + c2 t^2 + ...)^power, for a power of two."""
    value = coefficients[-1] * t
    for coefficient in reversed(coefficients[:-1]):
        value = (value + coefficient) * t
    value = value + 1.0
    while power > 1:
        value = value * value
        power //= 2
    return value


def _exp(t: mx.array) -> mx.array:
    """exp(t) for t >= 0; infinity where it is large."""
    return _power_of_polynomial(EXP, 8, t)


@functools.partial(mx.compile, shapeless=True)
def _exp_of_minus(t: mx.array) -> mx.array:
    return 1.0 / _power_of_polynomial(SOFTMAX_EXP, 4, t)


@functools.partial(mx.compile, shapeless=True)
def _gelu_erf(x: mx.array) -> mx.array:
    t = mx.abs(x)
    return 0.5 * (x + t) - t * 0.5 / _power_of_polynomial(ERFC, 16, t)


@functools.partial(mx.compile, shapeless=True)
def _gelu_tanh(x: mx.array) -> mx.array:
    # (1 + tanh u) / 2 = 1 - 1 / (1 + exp 2u), taken at |x|; the rest is symmetry.
    t = mx.abs(x)
    double_u = t * (TANH_SCALE + (TANH_SCALE * 0.044715) * (t * t))
    return 0.5 * (x + t) - t / (1.0 + _exp(double_u))


@functools.partial(mx.compile, shapeless=True)
def _silu(x: mx.array) -> mx.array:
    t = mx.abs(x)
    return 0.5 * (x + t) - t / (1.0 + _exp(t))


@functools.partial(mx.compile, shapeless=True)
def _quick_gelu(x: mx.array) -> mx.array:
    t = mx.abs(x)
    return 0.5 * (x + t) - t / (1.0 + _exp(1.702 * t))


def _choose(fast: Function, own: Function, x: mx.array) -> mx.array:
    return fast(x) if x.dtype == mx.float32 and on_cpu() else own(x)


def gelu_erf(x: mx.array) -> mx.array:
    """x Φ(x) with the normal distribution function Φ; keeps shape and dtype. Error on a CPU below 1e-6."""
    return _choose(_gelu_erf, nn.gelu, x)


def gelu_tanh(x: mx.array) -> mx.array:
    """x (1 + tanh(sqrt(2/π) (x + 0.044715 x^3))) / 2; keeps shape and dtype. Error on a CPU below 1e-6."""
    return _choose(_gelu_tanh, nn.gelu_approx, x)


def quick_gelu(x: mx.array) -> mx.array:
    """x σ(1.702 x); keeps shape and dtype. Error on a CPU below 1e-6."""
    return _choose(_quick_gelu, nn.gelu_fast_approx, x)


def silu(x: mx.array) -> mx.array:
    """x σ(x); keeps shape and dtype. Error on a CPU below 1e-6."""
    return _choose(_silu, nn.silu, x)


def scaled_dot_product_attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None = None
) -> mx.array:
    """softmax(q kᵀ scale + mask) v of shape (B, H, L, D).

    q is (B, H, L, D); k and v are (B, H or a divisor of H, S, D). mask is None, "causal" (the last query sees
    the last key), a boolean array (True = keep) or a float array to be added, either broadcastable to
    (B, H, L, S). A masked key weighs exactly zero; every query needs at least one key that is not masked.
    On a CPU the queries are computed in blocks, so that memory grows with S and not with L times S.
    """
    if q.dtype != mx.float32 or not on_cpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    batch, heads, length, _ = q.shape
    keys = k.shape[2]
    rows = max(1, SCORES // (batch * heads * keys))
    if rows < length:
        k, v = mx.contiguous(k), mx.contiguous(v)  # otherwise each block's product would copy them
    blocks: list[mx.array] = []
    for start in range(0, length, rows):
        end = min(start + rows, length)
        block = q[:, :, start:end]
        if blocks:
            block = mx.depends([block], blocks[-1:])[0]  # one after the other: MLX would begin many at a time
        blocks.append(_attend(block, k, v, scale, _mask_rows(mask, start, end, length, keys)))
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def _mask_rows(mask: mx.array | str | None, start: int, end: int, length: int, keys: int) -> mx.array | None:
    """The mask of the queries from `start` to `end`, out of `length`."""
    if mask is None:
        return None
    if isinstance(mask, str):
        return mx.arange(keys) <= mx.arange(keys - length + start, keys - length + end)[:, None]
    return mask if mask.ndim < 2 or mask.shape[-2] == 1 else mask[..., start:end, :]


def _attend(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """softmax(q kᵀ scale + mask) v in one piece, which holds scores of shape (B, H, L, S)."""
    batch, heads, length, width = q.shape
    groups, keys = k.shape[1], k.shape[2]
    # Grouped heads: the queries that share a head of k are rows of one product.
    q = (q * scale).reshape(batch, groups, -1, width)
    scores = (q @ k.swapaxes(-1, -2)).reshape(batch, heads, length, keys)
    if mask is not None:
        scores = mx.where(mask, scores, MASKED) if mask.dtype == mx.bool_ else scores + mask
    weights = _exp_of_minus(scores.max(axis=-1, keepdims=True) - scores)
    weights = weights.reshape(batch, groups, -1, keys)
    # Dividing after the product touches (L, D) numbers and not (L, S).
    return ((weights @ v) / weights.sum(axis=-1, keepdims=True)).reshape(batch, heads, length, -1)


@contextlib.contextmanager
def wired_memory(stream: Any) -> Iterator[None]:
    """Inside, as much of the weights as Metal recommends stays in memory, as mlx_lm has it while it generates.

    stream: what runs on it is finished before the limit is as it was.
    """
    if not mx.metal.is_available():
        yield
        return
    usual = mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
    try:
        yield
    finally:
        mx.synchronize(stream)
        mx.set_wired_limit(usual)
