"""Attention against plain NumPy under every kind of mask, and the choices that depend on the device."""

import itertools
import os
import subprocess
import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from comparing import LONG

from mlx_mm.backend import attention, blas, device, elementwise, parts
from mlx_mm.backend.blas import BlasStatus, limited_threads, use_fast_blas

pytestmark = pytest.mark.usefixtures("without_kernels")  # tests/backend/native has theirs

SCALE = 0.3


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def reference(q, k, v, keep=None, bias=None) -> np.ndarray:
    """Attention in float64; k and v are repeated for grouped heads."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) * SCALE + (0 if bias is None else bias)
    if keep is not None:
        scores = np.where(keep, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def attend(q, k, v, mask=None) -> np.ndarray:
    mask = mx.array(mask) if isinstance(mask, np.ndarray) else mask
    q, k, v = map(mx.array, (q, k, v))
    return np.array(attention.scaled_dot_product_attention(q, k, v, scale=SCALE, mask=mask))


@pytest.fixture
def qkv():
    return 3 * draw(2, 4, 7, 8), 3 * draw(2, 4, 9, 8, seed=1), draw(2, 4, 9, 8, seed=2)


@pytest.mark.parametrize("shape", [(2, 1, 1, 9), (1, 1, 7, 9), (2, 4, 7, 9), (7, 9)])
def test_boolean_masks(qkv, shape):
    keep = draw(*shape, seed=3) > -0.5
    keep[..., 0] = True
    np.testing.assert_allclose(attend(*qkv, keep), reference(*qkv, keep), rtol=0, atol=2e-6)
    assert np.abs(attend(*qkv) - reference(*qkv, keep)).max() > 1e-2


def test_additive_masks(qkv):
    bias = draw(1, 4, 7, 9, seed=4)
    np.testing.assert_allclose(attend(*qkv, bias), reference(*qkv, bias=bias), rtol=0, atol=2e-6)
    assert np.abs(attend(*qkv) - reference(*qkv, bias=bias)).max() > 1e-2


@pytest.mark.parametrize(("length", "keys"), [(7, 7), (1, 7), (3, 7)])
def test_causal_aligns_the_last_query_with_the_last_key(length, keys):
    q, k, v = draw(1, 2, length, 8), draw(1, 2, keys, 8, seed=1), draw(1, 2, keys, 8, seed=2)
    keep = np.arange(keys) <= np.arange(keys - length, keys)[:, None]
    np.testing.assert_allclose(attend(q, k, v, "causal"), reference(q, k, v, keep), rtol=0, atol=2e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_grouped_heads(groups, masked):
    q, k, v = draw(2, 4, 7, 8), draw(2, groups, 9, 8, seed=1), draw(2, groups, 9, 6, seed=2)
    keep = (draw(2, 1, 7, 9, seed=3) > -1) if masked else None
    np.testing.assert_allclose(attend(q, k, v, keep), reference(q, k, v, keep), rtol=0, atol=2e-6)


KEEP = {
    "none": None,
    "keys": draw(2, 1, 1, 9, seed=3) > -1,
    "queries and keys": draw(2, 1, 7, 9, seed=4) > -1,
    "each head": draw(2, 4, 7, 9, seed=5) > -1,
    "two axes": draw(7, 9, seed=6) > -1,
    "one axis": draw(9, seed=7) > -1,
    "bias": draw(1, 4, 7, 9, seed=8),
    "bias of keys": draw(1, 4, 1, 9, seed=9),
    "causal": "causal",
}


@pytest.mark.parametrize("kind", KEEP)
def test_blocks_of_queries_equal_one_piece(monkeypatch, kind):
    """Also when the last block is shorter. The same mask rows for every block would be far off."""
    real, real_rows, mask = attention.attend_block, attention.rows_of_mask, KEEP[kind]
    for groups, rows in itertools.product([1, 2, 4], [1, 2, 3, 6, 7]):
        q, k, v = draw(2, 4, 7, 8), draw(2, groups, 9, 8, seed=1), draw(2, groups, 9, 6, seed=2)
        monkeypatch.setattr(attention, "attend_block", real)
        monkeypatch.setattr(attention, "rows_of_mask", real_rows)
        monkeypatch.setattr(attention, "MAX_SCORES_PER_BLOCK", 10**9)
        whole = attend(q, k, v, mask)
        blocks = []
        monkeypatch.setattr(
            attention, "attend_block", lambda q, *more, blocks=blocks: blocks.append(q.shape[2]) or real(q, *more)
        )
        monkeypatch.setattr(attention, "MAX_SCORES_PER_BLOCK", rows * 2 * 4 * 9 + 5)
        np.testing.assert_allclose(attend(q, k, v, mask), whole, rtol=0, atol=1e-6)
        assert blocks == [rows] * (7 // rows) + [7 % rows] * (7 % rows > 0)
        if kind in ("queries and keys", "each head", "two axes", "bias", "causal"):
            monkeypatch.setattr(
                attention, "rows_of_mask", lambda mask, start, end, *more: mask_of_first(mask, end - start)
            )
            assert rows == 7 or np.abs(attend(q, k, v, mask) - whole).max() > 1e-2


def mask_of_first(mask, rows):
    """A wrong one: every block has the mask of the first."""
    if isinstance(mask, str):
        return mx.arange(9) <= mx.arange(2, 2 + rows)[:, None]
    return mask[..., :rows, :]


def test_one_row_of_scores_above_the_limit(monkeypatch, qkv):
    whole = attend(*qkv)
    monkeypatch.setattr(attention, "MAX_SCORES_PER_BLOCK", 1)
    np.testing.assert_allclose(attend(*qkv), whole, rtol=0, atol=4e-6)


def test_blocks_can_be_traced(monkeypatch, qkv):
    """Compiled, differentiated, and in the threads of `run_in_parts`."""
    whole = attend(*qkv)
    arrays = [mx.array(x) for x in qkv]
    monkeypatch.setattr(attention, "MAX_SCORES_PER_BLOCK", 100)

    def one(q, k, v):
        return attention.scaled_dot_product_attention(q, k, v, scale=SCALE)

    np.testing.assert_allclose(np.array(mx.compile(one)(*arrays)), whole, rtol=0, atol=4e-6)
    slope = mx.grad(lambda q, k, v: one(q, k, v).sum(), argnums=(0, 1, 2))
    blocks = slope(*arrays)
    monkeypatch.setattr(device, "use_fast_blas", lambda: BlasStatus("stand-in", False, "", 2))
    divided = parts.run_in_parts(one, dict(zip("qkv", arrays, strict=True)), nn.Module())
    np.testing.assert_allclose(np.array(divided), whole, rtol=0, atol=4e-6)
    monkeypatch.setattr(attention, "MAX_SCORES_PER_BLOCK", 1 << 22)
    for a, b in zip(blocks, slope(*arrays), strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=0, atol=1e-5)


@LONG[0]
@LONG[1]
def test_long_texts_take_little_memory():
    """2 x 8 heads over 2048 tokens are 268 MB of scores, which one piece holds several times."""
    q, k, v = (mx.random.normal((2, 2048, 8, 8), key=mx.random.key(i)).swapaxes(1, 2) for i in range(3))
    mx.eval(q, k, v)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(attention.scaled_dot_product_attention(q, k, v, scale=SCALE, mask="causal"))
    assert mx.get_peak_memory() - before < 450e6  # measured: 256e6; in one piece 1.35e9


@pytest.mark.parametrize("additive", [False, True])
def test_masked_content_changes_nothing_at_all(qkv, additive):
    q, k, v = qkv
    keep = np.arange(9)[None, None, None] < np.array([9, 5])[:, None, None, None]
    mask = np.where(keep, 0, -np.inf).astype(np.float32) if additive else keep
    before = attend(q, k, v, mask)
    k[1, :, 5:], v[1, :, 5:] = 1e3, -1e6
    np.testing.assert_array_equal(attend(q, k, v, mask), before)


def test_a_row_without_keys_is_finite(qkv):
    assert np.isfinite(attend(*qkv, np.zeros((2, 1, 1, 9), bool))).all()


def test_large_scores_do_not_overflow(qkv):
    q, k, v = qkv
    np.testing.assert_allclose(attend(100 * q, 100 * k, v), reference(100 * q, 100 * k, v), rtol=0, atol=2e-5)


def test_softmax_exponential_is_accurate_and_vanishes():
    t = np.linspace(0, 90, 200_001).astype(np.float32)
    y = np.array(elementwise.exp_of_minus(mx.array(t)))
    assert np.abs(y - np.exp(-t.astype(np.float64))).max() <= 5e-7
    assert y[0] == 1
    assert elementwise.exp_of_minus(mx.array([1e10, 1e30, np.inf])).tolist() == [0, 0, 0]


def test_half_precision_uses_mlx(qkv):
    q, k, v = (mx.array(x).astype(mx.bfloat16) for x in qkv)
    y = attention.scaled_dot_product_attention(q, k, v, scale=SCALE)
    assert y.dtype == mx.bfloat16
    np.testing.assert_allclose(np.array(y.astype(mx.float32)), reference(*qkv), rtol=0, atol=0.1)


def test_choices_on_a_cpu(monkeypatch):
    monkeypatch.setattr(device, "on_cpu", lambda: True)
    assert device.compute_dtype(mx.bfloat16) == mx.float32
    assert device.dequantize_encoders()


def test_choices_on_metal(monkeypatch, qkv):
    """With the check turned off everything is MLX's own, to the last bit."""
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    assert device.compute_dtype(mx.bfloat16) == mx.bfloat16
    assert device.compute_dtype(mx.float16) == mx.float32
    assert device.compute_dtype(mx.float16, float16=True) == mx.float16
    assert not device.dequantize_encoders()
    q, k, v = map(mx.array, qkv)
    own = mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE)
    assert mx.array_equal(attention.scaled_dot_product_attention(q, k, v, scale=SCALE), own)
    pairs = {
        elementwise.gelu_erf: nn.gelu,
        elementwise.gelu_tanh: nn.gelu_approx,
        elementwise.quick_gelu: nn.gelu_fast_approx,
        elementwise.silu: nn.silu,
    }
    for ours, theirs in pairs.items():
        assert mx.array_equal(ours(q), theirs(q))


