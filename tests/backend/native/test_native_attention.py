"""The attention kernel against float64, and which bits may depend on what."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import pytest

from mlx_mm.backend.native import calls
from mlx_mm.backend.native.calls import Floats, Mask

TOLERANCE = 2e-6  # of means of normal numbers
MASKED = -1e30
BLOCK = 256  # keys that the kernel takes at a time

Doubles = npt.NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def plainly(q: Floats, k: Floats, v: Floats, mask: Mask | str, scale: float) -> Doubles:
    shared = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, shared, axis=1) for x in (k, v))
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) * scale
    length, keys = scores.shape[-2:]
    if isinstance(mask, str):
        mask = np.tri(length, keys, keys - length, dtype=bool)
    if mask is not None:
        scores = np.where(mask, scores, MASKED) if mask.dtype == np.bool_ else scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights @ v.astype(np.float64) / weights.sum(axis=-1, keepdims=True)


def error(kernels: ctypes.CDLL, q: Floats, k: Floats, v: Floats, mask: Mask | str) -> float:
    scale = q.shape[-1] ** -0.5
    return float(
        np.abs(calls.attention(kernels, q, k, v, scale=scale, mask=mask) - plainly(q, k, v, mask, scale)).max()
    )


# Heads, key heads, queries, keys, width, width of values.
SHAPES = (
    (1, 1, 1, 1, 1, 1),
    (2, 2, 7, 7, 24, 24),
    (3, 1, 5, 9, 33, 17),
    (2, 2, 13, BLOCK + 1, 72, 40),
    (4, 2, 3, BLOCK, 96, 96),
    (2, 1, 6, 2 * BLOCK + 45, 16, 130),
    (8, 1, 1, 300, 128, 96),
    (1, 1, 45, 300, 104, 64),
    (2, 2, 40, 3, 6, 5),
)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_mask(kernels: ctypes.CDLL, shape: tuple[int, ...]) -> None:
    heads, kv_heads, length, keys, width, value_width = shape
    batch = 2
    q, k = draw(batch, heads, length, width), draw(batch, kv_heads, keys, width, seed=1)
    v = draw(batch, kv_heads, keys, value_width, seed=2)
    assert error(kernels, q, k, v, None) < TOLERANCE
    assert error(kernels, q, k, v, "causal") < TOLERANCE
    random = np.random.default_rng(1)
    for sizes in ((1, 1, 1, keys), (batch, 1, 1, keys), (1, heads, length, keys), (batch, 1, length, 1), (1, 1, 1, 1),
                  (batch, heads, length, keys)):  # fmt: skip
        kept = random.random(sizes) < 0.6
        assert error(kernels, q, k, v, kept) < TOLERANCE
        kept[..., 0] = True
        assert error(kernels, q, k, v, random.standard_normal(sizes, dtype=np.float32)) < TOLERANCE
        for hidden in (-100, MASKED, -np.inf):
            assert error(kernels, q, k, v, np.where(kept, 0, hidden).astype(np.float32)) < TOLERANCE
    backwards = random.standard_normal((length, keys), dtype=np.float32)[:, ::-1]  # a stride below 0
    assert error(kernels, q, k, v, backwards) < TOLERANCE
    assert error(kernels, q, k, v, backwards > 0) < TOLERANCE


@pytest.mark.parametrize("width", [2, 3, 12, 31, 47, 65, 129])
def test_heads_beside_each_other(kernels: ctypes.CDLL, width: int) -> None:
    fused = draw(2, 21, 3, 3, width)
    q, k, v = (fused[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    assert error(kernels, q, k, v, "causal") < TOLERANCE
    assert error(kernels, q[:, :, ::2], k, v[:, :, :, ::-1], None) < TOLERANCE


def test_wrong_variants_are_seen(kernels: ctypes.CDLL) -> None:
    q, k, v = (draw(1, 2, 20, 32, seed=seed) for seed in range(3))
    right = calls.attention(kernels, q, k, v, scale=0.2, mask="causal")
    for scale, offset in ((1.0, 0), (0.2, 1), (0.2, -1)):
        wrong = plainly(q, k, v, np.tri(20, 20, offset, dtype=bool), scale)
        assert np.abs(right - wrong).max() > 0.1
    swapped = plainly(q[:, ::-1], k, v, "causal", 0.2)[:, ::-1]
    assert np.abs(right - swapped).max() > 0.1


def test_windows_with_masks_of_their_own(kernels: ctypes.CDLL) -> None:
    q, k, v = (draw(12, 4, 64, 24, seed=seed) for seed in range(3))
    bias = draw(1, 4, 64, 64)
    moved = np.where(draw(12, 1, 64, 64) > 0.5, np.float32(-100), np.float32(0))
    moved[..., np.arange(64), np.arange(64)] = 0
    assert error(kernels, q, k, v, bias) < TOLERANCE
    assert error(kernels, q, k, v, bias + moved) < TOLERANCE


@pytest.mark.parametrize("mask", [None, "causal", "bias"])
def test_bits_of_a_query_are_its_own(kernels: ctypes.CDLL, mask: Mask | str) -> None:
    q, k, v = draw(3, 4, 150, 20), draw(3, 2, 600, 20, seed=1), draw(3, 2, 600, 48)
    bias = draw(3, 4, 150, 600)

    def attend(items: slice, rows: slice, threads: int) -> Floats:
        kernels.mm_set_threads(threads)
        chosen = bias[items, :, rows] if mask == "bias" else mask
        last = rows.stop + 450 if mask == "causal" else 600  # so that the last query sees the last key
        keys, values = k[items, :, :last], v[items, :, :last]
        return calls.attention(kernels, q[items, :, rows], keys, values, scale=0.3, mask=chosen)

    whole = attend(slice(0, 3), slice(0, 150), 1)
    for threads in (2, 3, 16):
        assert np.array_equal(attend(slice(0, 3), slice(0, 150), threads), whole)
        assert np.array_equal(attend(slice(1, 2), slice(0, 150), threads), whole[1:2])
        for first, end in ((0, 150), (149, 150), (0, 1), (5, 18), (77, 80)):
            alone = attend(slice(2, 3), slice(first, end), threads)
            assert np.array_equal(alone, whole[2:3, :, first:end])


@pytest.mark.parametrize("length", [1, 5, 40])
def test_hidden_keys_at_the_end_change_no_bit(kernels: ctypes.CDLL, length: int) -> None:
    q, k, v = draw(1, 4, length, 24), draw(1, 2, 1100, 24, seed=1), draw(1, 2, 1100, 24, seed=2)
    for keys, padded in ((1, 2), (7, 40), (196, 200), (196, 1100), (BLOCK, 2 * BLOCK + 1), (700, 701)):
        bare = calls.attention(kernels, q, k[:, :, :keys], v[:, :, :keys], scale=0.2, mask=None)
        seen = np.arange(padded)[None, None, None] < keys
        for mask in (seen, np.where(seen, 0, -np.inf).astype(np.float32), np.where(seen, 0, MASKED).astype(np.float32)):
            for threads in (1, 4):
                kernels.mm_set_threads(threads)
                found = calls.attention(kernels, q, k[:, :, :padded], v[:, :, :padded], scale=0.2, mask=mask)
                assert np.array_equal(found, bare)


def test_each_item_of_a_batch_hides_keys_of_its_own(kernels: ctypes.CDLL) -> None:
    """One hides nothing, one its end, one keys in between, one its beginning: each as if it were alone."""
    length = BLOCK + 20
    q, k, v = (draw(4, 2, length, 16, seed=seed) for seed in range(3))
    mask = np.ones((4, 1, 1, length), bool)
    mask[1, ..., 31:] = mask[2, ..., 7:BLOCK] = mask[3, ..., :9] = False
    together = calls.attention(kernels, q, k, v, scale=0.25, mask=mask)
    np.testing.assert_allclose(together, plainly(q, k, v, mask, 0.25), atol=TOLERANCE)
    for item in range(4):
        own = slice(item, item + 1)
        alone = calls.attention(kernels, q[own], k[own], v[own], scale=0.25, mask=mask[own])
        np.testing.assert_array_equal(together[own], alone)
    np.testing.assert_array_equal(together[:1], calls.attention(kernels, q[:1], k[:1], v[:1], scale=0.25, mask=None))
    # What a mask says that is read only at its end, or not at all, is seen.
    assert np.abs(together[2] - plainly(q, k, v, np.ones((1, 1, 1, length), bool), 0.25)[2]).max() > 0.01


def test_queries_without_a_key(kernels: ctypes.CDLL) -> None:
    q, k, v = draw(1, 2, 6, 8), draw(1, 2, 300, 8, seed=1), draw(1, 2, 300, 8, seed=2)
    mean = v.astype(np.float64).mean(axis=2, keepdims=True)
    hidden = np.zeros((1, 1, 6, 300), bool)
    hidden[:, :, 0] = True
    found = calls.attention(kernels, q, k, v, scale=1, mask=hidden)
    assert np.abs(found[:, :, 1:] - mean).max() < TOLERANCE
    assert np.abs(found[:, :, 0] - mean[:, :, 0]).max() > 0.1
    more = draw(1, 2, 310, 8)  # the first ten see nothing
    assert np.abs(calls.attention(kernels, more, k, v, scale=1, mask="causal")[:, :, :10] - mean).max() < TOLERANCE
    nothing = np.where(hidden, 0, -np.inf).astype(np.float32)
    assert np.isnan(calls.attention(kernels, q, k, v, scale=1, mask=nothing)[:, :, 1:]).all()


def test_scores_of_every_size(kernels: ctypes.CDLL) -> None:
    q, k, v = draw(1, 1, 9, 8), draw(1, 1, 300, 8, seed=1), draw(1, 1, 300, 8, seed=2)
    sharp = calls.attention(kernels, q, k, v, scale=1e4, mask=None)  # one key has all the weight
    best = (q[0, 0] @ k[0, 0].T).argmax(axis=-1)
    assert np.abs(sharp[0, 0] - v[0, 0][best]).max() < TOLERANCE
    assert (
        np.abs(calls.attention(kernels, q, k, v, scale=0, mask=None) - v.mean(axis=2, keepdims=True)).max() < TOLERANCE
    )
    steps = np.linspace(0, -120, 300, dtype=np.float32)[::-1].copy()  # each block has a greater maximum than the last
    assert error(kernels, q, k, v, steps) < TOLERANCE


def test_nan_stays_where_it_is(kernels: ctypes.CDLL) -> None:
    q, k, v = draw(2, 4, 20, 12), draw(2, 2, 300, 12, seed=1), draw(2, 2, 300, 12, seed=2)
    whole = calls.attention(kernels, q, k, v, scale=0.3, mask=None)
    for bad in (np.nan, np.inf):
        q[1, 2, 7, 3] = bad
        found = calls.attention(kernels, q, k, v, scale=0.3, mask=None)
        assert np.isnan(found[1, 2, 7]).all()
        found[1, 2, 7] = whole[1, 2, 7]
        assert np.array_equal(found, whole)
    k[0, 1, 280, 5] = np.nan
    found = calls.attention(kernels, q, k, v, scale=0.3, mask=None)
    assert np.isnan(found[0, 2:]).all()
    assert np.array_equal(found[0, :2], whole[0, :2])


def test_no_keys_are_refused(kernels: ctypes.CDLL) -> None:
    empty = np.empty((1, 2, 0, 8), np.float32)
    with pytest.raises(calls.KernelError):
        calls.attention(kernels, draw(1, 2, 3, 8), empty, empty, scale=1, mask=None)
