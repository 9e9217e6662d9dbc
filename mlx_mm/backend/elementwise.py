"""Activations and exponentials that are fast on a CPU.

MLX's elementwise functions on an x86 CPU are scalar loops around libm: exp, tanh and erf take 20 to 100 times
as long as torch's. The CPU forms below only add, multiply, divide and take absolute values, which compilers
turn into SIMD code, and `mx.compile` merges them into a few loops (with g++; they are faster without, too).

They rest on one idea: exp(t) = p(t)^n for t >= 0, with n a power of two and p a short polynomial, p(0) = 1,
whose coefficients are all positive. Nothing needs clamping: for large t the power overflows to infinity and its
reciprocal is an exact zero. `benchmarks/fit_polynomials.py` computes the coefficients (minimax fits by Lawson's
algorithm) and prints their errors. Inputs must be finite and below 1e38.
"""

import functools
import math
from collections.abc import Callable
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend import device
from mlx_mm.backend.native import calls, signatures
from mlx_mm.backend.native.library import kernels
from mlx_mm.backend.native.views import is_view, run, serves, view

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
def exp_of_minus(t: mx.array) -> mx.array:
    """exp(-t) for t >= 0, as a softmax needs it."""
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


@functools.partial(mx.compile, shapeless=True)
def _own_swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return nn.silu(gate) * up


@functools.partial(mx.compile, shapeless=True)
def _own_turn(a: mx.array, b: mx.array, cos: mx.array, sin: mx.array) -> tuple[mx.array, mx.array]:
    return a * cos - b * sin, b * cos + a * sin


def _choose(fast: Function, own: Function, x: mx.array, kind: int) -> mx.array:
    if is_view(x):
        return cast(mx.array, calls.activation(kernels(), kind, view(x)))
    if serves(x):
        return run(lambda x: _choose(fast, own, x, kind), x)
    return fast(x) if x.dtype == mx.float32 and device.on_cpu() else own(x)


def gelu_erf(x: mx.array) -> mx.array:
    """x Φ(x) with the normal distribution function Φ; keeps shape and dtype. Error on a CPU below 1e-6."""
    return _choose(_gelu_erf, nn.gelu, x, signatures.GELU_ERF)


def gelu_tanh(x: mx.array) -> mx.array:
    """x (1 + tanh(sqrt(2/π) (x + 0.044715 x^3))) / 2; keeps shape and dtype. Error on a CPU below 1e-6."""
    return _choose(_gelu_tanh, nn.gelu_approx, x, signatures.GELU_TANH)


def quick_gelu(x: mx.array) -> mx.array:
    """x σ(1.702 x); keeps shape and dtype. Error on a CPU below 1e-6."""
    return _choose(_quick_gelu, nn.gelu_fast_approx, x, signatures.QUICK_GELU)


def silu(x: mx.array) -> mx.array:
    """x σ(x); keeps shape and dtype. Error on a CPU below 1e-6."""
    return _choose(_silu, nn.silu, x, signatures.SILU)


def relu(x: mx.array) -> mx.array:
    """max(x, 0); keeps shape and dtype."""
    return _choose(nn.relu, nn.relu, x, signatures.RELU)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) · up, which a GPU computes in one go; keeps shape and dtype."""
    if is_view(gate):
        return cast(mx.array, calls.gated(kernels(), signatures.SILU, view(gate), view(up)))
    if serves(gate):
        return run(swiglu, gate, up)
    return silu(gate) * up if device.on_cpu() else _own_swiglu(gate, up)


def turn(a: mx.array, b: mx.array, cos: mx.array, sin: mx.array) -> tuple[mx.array, mx.array]:
    """(a, b) turned by an angle, number by number; cos and sin are of their dtype and broadcastable. A GPU does it in
    one go."""
    return (a * cos - b * sin, b * cos + a * sin) if device.on_cpu() else _own_turn(a, b, cos, sin)


# What a product can apply to its result before it is written.
KINDS: dict[Function, int] = {
    gelu_erf: signatures.GELU_ERF,
    gelu_tanh: signatures.GELU_TANH,
    quick_gelu: signatures.QUICK_GELU,
    silu: signatures.SILU,
    relu: signatures.RELU,
}