MASKS = {
    "none": None,
    "boolean": draw(2, 1, 64, 64, seed=3) > -1,
    "additive": draw(1, 3, 64, 64, seed=4),
    "causal": "causal",
}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("width", [24, 32, 64, 72, 80, 96, 104, 128, 136])
def test_heads_on_metal_have_a_size_of_its_kernel(monkeypatch, width, mask, dtype):
    """Zeros at their end change no number; without the scale of the true size all would differ.

    OpenBLAS sums the columns at the edge of a product in another order; the next test is without it.
    """
    limit = 5e-7 if blas.use_fast_blas().active else 0.0
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    monkeypatch.setattr(attention, "FUSED_HEAD_SIZES", (64, 80, 128))  # those of the oldest MLX
    q, k, v = (mx.array(draw(2, 3, 64, width, seed=i)).astype(dtype) for i in range(3))
    mask = mx.array(MASKS[mask]) if isinstance(MASKS[mask], np.ndarray) else MASKS[mask]
    mask = mask.astype(dtype) if isinstance(mask, mx.array) and mask.dtype == mx.float32 else mask
    kernel, widths = mx.fast.scaled_dot_product_attention, []
    right = kernel(q, k, v, scale=width**-0.5, mask=mask)

    def watch(q, k, v, **options):
        widths.append((q.shape[-1], k.shape[-1], v.shape[-1]))
        return kernel(q, k, v, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", watch)
    got = attention.scaled_dot_product_attention(q, k, v, scale=width**-0.5, mask=mask)
    assert widths == [({24: 64, 32: 64, 72: 80, 96: 128, 104: 128}.get(width, width),) * 3]
    assert (got.shape, got.dtype) == (right.shape, right.dtype)
    assert mx.abs(got - right).max().item() <= limit
    wrong = attention.scaled_dot_product_attention(q, k, v, scale=widths[0][0] ** -0.5, mask=mask)
    assert widths[0][0] == width or mx.abs(wrong - right).max().item() > 1e-3


@LONG[0]
@LONG[1]
def test_zeros_at_the_end_of_heads_change_nothing_at_all():
    code = """
import mlx.core as mx
from mlx_mm.backend import attention, blas, device
assert not blas.use_fast_blas().active
device.on_cpu, attention.FUSED_HEAD_SIZES = lambda: False, (64, 80, 128)
for width in (72, 96, 104, 24, 32):
    q, k, v = (mx.random.normal((2, 3, 64, width), key=mx.random.key(seed)) for seed in range(3))
    right = mx.fast.scaled_dot_product_attention(q, k, v, scale=width**-0.5)
    got = attention.scaled_dot_product_attention(q, k, v, scale=width**-0.5)
    print(width, mx.abs(got - right).max().item())
"""
    environment = {**os.environ, "MLX_MM_BLAS": "off", "PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [word for width in (72, 96, 104, 24, 32) for word in (str(width), "0.0")]


def test_few_queries_and_large_heads_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    monkeypatch.setattr(mx, "pad", lambda *_: pytest.fail("padded"))
    for length, width in ((attention.FEW_QUERIES, 72), (20, 192), (20, 256)):
        q, k, v = (mx.array(draw(1, 2, n, width, seed=n)) for n in (length, 20, 20))
        assert attention.scaled_dot_product_attention(q, k, v, scale=1.0).shape == q.shape


def test_values_narrower_than_keys_on_metal(monkeypatch):
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    q, k, v = draw(1, 2, 20, 24), draw(1, 2, 20, 24, seed=1), draw(1, 2, 20, 12, seed=2)
    np.testing.assert_allclose(attend(q, k, v), reference(q, k, v), rtol=0, atol=2e-6)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_swiglu(monkeypatch, dtype, on_cpu):
    monkeypatch.setattr(device, "on_cpu", lambda: on_cpu)
    gate, up = (mx.array(draw(3, 40, seed=i)).astype(dtype) for i in (1, 2))
    y = elementwise.swiglu(gate, up)
    assert y.dtype == dtype
    if on_cpu:
        assert mx.array_equal(y, elementwise.silu(gate) * up)
    x = np.array(gate.astype(mx.float32), np.float64)
    expected = x / (1 + np.exp(-x)) * np.array(up.astype(mx.float32))
    tolerance = {mx.float32: 2e-6, mx.float16: 4e-3, mx.bfloat16: 4e-2}[dtype]
    np.testing.assert_allclose(np.array(y.astype(mx.float32)), expected, rtol=0, atol=tolerance)
    assert elementwise.swiglu(gate[:2, :7], up[:2, :7]).shape == (2, 7)


def test_on_cpu_follows_the_default_device():
    assert device.on_cpu() == (mx.default_device() == mx.Device(mx.cpu))


def test_prepare_is_repeatable():
    assert device.prepare() is device.prepare()


@pytest.mark.parametrize(("variable", "expected"), [("", "True"), ("MALLOC_TRIM_THRESHOLD_", "False")])
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_the_users_malloc_settings_win(variable, expected):
    code = "from mlx_mm.backend import memory; print(memory.keep_freed_memory())"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)} | (
        {variable: "1000000"} if variable else {}
    )
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == expected


