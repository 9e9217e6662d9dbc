"""Conversions to a target: bits are dealt, the same every time, and what is measured is what was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from comparing import LONG
from PIL import Image

from mlx_mm import convert, load
from mlx_mm.cli.curves import draw
from mlx_mm.errors import QuantizationError
from mlx_mm.evaluate import effects

Tiny = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore:.* longer than")  # the tiny models have room for 16 tokens


def test_a_size_is_dealt_out(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    """Other bits for other layers, in the files and in config.json, and better than the same for all in that size."""
    source = tiny_checkpoint("siglip2")
    plain = convert(source, tmp_path / "plain", check=True)
    dealt = convert(source, tmp_path / "dealt", target_size=plain.bytes, check=True)
    assert 0.97 * plain.bytes < dealt.bytes <= plain.bytes
    assert plain.cost is not None
    assert dealt.cost is not None
    assert sum(dealt.cost.losses().values()) < 0.8 * sum(plain.cost.losses().values())
    schemes = {choice.path: choice.scheme for choice in dealt.choices if choice.scheme is not None}
    assert len({scheme.bits for scheme in schemes.values()}) > 2
    model, _ = load(tmp_path / "dealt", lazy=True)
    layers = dict(model.named_modules())
    record = json.loads((tmp_path / "dealt/conversion.json").read_text())
    assert record["target"] == {"target_size": plain.bytes}
    for path, scheme in schemes.items():
        assert (
            layers[path]["scales"].shape[-1] * scheme.group_size == layers[path]["weight"].shape[-1] * 32 // scheme.bits
        )
        assert record["layers"].get(path, record["quantization"])["bits"] == scheme.bits
    sizes = [point.bytes for point in dealt.curve]
    assert sizes == sorted(sizes)
    assert sizes[0] < dealt.bytes < sizes[-1]
    assert {*dealt.curve[0].losses} == {"text", "image"}
    smallest = convert(source, tmp_path / "two", bits=2, group_size=64).bytes
    with pytest.raises(QuantizationError, match="the smallest file has"):
        convert(source, tmp_path / "none", target_size=smallest - 100)
    assert not (tmp_path / "none").exists()


@LONG[0]
@LONG[1]
def test_the_same_every_time(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    source = tiny_checkpoint("metaclip_2")
    for name in "ab":
        convert(source, tmp_path / name, target_cosine=0.995, group_size=32)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_a_recipe_excludes_and_decides(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    """What a recipe leaves as it is stays, what it gives bits of its own has them; the rest is dealt out."""
    source = tiny_checkpoint("siglip2")
    report = convert(
        source, tmp_path / "out", target_cosine=0.99, recipe={"@image": False, "*.fc1": {"bits": 3, "group_size": 32}}
    )
    bits = {choice.path: choice.scheme and choice.scheme.bits for choice in report.choices}
    assert all(b is None for path, b in bits.items() if path.startswith("vision_model"))
    assert {b for path, b in bits.items() if path.startswith("text") and path.endswith("fc1")} == {3}
    with pytest.raises(QuantizationError, match="gives each layer its bits, so a target has none to deal out"):
        convert(source, tmp_path / "none", target_cosine=0.99, recipe="all-4")


@LONG[0]
@LONG[1]
def test_models_too_large_to_exchange_single_layers(
    tiny_checkpoint: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Effects are taken from layers' own errors, and what is measured still meets the target."""
    monkeypatch.setattr(effects, "SMALL_BYTES", 0)
    report = convert(tiny_checkpoint("siglip2"), tmp_path / "out", target_cosine=0.998, check=True)
    assert report.cost is not None
    assert 0.2 * 0.002 < max(report.cost.losses().values()) <= 0.002


@pytest.mark.parametrize(
    "recipe", ["siglip2-classifier", *(pytest.param(name, marks=LONG) for name in ("glm46v", "glm4v_moe"))]
)
def test_divergence_of_answers_and_of_scores(recipe: str, tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    source = tiny_checkpoint(recipe)
    four = convert(source, tmp_path / "four", check=True)
    assert four.cost is not None
    most = max(four.cost.losses().values()) / 4
    report = convert(source, tmp_path / "out", target_kl=most, check=True)
    assert report.cost is not None
    assert max(report.cost.losses().values()) <= most
    with pytest.raises(QuantizationError, match="expected target_kl or target_size"):
        convert(source, tmp_path / "none", target_cosine=0.9)


def test_what_does_not_go_with_a_target(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip2")
    for given in ({"bits": 8}, {"bits": None}, {"mode": "mxfp4"}):
        with pytest.raises(QuantizationError, match="expected neither bits nor mode"):
            convert(source, tmp_path / "out", target_size="1MB", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG) for name in ("emoji-siglip2", "sounds-clap")])
def test_the_goals_of_trained_models(name: str, tmp_path: Path) -> None:
    """0.999 is smaller than uniform 8 bit, the size of uniform 4 bit loses less than that, and 3 bit mixed at the size
    of 4 bit in groups of 32 loses no more."""
    eight = convert(name, tmp_path / "eight", bits=8, method="plain")
    assert convert(name, tmp_path / "999", target_cosine=0.999, method="search", check=True).bytes < eight.bytes
    for group_size in (64, 32):
        four = convert(name, tmp_path / f"four-{group_size}", group_size=group_size, method="search", check=True)
        dealt = convert(name, tmp_path / f"dealt-{group_size}", target_size=four.bytes, method="search", check=True)
        assert four.cost is not None
        assert dealt.cost is not None
        assert dealt.bytes <= four.bytes
        assert sum(dealt.cost.losses().values()) < 0.7 * sum(four.cost.losses().values())


def test_a_plot_of_curves(tmp_path: Path) -> None:
    """Lines fall where losses do, each of its colour, and a dot stands where something was measured."""
    path = tmp_path / "plot.png"
    draw(path, "t", {"a": [(1.0, 0.1), (2.0, 0.001)], "b": [(1.0, 0.0), (2.0, 0.0)]}, {"a": (1.5, 0.1)})
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    blue = (pixels == [0x2F, 0x6F, 0xB0]).all(axis=-1)
    rows = [[y for y in range(60, 531) if blue[y, x]] for x in (91, 899)]
    assert min(rows[0]) < 63  # the most at the top
    assert max(rows[1]) > 527  # the least at the bottom
    assert blue[55:66, 490:501].sum() > 60
