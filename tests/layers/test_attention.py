"""The attention functions against plain NumPy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import towers_numpy as reading
from tiny import golden_weights, hashed

from mlx_mm.layers.attention import Attention, attend, attention_weights, merge_heads, split_heads


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [hashed(shape, 300 + i) * 2 for i, shape in enumerate(shapes)]


def to_mx(*values: np.ndarray) -> list[mx.array]:
    return [mx.array(value.astype(np.float32)) for value in values]


def worst(got: mx.array, right: np.ndarray) -> float:
    return float(np.abs(np.array(got, dtype=np.float64) - right).max())


def test_split_and_merge_are_inverse() -> None:
    x = mx.array(hashed((2, 5, 24), 1).astype(np.float32))
    parts = split_heads(x, 3)
    assert parts.shape == (2, 3, 5, 8)
    assert worst(parts, reading.split(np.array(x), 3)) == 0
    assert mx.array_equal(merge_heads(parts), x).item()


@pytest.mark.parametrize("width", [8, 64, 72, 96])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 9), (5, 1)])
def test_attend(width: int, queries: int, keys: int) -> None:
    q, k, v = arrays((2, 3, queries, width), (2, 3, keys, width), (2, 3, keys, width))
    weights = reading.weigh(q, k, None)
    assert worst(attend(*to_mx(q, k, v)), weights @ v) < 2e-6
    assert worst(attention_weights(*to_mx(q, k)), weights) < 1e-6


@pytest.mark.parametrize("shape", [(2, 1, 1, 6), (2, 1, 5, 6), (2, 3, 5, 6), (1, 1, 5, 6)])
def test_boolean_mask_hides_keys(shape: tuple[int, ...]) -> None:
    q, k, v = arrays((2, 3, 5, 16), (2, 3, 6, 16), (2, 3, 6, 16))
    keep = hashed(shape, 7) > -0.3
    keep[..., 0] = True
    weights = reading.weigh(q, k, np.where(keep, 0, -1e30))
    assert worst(attend(*to_mx(q, k, v), mask=mx.array(keep)), weights @ v) < 2e-6
    got = attention_weights(*to_mx(q, k), mask=mx.array(keep))
    assert worst(got, weights) < 1e-6
    assert float(mx.where(mx.array(keep), 0.0, got).max()) == 0.0
    assert worst(attend(*to_mx(q, k, v)), weights @ v) > 1e-2


def test_causal_mask() -> None:
    q, k, v = arrays((1, 2, 6, 16), (1, 2, 6, 16), (1, 2, 6, 16))
    weights = reading.weigh(q, k, np.triu(np.full((6, 6), -1e30), 1))
    assert worst(attend(*to_mx(q, k, v), mask="causal"), weights @ v) < 2e-6
    assert worst(attention_weights(*to_mx(q, k), mask="causal"), weights) < 1e-6


def test_grouped_heads() -> None:
    q, k, v = arrays((1, 4, 6, 16), (1, 2, 6, 16), (1, 2, 6, 16))
    weights = reading.weigh(q, np.repeat(k, 2, 1), None)
    assert worst(attend(*to_mx(q, k, v)), weights @ np.repeat(v, 2, 1)) < 2e-6


def layer(width: int, heads: int) -> tuple[Attention, dict[str, np.ndarray]]:
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes += [(f"{name}.weight", (width, width)), (f"{name}.bias", (width,))]
    weights = golden_weights(shapes)
    attention = Attention(width, heads, bias=True)
    attention.load_weights([(name, mx.array(value)) for name, value in weights.items()], strict=True)
    return attention, {name: value.astype(np.float64) for name, value in weights.items()}


def test_attention_layer() -> None:
    attention, w = layer(24, 3)
    (x,) = arrays((2, 5, 24))
    keep = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]) > 0
    q, k, v = (reading.split(reading.linear(w, f"{n}_proj", x), 3) for n in "qkv")
    assert worst(attention.weights(*to_mx(x)), reading.weigh(q, k, None)) < 1e-6
    for mask in (None, keep):
        right = reading.merge(reading.weigh(q, k, reading.mask_bias(mask)) @ v)
        right = reading.linear(w, "out_proj", right)
        given = None if mask is None else mx.array(mask)[:, None, None, :]
        assert worst(attention(*to_mx(x), mask=given), right) < 2e-6


def test_attention_layer_with_context() -> None:
    attention, w = layer(24, 3)
    x, context = arrays((2, 1, 24), (2, 7, 24))
    q = reading.split(reading.linear(w, "q_proj", x), 3)
    k, v = (reading.split(reading.linear(w, f"{n}_proj", context), 3) for n in "kv")
    right = reading.linear(w, "out_proj", reading.merge(reading.weigh(q, k, None) @ v))
    got = attention(*to_mx(x), context=to_mx(context)[0])
    assert worst(got, right) < 2e-6


def test_rope_turns_queries_and_keys_only() -> None:
    attention, w = layer(24, 3)
    (x,) = arrays((2, 5, 24))
    q, k, v = (reading.split(reading.linear(w, f"{n}_proj", x), 3) for n in "qkv")
    turn = np.cos(np.arange(5))[:, None]
    right = reading.linear(w, "out_proj", reading.merge(reading.weigh(q * turn, k * turn, None) @ v))
    got = attention(*to_mx(x), rope=lambda y: y * mx.array(turn.astype(np.float32)))
    assert worst(got, right) < 2e-6


def test_without_bias_has_no_bias() -> None:
    parameters = Attention(8, 2, bias=False).parameters()
    assert set(parameters) == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert all(set(part) == {"weight"} for part in parameters.values())


def test_causal_weights_with_fewer_queries_than_keys() -> None:
    """The last query sees the last key, as in `attend`."""
    q, k, v = arrays((1, 2, 3, 16), (1, 2, 7, 16), (1, 2, 7, 16))
    weights = reading.weigh(q, k, np.triu(np.full((3, 7), -1e30), 5))
    assert worst(attention_weights(*to_mx(q, k), mask="causal"), weights) < 1e-6
    assert worst(attend(*to_mx(q, k, v), mask="causal"), weights @ v) < 2e-6