def test_without_a_compiler_the_numbers_are_the_same(qkv):
    """mx.compile needs g++ on a CPU; where there is none, or it is turned off, the same formulas run op by op."""
    compiled = attend(*qkv), np.array(elementwise.gelu_tanh(mx.array(qkv[0])))
    mx.disable_compile()
    try:
        plain = attend(*qkv), np.array(elementwise.gelu_tanh(mx.array(qkv[0])))
    finally:
        mx.enable_compile()
    for a, b in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_keep_the_order_of_rows(monkeypatch, rows, threads):
    """Every row goes to one part, and comes back at its place; a part sees the same rows of each array."""
    monkeypatch.setattr(device, "use_fast_blas", lambda: BlasStatus("stand-in", False, "", threads))
    seen = []

    def function(x, y):
        seen.append(x.shape[0])
        return elementwise.gelu_tanh(x) + y[:, None]

    x, y = mx.array(draw(rows, 5)), mx.arange(rows)
    result = parts.run_in_parts(function, {"x": x, "y": y}, nn.Module())
    np.testing.assert_allclose(np.array(result), np.array(elementwise.gelu_tanh(x) + y[:, None]), rtol=0, atol=1e-6)
    assert len(seen) == min(rows, threads)
    assert sum(seen) == rows
    assert max(seen) - min(seen) <= 1


