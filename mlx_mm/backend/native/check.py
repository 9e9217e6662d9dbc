"""The kernels against NumPy, once when the library is loaded: a damaged or wrongly compiled one is not used."""

import ctypes
from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from mlx_mm.backend.native import calls, grids, mel, signatures
from mlx_mm.backend.native.calls import Floats

TOLERANCE = 1e-4
TOLERANCE_8_BITS = 2e-2  # of inputs that are rounded to 8 bits
WIDEST_PANEL = 1024  # rows of a weight that any set may pack together


def wrong_kernel(library: ctypes.CDLL) -> str | None:
    """The name of the first kernel whose numbers are wrong, None where all are right."""
    try:
        return _first_wrong(library)
    except calls.KernelError as error:
        return f"a kernel ({error})"


def _first_wrong(library: ctypes.CDLL) -> str | None:
    if not 0 < library.mm_panel() <= WIDEST_PANEL:
        return "mm_panel"
    for name, found, expected, tolerance in _results(library):
        scale = float(np.abs(expected).max())
        if not np.allclose(found, expected, rtol=0, atol=tolerance * scale):  # False of NaN
            return name
    return None


def _results(library: ctypes.CDLL) -> Iterator[tuple[str, Floats, Floats, float]]:
    """Kernel, its numbers, NumPy's, and how far they may be apart."""
    random = np.random.default_rng(0)
    x = random.standard_normal((5, 64), dtype=np.float32)
    plain = random.standard_normal((50, 64), dtype=np.float32)
    bias = random.standard_normal(50, dtype=np.float32)
    packed = calls.pack(library, plain)
    weight = signatures.Weight(signatures.PACKED, signatures.FLOAT32, 0, 0, 50, 64, calls.address(packed))
    yield "mm_product", calls.product(library, weight, x, bias=bias), x @ plain.T + bias, TOLERANCE

    codes = random.integers(0, 256, (50, 32), dtype=np.uint8)
    scales, biases = (random.standard_normal((50, 2), dtype=np.float32) for _ in range(2))
    four = np.stack([codes & 15, codes >> 4], axis=-1).reshape(50, 2, 32)
    full = (four * scales[..., None] + biases[..., None]).reshape(50, 64).astype(np.float32)
    places = calls.address(codes), calls.address(scales), calls.address(biases)
    quantised = signatures.Weight(signatures.AFFINE, signatures.FLOAT32, 4, 32, 50, 64, *places)
    for inputs, tolerance in (
        (signatures.INPUTS_EXACT, TOLERANCE),
        (signatures.INPUTS_FAST, TOLERANCE_8_BITS),
        (signatures.INPUTS_FINE, TOLERANCE_8_BITS),
    ):
        yield "mm_product", calls.product(library, quantised, x, inputs=inputs), x @ full.T, tolerance
    yield "mm_product", calls.product(library, quantised, x[:1], inputs=signatures.INPUTS_FINE), x[:1] @ full.T, 1e-3
    panels = [calls.pack(library, array) for array in (codes.view(np.float32), scales, biases)]
    in_place = [calls.address(array) for array in panels]
    in_panels = signatures.Weight(signatures.AFFINE_PACKED, signatures.FLOAT32, 4, 32, 50, 64, *in_place)
    fast = calls.product(library, in_panels, x, inputs=signatures.INPUTS_FAST)
    yield "mm_product", fast, x @ full.T, TOLERANCE_8_BITS
    chosen = np.array([0, 0, 0, 0, 0], np.int32)
    yield "mm_experts", calls.experts(library, quantised, 1, chosen, x), x @ full.T, TOLERANCE

    q, k, v = (random.standard_normal((1, 2, 7, 24), dtype=np.float32) for _ in range(3))
    weights = np.exp(q @ k.swapaxes(-1, -2) * 0.2)
    expected = weights @ v / weights.sum(axis=-1, keepdims=True)
    yield "mm_attention", calls.attention(library, q, k, v, scale=0.2, mask=None), expected, TOLERANCE

    centred = x - x.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    yield "mm_layer_norm", calls.layer_norm(library, x, None, None, 1e-6), normed, TOLERANCE
    square = np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)
    yield "mm_rms_norm", calls.rms_norm(library, x, x[0], 1e-6), x / square * x[0], TOLERANCE
    silu = x / (1 + np.exp(-x))
    yield "mm_activation", calls.activation(library, signatures.SILU, x), silu, TOLERANCE
    yield "mm_gated", calls.gated(library, signatures.SILU, x, x), silu * x, TOLERANCE

    angles = random.standard_normal((7, 12), dtype=np.float32)
    a, b, cos, sin = q[..., 0::2], q[..., 1::2], np.cos(angles), np.sin(angles)
    turned = np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(q.shape)
    yield "mm_rotate", calls.rotate(library, q, cos, sin, neighbours=True), turned, TOLERANCE
    cut = x.reshape(1, 4, 20, 4)[:, :, :4].reshape(1, 2, 2, 2, 2, 4).swapaxes(2, 3).reshape(1, 4, 16)
    yield "mm_patches", calls.patches(library, x.reshape(1, 4, 20, 4)[:, :, :4], 2), cut, TOLERANCE
    order = np.array([4, 0, 0, 3], np.int32)
    yield "mm_take_rows", calls.take_rows(library, x[None], order), x[None, order], TOLERANCE

    bytes_ = random.integers(-128, 128, (5, 64), dtype=np.int8)
    high, low = random.integers(-7, 8, (2, 2, 64), dtype=np.int8)  # with sums below 2^24, which float32 holds
    whole = (128.0 * high + low) @ bytes_.T.astype(np.float64)
    yield "mm_scan", calls.scan(library, bytes_, high, low), whole.astype(np.float32), 0.0

    steps = random.integers(0, 15, (5, 32)).astype(np.float32)
    steps[:, :2] = 0, 15
    on_grid, within = steps * 0.5 - 3, np.zeros((32, 32), np.float32)
    on_grid[:, 4] += 0.1
    within[4, 5] = 4
    steps[:, 5] += 1  # what column 4 errs by, four times, is nearer to the next step
    group = grids.Group(np.full(32, 1 / 32, np.float32), within)
    words, scales, biases = grids.rounder(library, [group], [(0.0, 0.0)], 0, 4, mx.float32)(on_grid)
    codes = words.view(np.uint8)
    yield "mm_round", np.stack([codes & 15, codes >> 4], -1).reshape(5, 32).astype(np.float32), steps, 0.0
    yield "mm_round", np.stack([scales, biases]), np.full((2, 5, 1), [[[0.5]], [[-3]]], np.float32), TOLERANCE * 30

    window, bank = np.hanning(65)[:-1], np.abs(random.standard_normal((33, 5)))
    frames = np.stack([x.reshape(-1)[start : start + 64] for start in range(0, 257, 24)]) * window
    power = np.abs(np.fft.rfft(frames)) ** 2 @ bank
    found = mel.mel_powers(library, bank, window, 24)(x.reshape(-1))
    yield "mm_mel", found.astype(np.float32), power.astype(np.float32), TOLERANCE
