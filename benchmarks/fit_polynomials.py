"""The polynomials of mlx_mm/backend/elementwise.py and native/functions.h: how they were found, and how far off.

    python benchmarks/fit_polynomials.py

exp(t), and 1 / erfc(t / √2), are written as p(t)^n for t >= 0 with p(t) = 1 + c1 t + ... Minimising the largest
error of what is finally computed is, to first order, a weighted linear problem in the coefficients. Lawson's
algorithm solves it: least squares again and again, each time heavier where the error was large.
"""

import math
from collections.abc import Callable

import numpy as np

Curve = Callable[[np.ndarray], np.ndarray]


def fit(decay: Curve, factor: Curve, power: int, degree: int, end: float) -> tuple[np.ndarray, float]:
    """Coefficients c1, c2, ... for which factor(t) p(t)^-power is nearest to factor(t) decay(t), and the error."""
    t = end * (1 - np.cos(np.linspace(0, np.pi, 4001))) / 2
    powers = np.stack([t**k for k in range(1, degree + 1)], axis=1)
    target = decay(t) ** (-1 / power) - 1
    slope = factor(t) * power * decay(t) ** (1 + 1 / power)
    scale = np.abs(powers * slope[:, None]).max(axis=0)
    importance = np.full(len(t), 1 / len(t))
    best = (np.zeros(degree), np.inf)
    for _ in range(400):
        rows = np.sqrt(importance) * slope
        solution = np.linalg.lstsq(powers / scale * rows[:, None], target * rows, rcond=None)[0] / scale
        error = np.abs((powers @ solution - target) * slope)
        if error.max() < best[1]:
            best = (solution, float(error.max()))
        importance *= error / error.max() + 1e-6
        importance /= importance.sum()
    return best


def error_in_float32(coefficients: np.ndarray, decay: Curve, factor: Curve, power: int) -> float:
    """The largest error over t in [0, 60] with every step rounded to float32."""
    t = np.linspace(0, 60, 600_001).astype(np.float32)
    value = np.zeros_like(t)
    for coefficient in coefficients[::-1].astype(np.float32):
        value = (value + coefficient) * t
    value = value + np.float32(1)
    with np.errstate(over="ignore"):
        for _ in range(int(math.log2(power))):
            value = value * value
    exact = t.astype(np.float64)
    return float(np.abs(factor(exact) * (1 / value.astype(np.float64) - decay(exact))).max())


def main() -> None:
    erfc = np.vectorize(math.erfc)
    one, half = (lambda t: np.ones_like(t)), (lambda t: t / 2)
    tables = {
        "SOFTMAX_EXP": (lambda t: np.exp(-t), one, 4, 7, 17.0),
        "EXP": (lambda t: np.exp(-t), one, 8, 6, 17.0),
        "ERFC": (lambda t: erfc(t / math.sqrt(2)), half, 16, 6, 5.5),
        "ERFC_NATIVE": (lambda t: erfc(t / math.sqrt(2)), half, 8, 8, 5.5),
    }
    for name, (decay, factor, power, degree, end) in tables.items():
        coefficients, error = fit(decay, factor, power, degree, end)
        rounded = error_in_float32(coefficients, decay, factor, power)
        print(f"# {name}: p(t)^{power}, error {error:.1e}, in float32 {rounded:.1e}")
        for coefficient in coefficients:
            print(f"    {float(coefficient)!r},")


if __name__ == "__main__":
    main()
