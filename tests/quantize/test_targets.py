"""Targets: what they may be, and that conversions go on until what is measured meets them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mlx_mm.errors import QuantizationError
from mlx_mm.quantize.budget import Choice, Losses, Option, total
from mlx_mm.quantize.scheme import QuantConfig
from mlx_mm.quantize.targets import Target, find_target, reach

REST, SOURCE = 500, 10**6
LAYERS = {
    f"layer.{number}": [Option(QuantConfig(bits, 64), size * bits, {"text": 4.0**-bits}) for bits in (2, 3, 4, 5, 6, 8)]
    for number, size in enumerate((1000, 2000, 3000, 5000))
}
LEAST = 4 * 4.0**-8


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None, None), None),
        ((0.999, None, None), Target("target_cosine", 0.999)),
        ((None, None, 0.01), Target("target_kl", 0.01)),
        *(
            ((None, size, None), Target("target_size", number))
            for size, number in [
                ("1.2GB", 1_200_000_000),
                ("300 mb", 300_000_000),
                ("5k", 5000),
                (".5 T", 5 * 10**11),
                ("12345", 12345),
                (12345, 12345),
            ]
        ),
    ],
)
def test_what_targets_are(given: tuple[Any, Any, Any], expected: Target | None) -> None:
    assert find_target(*given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0.9, "1GB", None), "target_cosine and target_size were given; expected one"),
        ((1, None, None), "target_cosine is 1; expected a number between 0 and 1"),
        (("0.9", None, None), "target_cosine is '0.9'"),
        ((None, None, 0), "target_kl is 0; expected a number above 0, in nats"),
        *(
            ((None, size, None), "expected bytes, or text such as")
            for size in ("1.2 GiB", "0.2", "-1GB", "", 0, 1.5, True)
        ),
    ],
)
def test_what_is_no_target(given: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        find_target(*given)


def test_targets_are_for_kinds_of_models() -> None:
    Target("target_size", 5).check_kind("generator")
    Target("target_kl", 5).check_kind("classifier")
    with pytest.raises(QuantizationError, match="gives distributions; expected target_kl or target_size"):
        Target("target_cosine", 0.9).check_kind("generator")


class Converter:
    """Loses `factor` times what is expected."""

    def __init__(self, factor: float, *, measures: bool = True) -> None:
        self.factor, self.measures, self.choices = factor, measures, list[Choice]()

    def __call__(self, choice: Choice) -> Losses | None:
        self.choices.append(choice)
        return {kind: self.factor * loss for kind, loss in total(choice).losses.items()} if self.measures else None

    @property
    def loss(self) -> float:
        return self.factor * total(self.choices[-1]).losses["text"]


def smallest(limit: float) -> int:
    """Bytes of the smallest choice that loses so much, of all 1,296."""
    choices = itertools.product(*LAYERS.values())
    return min(sum(o.bytes for o in choice) for choice in choices if sum(o.losses["text"] for o in choice) <= limit)


@pytest.mark.parametrize("factor", [0.05, 0.5, 1.0, 3.0, 20.0])
def test_what_is_measured_meets_the_target(factor: float) -> None:
    """Whatever the expectation is worth; and it is nearly as small as it could be."""
    cosine = 1 - 100 * LEAST
    converter = Converter(factor)
    reach(Target("target_cosine", cosine), LAYERS, REST, SOURCE, converter)
    assert converter.loss <= 1 - cosine
    assert total(converter.choices[-1]).bytes <= 1.15 * smallest((1 - cosine) / factor)
    assert len(converter.choices) <= 6


def test_a_target_that_is_met_at_once_converts_once() -> None:
    converter = Converter(1.0)
    reach(Target("target_kl", LEAST * 16), LAYERS, REST, SOURCE, converter)  # 6 bits each
    assert len(converter.choices) == 1
    assert total(converter.choices[0]).losses["text"] == LEAST * 16


def test_without_measuring_what_is_expected_has_to_do() -> None:
    converter = Converter(1.0, measures=False)
    reach(Target("target_kl", LEAST), LAYERS, REST, SOURCE, converter)
    assert len(converter.choices) == 1
    with pytest.raises(QuantizationError, match=r"target_kl is 6e-05, and the nearest that was reached is 0.00007 "):
        reach(Target("target_kl", 6e-5), LAYERS, REST, SOURCE, converter)


def test_impossible_targets_name_the_nearest() -> None:
    size = total({path: options[-1] for path, options in LAYERS.items()}).bytes
    for factor in (1.0, 30.0):
        with pytest.raises(QuantizationError) as error:
            reach(Target("target_cosine", 1 - 0.9 * LEAST * factor), LAYERS, REST, SOURCE, Converter(factor))
        nearest = int((1 - LEAST * factor) * 1e5) / 1e5
        assert f"the nearest that was reached is {nearest:.5f} (of text inputs, {(size + REST) / 1e3:,.1f} kB)" in str(
            error.value
        )
    reach(Target("target_cosine", nearest), LAYERS, REST, SOURCE, Converter(30.0))  # as it says


def test_sizes() -> None:
    converter = Converter(1.0)
    smallest = total({path: options[0] for path, options in LAYERS.items()}).bytes + REST
    for size in (smallest, 44_500, 60_000):
        reach(Target("target_size", size), LAYERS, REST, SOURCE, converter)
        assert 0.9 * size < total(converter.choices[-1]).bytes + REST <= size
    with pytest.raises(QuantizationError, match=rf"smallest file has {smallest / 1e3:.1f} kB. Pass {smallest} or more"):
        reach(Target("target_size", smallest - 1), LAYERS, REST, SOURCE, converter)
    with pytest.raises(QuantizationError, match=r"target_size is 2.0 MB, and the source has 1.0 MB"):
        reach(Target("target_size", 2 * SOURCE), LAYERS, REST, SOURCE, converter)


def test_while_one_kind_loses_too_much_no_other_may_lose_more() -> None:
    """Pictures lose a tenth of what is expected, and texts twice as much."""
    layers = {
        f"{kind}.{number}": [
            Option(QuantConfig(bits, 64), 1000 * bits, {kind: 4.0**-bits}) for bits in (2, 3, 4, 5, 6, 8)
        ]
        for kind in ("text", "image")
        for number in range(4)
    }
    bits: list[tuple[int, int]] = []

    def attempt(choice: Choice) -> Losses:
        bits.append((sum(choice[f"image.{n}"].scheme.bits for n in range(4)), choice["text.0"].scheme.bits))
        losses = total(choice).losses
        return {"image": losses["image"] / 10, "text": losses["text"] * 2}

    reach(Target("target_kl", 4 * 4.0**-4), layers, REST, SOURCE, attempt)
    missed = [each for each in bits if each[1] < 5]
    assert len(missed) >= 1
    assert all(image >= missed[0][0] for image, _ in bits[: len(missed) + 1])