@pytest.mark.parametrize("run", [parts.run_in_parts, parts.run_row_by_row])
def test_parts_on_metal_are_one_that_is_on_its_way(monkeypatch, run):
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    calls, submitted = [], []
    monkeypatch.setattr(mx, "async_eval", submitted.append)
    result = run(lambda x: calls.append(x.shape) or x, {"x": mx.zeros((8, 2))}, nn.Module())
    assert calls == [(8, 2)]
    assert submitted == [result]


@pytest.mark.parametrize("run", [parts.run_in_parts, parts.run_row_by_row])
def test_parts_use_weights_that_were_not_evaluated(monkeypatch, run):
    """As after load(lazy=True): a part's thread could not evaluate what the main thread began."""
    monkeypatch.setattr(device, "use_fast_blas", lambda: BlasStatus("stand-in", False, "", 2))
    layer = nn.Linear(3, 5)
    x = mx.array(draw(4, 3))
    result = run(layer, {"x": x}, layer)
    expected = draw(4, 3) @ np.array(layer.weight).T + np.array(layer.bias)
    np.testing.assert_allclose(np.array(result), expected, rtol=0, atol=1e-6)


def test_an_error_in_a_part_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(device, "use_fast_blas", lambda: BlasStatus("stand-in", False, "", 2))

    def function(x):
        raise KeyError(x.shape[0])

    with pytest.raises(KeyError):
        parts.run_in_parts(function, {"x": mx.zeros((4, 2))}, nn.Module())


def test_threads_of_products_are_limited_and_given_back():
    status = use_fast_blas()
    if not status.active:
        pytest.skip("MLX keeps its own BLAS here, which has no threads to limit")
    with pytest.raises(KeyError), limited_threads(1):  # noqa: PT012 - both lines are the point
        assert blas.load_openblas().scipy_openblas_get_num_threads() == 1
        raise KeyError
    assert blas.load_openblas().scipy_openblas_get_num_threads() == status.threads
