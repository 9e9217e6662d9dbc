"""`mlx_mm convert`: its options, its report, and that nothing is left where it fails."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from command_line import ALL, EQUAL, Run, assert_one_error, embed_images
from comparing import LONG
from PIL import Image

from mlx_mm import ConvertReport
from mlx_mm.cli.convert import report_as_dict, report_table
from mlx_mm.quantize.cost import Cost, LayerCost, TokenCost, VectorCost
from mlx_mm.quantize.plan import LayerPlan
from mlx_mm.quantize.scheme import QuantConfig


def test_convert_info_embed(run: Run, model: Path, photos: Path) -> None:
    """The whole way: a Hugging Face folder, four bits, the same vectors but for rounding."""
    result = run("convert", model, "tiny-4bit")
    assert (result.status, result.err) == (0, "")
    assert "4 bit, group 64" in result.out
    assert "vision_config.intermediate_size 144 -> 192" in result.out
    assert result.out.endswith("written to tiny-4bit\n")
    described = run("info", "tiny-4bit", "--json").json
    assert described["quantization"] == {"bits": 4, "group_size": 64, "mode": "affine"}
    assert described["format"] == "mlx"
    plain = run("info", "tiny-4bit").out.splitlines()
    assert any(line.split() == ["modalities", "text,", "image"] for line in plain)
    got = np.array([row["vector"] for row in run("embed", "photos", "-m", "tiny-4bit").rows])
    cosines = (got * embed_images(model, ALL)).sum(-1)
    assert (cosines > 0.98).all()
    assert (cosines < 1 - 1e-6).any()  # quantised indeed


def test_convert_options(run: Run, model: Path, photos: Path) -> None:
    Path("recipe.json").write_text(json.dumps({"text_model.*": False, "*.fc1": {"bits": 4}}))
    more = ["--bits", "8", "--group-size", "32", "--dtype", "float16", "--recipe", "recipe.json", "--json"]
    report = run("convert", model, "out", *more).json
    assert report["out"] == "out"
    schemes = {choice["path"]: choice["scheme"] for choice in report["choices"]}
    layer = "encoder.layers.0.mlp.fc1"
    assert schemes[f"text_model.{layer}"] is None
    assert schemes[f"vision_model.{layer}"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert schemes["vision_model.head.mlp.fc2"] == {"bits": 8, "group_size": 32, "mode": "affine"}
    index = json.loads(Path("out/model.safetensors.index.json").read_text())
    assert report["bytes"] == index["metadata"]["total_size"]
    whole = run("convert", model, "float", "--bits", "none", "--json").json
    assert whole["choices"] == []
    assert whole["bytes"] == 4 * whole["parameters"]
    got = np.array([row["vector"] for row in run("embed", "photos", "-m", "float").rows])
    assert np.abs(got - embed_images(model, ALL)).max() <= EQUAL


def test_convert_measures_and_compare_does_again(run: Run, model: Path, photos: Path) -> None:
    report = run("convert", model, "out", "--method", "plain", "--json", "--check").json
    assert report["cost"]["vectors"]["image"]["items"] == 21
    values = run("compare", model, "out", "--json").json
    assert values["second"] == "out"
    assert values["vectors"] == report["cost"]["vectors"]
    own = run("compare", model, "out", "--calibrate", "photos").out.splitlines()
    assert own[2].split()[:2] == ["image", "4"]
    assert own[-1].startswith("measured on 1 text (photos), 4 pictures (photos) in ")
    Path("empty").mkdir()
    assert_one_error(run("compare", model, "out", "--calibrate", "empty"), "empty holds 0 files", "expected pictures")


@LONG[0]
@LONG[1]
def test_convert_to_a_target(run: Run, model: Path, photos: Path) -> None:
    """The curve as a table, in JSON and as a picture; the file is as large as was asked, or smaller."""
    size = run("convert", model, "four", "--json").json["bytes"]
    report = run("convert", model, "dealt", "--target-size", size, "--plot", "curve.png", "--json").json
    assert 0.97 * size < report["bytes"] <= size
    assert report["curve"][0]["bytes"] < size < report["curve"][-1]["bytes"]
    assert report["curve"][0]["losses"].keys() == {"text", "image"}
    with Image.open("curve.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (960, 600))
    lines = run("convert", model, "again", "--target-size", f"{size / 1e6 + 0.001:.3f} MB").out.splitlines()
    assert "nearest >" in "".join(lines[lines.index("expected of each size, layers rounded one at a time:") :])


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--plot", "a.png"], "--plot stands without a target"),
        (["--target-size", "1MB", "--plot", "a.jpg"], "a.jpg cannot be the plot; expected a .png file"),
        (["--target-size", "1MB", "--plot", "no/folder/a.png"], "expected a .png file in a folder that exists"),
        (["--target-size", "1 apple"], "expected bytes, or text such as '1.2GB'"),
        (["--target-size", "9GB"], "--target-size is 9,000.0 MB, and the source has"),
        (["--target-size", "9kB"], "the smallest file has"),
        (["--target-cosine", "1.5"], "expected a number between 0 and 1"),
        (["--target-kl", "0.1"], "this checkpoint gives vectors; expected"),
        (["--target-cosine", "0.9", "--bits", "8"], "expected neither bits nor mode beside it"),
        (["--target-cosine", "0.9", "--recipe", "all-8"], "a target has none to deal out"),
    ],
)
def test_targets_that_cannot_be(options: list[str], found: str, run: Run, model: Path, photos: Path) -> None:
    result = run("convert", model, "out", *options)
    assert_one_error(result, found.removeprefix("--").replace("target-size is", "target_size is"))
    assert not Path("out").exists()


def test_convert_with_a_named_recipe(run: Run, model: Path, photos: Path) -> None:
    report = run("convert", model, "out", "--recipe", "text-only", "--json").json
    assert {c["path"].split(".")[0] for c in report["choices"] if c["scheme"]} == {"text_model"}


def test_convert_overwrites_only_when_told(run: Run, model: Path, photos: Path) -> None:
    assert run("convert", model, "out").status == 0
    before = Path("out/config.json").read_bytes()
    assert_one_error(run("convert", model, "out", "--bits", "8"), "exists already", "--overwrite")
    assert Path("out/config.json").read_bytes() == before
    assert run("convert", model, "out", "--bits", "8", "--overwrite").status == 0
    assert json.loads(Path("out/config.json").read_text())["quantization"]["bits"] == 8
    assert sorted(os.listdir(photos)) == ["out", "photos"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["out", "--group-size", "48"], "--group-size is 48"),
        (["out", "--mode", "nf4"], "--mode is 'nf4'"),
        (["out", "--dtype", "float8"], "dtype is 'float8'"),
        (["out", "--recipe", "fast"], "no recipe 'fast'"),
        (["out", "--recipe", "missing.json"], "missing.json"),
        (["out", "--recipe", "bad.json"], "bad.json is not JSON"),
        (["out", "--recipe", "list.json"], "recipe"),
        (["out", "--bits", "none", "--recipe", "text-only"], "with --bits none"),
        (["bad.json"], "bad.json is a file"),
        (["photos"], "exists already"),
        (["photos", "--overwrite"], "is no checkpoint, so it is not overwritten"),
    ],
)
def test_convert_errors_leave_nothing(run: Run, model: Path, photos: Path, arguments: list[str], part: str) -> None:
    Path("bad.json").write_text("{'*': false}")
    Path("list.json").write_text("[1, 2]")
    before = sorted(str(path) for path in photos.rglob("*"))
    assert_one_error(run("convert", model, *arguments), part)
    assert sorted(str(path) for path in photos.rglob("*")) == before


def test_interrupted_conversion_leaves_nothing(
    run: Run, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, done = mx.quantize, []

    def interrupt(*arguments: Any, **options: Any) -> Any:
        if len(done) == 5:  # when some weights are written
            raise KeyboardInterrupt
        done.append(usual(*arguments, **options))
        return done[-1]

    monkeypatch.setattr(mx, "quantize", interrupt)
    result = run("convert", model, "out")
    assert (result.status, result.out) == (130, "")
    assert result.err.splitlines() == ["interrupted; nothing half-written was kept"]
    assert os.listdir(photos) == ["photos"]


COST = Cost(
    {"text": VectorCost(50, 0.99951, 0.98, 0.9), "image": VectorCost(21, 0.997, 0.9, None)},
    0.75,
    {"text": TokenCost(9, 0.01, 0.2, 1.0)},
    "answers",
    (LayerCost("text_model.head", 4, 0.12, 0.0066), LayerCost("text_model.layers.1.fc1", None, 0.1)),
    {"text": (50, "bundled"), "image": (1, "photos")},
    1.5,
)


def make_report(**changes: object) -> ConvertReport:
    four, eight = QuantConfig(4, 64), QuantConfig(8, 64)
    choices = [
        LayerPlan("text_model.layers.0.fc1", (1000, 64), four),
        LayerPlan("text_model.layers.1.fc1", (1000, 64), four),
        LayerPlan("text_model.embeddings.token_embedding", (300, 64), eight),
        LayerPlan("vision_model.embeddings.position_embedding", (16, 64), None, "the model keeps it exact"),
    ]
    values = {
        "out": Path("out"),
        "source_bytes": 4_860_000,
        "bytes": 1_234_567,
        "seconds": 1.26,
        "parameters": 1_148_224,
        "choices": choices,
        "padded": {"vision_config.intermediate_size": [4304, 4352]},
        "licence": "apache-2.0",
        "cost": COST,
    }
    return ConvertReport(**{**values, **changes})  # type: ignore[arg-type]


def test_report_table() -> None:
    lines = report_table(make_report()).split("\n")
    assert [re.split("  +", line) for line in lines[:3]] == [
        ["text_model", "4 bit, group 64", "2 layers", "128,000 weights", "fc1"],
        ["text_model", "8 bit, group 64", "1 layer", "19,200 weights", "token_embedding"],
        ["vision_model", "kept, the model keeps it exact", "1 layer", "1,024 weights", "position_embedding"],
    ]
    assert lines[3:] == [
        "vision_config.intermediate_size 4304 -> 4352: zeros added so that the group size divides it; exact",
        "1,148,224 parameters, 4.9 MB -> 1.2 MB in 1.3 s",
        "vectors  compared  cosine, mean   lowest  same nearest neighbour",
        "text           50       0.99951  0.98000                  90.0 %",
        "image          21       0.99700  0.90000                       -",
        "for 75.0 % of the texts the nearest of the others is the same",
        "distributions  compared  KL divergence, mean  highest  same first choice",
        "text                  9              0.01000  0.20000            100.0 %",
        "layers that lost most     bits  own error  effect",
        "text_model.head              4     0.1200  0.0066",
        "text_model.layers.1.fc1  float     0.1000       -",
        "measured on 50 texts (bundled), 1 picture (photos), along the source's answers in 1.5 s",
        "licence of the weights: apache-2.0",
        "written to out",
    ]


def test_report_of_a_copy_without_licence() -> None:
    text = report_table(make_report(choices=[], padded={}, licence=None, cost=None))
    assert text.startswith("nothing quantised\n")
    assert "licence of the weights: not named by the source" in text
    assert "None" not in text


def test_report_as_json() -> None:
    values = json.loads(json.dumps(report_as_dict(make_report())))
    assert values["out"] == "out"
    assert values["bytes"] == 1_234_567
    assert values["choices"][2] == {
        "path": "text_model.embeddings.token_embedding",
        "shape": [300, 64],
        "scheme": {"bits": 8, "group_size": 64, "mode": "affine"},
        "reason": "",
    }
    assert values["choices"][3]["scheme"] is None
    assert values["cost"]["vectors"]["image"]["lowest"] == 0.9
