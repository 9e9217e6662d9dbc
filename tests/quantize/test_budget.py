"""Dealing bits: never worse than brute force by more than a step, deterministic, and honest about what cannot be."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from mlx_mm.errors import QuantizationError
from mlx_mm.quantize.budget import Choice, Option, curve, total, within_losses, within_size
from mlx_mm.quantize.scheme import QuantConfig

Layers = Mapping[str, Sequence[Option]]
BITS = (2, 3, 4, 6, 8)


def layers_of(seed: int, count: int = 5, kinds: tuple[str, ...] = ("text",)) -> dict[str, list[Option]]:
    """Layers whose losses fall by about four with each bit, as those of rounding do, of different sizes and weights."""
    draw = np.random.RandomState(seed)
    layers = {}
    for number in range(count):
        size, weight = int(draw.randint(1, 20)) * 1000, 10.0 ** draw.uniform(-3, 0)
        kind = kinds[number % len(kinds)]
        layers[f"layer.{number}"] = [
            Option(QuantConfig(bits, 64), size * bits, {kind: weight * 4.0**-bits * draw.uniform(0.9, 1.1)})
            for bits in BITS
        ]
    return layers


def every_choice(layers: Layers) -> list[Choice]:
    return [dict(zip(layers, options, strict=True)) for options in itertools.product(*layers.values())]


def loss(choice: Choice) -> float:
    return sum(total(choice).losses.values())


@pytest.mark.parametrize("seed", range(6))
def test_as_good_as_brute_force_but_for_a_step(seed: int) -> None:
    """Against all 3,125 choices: nothing smaller loses less than ours without its last step."""
    layers = layers_of(seed)
    choices = every_choice(layers)
    sizes = sorted(total(choice).bytes for choice in choices)
    for size in (sizes[len(sizes) // 4], sizes[len(sizes) // 2], sizes[-len(sizes) // 8]):
        got = within_size(layers, size)
        best = min(loss(choice) for choice in choices if total(choice).bytes <= size)
        assert total(got).bytes <= size
        largest = max(option.bytes for options in layers.values() for option in options)
        less = min((loss(choice) for choice in choices if total(choice).bytes <= size - largest), default=np.inf)
        assert best <= loss(got) <= max(less, best)
        alike = min(
            (loss(choice) for bits in BITS if total(choice := all_of(layers, bits)).bytes <= size), default=np.inf
        )
        assert loss(got) <= alike * (1 + 1e-9)  # as many bits for every layer is one of the choices


def all_of(layers: Layers, bits: int) -> Choice:
    return {path: next(o for o in options if o.scheme and o.scheme.bits == bits) for path, options in layers.items()}


@pytest.mark.parametrize("seed", range(6))
def test_smallest_within_a_loss(seed: int) -> None:
    layers = layers_of(seed)
    choices = every_choice(layers)
    for bits in (3, 4, 6):
        limit = loss(all_of(layers, bits))
        got = within_losses(layers, {"text": limit})
        assert loss(got) <= limit
        assert total(got).bytes <= total(all_of(layers, bits)).bytes
        best = min(total(choice).bytes for choice in choices if loss(choice) <= limit)
        assert total(got).bytes <= best + max(options[-1].bytes - options[0].bytes for options in layers.values())
        for path, option in got.items():  # no layer has more than it needs
            smaller = [o for o in layers[path] if o.bytes < option.bytes]
            assert all(loss({**got, path: o}) > limit for o in smaller[-1:]) or len(smaller) == 0


def test_each_kind_has_its_own_limit() -> None:
    layers = layers_of(3, 6, ("text", "image"))
    limits = {"text": 1e-4, "image": 3e-5}
    got = within_losses(layers, limits)
    assert all(total(got).losses[kind] <= limit for kind, limit in limits.items())
    alone = within_losses({p: o for i, (p, o) in enumerate(layers.items()) if i % 2 == 0}, {"text": 1e-4})
    assert {path: got[path] for path in alone} == alone  # what images need costs texts nothing


def test_what_lies_above_the_hull_is_no_step() -> None:
    options = [Option(QuantConfig(b, 64), b, {"text": x}) for b, x in ((2, 1.0), (3, 0.9), (4, 0.1), (8, 0.0))]
    assert [point.bytes for point in curve({"a": options})] == [2, 4, 8]


def test_a_curve_falls() -> None:
    points = curve(layers_of(1, 40), rest=500)
    assert len(points) <= 61
    assert all(a.bytes < b.bytes and a.losses["text"] > b.losses["text"] for a, b in itertools.pairwise(points))
    assert points[0].bytes == 500 + total(all_of(layers_of(1, 40), 2)).bytes
    assert points[-1].bytes == 500 + total(all_of(layers_of(1, 40), 8)).bytes


def test_the_same_every_time_and_in_any_order() -> None:
    layers = layers_of(2, 12)
    turned = dict(reversed([(path, list(reversed(options))) for path, options in layers.items()]))
    size = total(all_of(layers, 4)).bytes
    assert within_size(layers, size) == within_size(turned, size)


def test_impossible_targets_name_the_nearest() -> None:
    layers = layers_of(0)
    smallest, least = total(all_of(layers, 2)).bytes, loss(all_of(layers, 8))
    with pytest.raises(QuantizationError, match=rf"smallest file has {smallest / 1e3:,.1f} kB"):
        within_size(layers, smallest - 1)
    assert total(within_size(layers, smallest)).bytes == smallest
    with pytest.raises(QuantizationError, match=f"loses {least:.3g}"):
        within_losses(layers, {"text": least * 0.99})
    assert loss(within_losses(layers, {"text": least})) == least
