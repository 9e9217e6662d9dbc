"""`mlx_mm demo`: every query finds its picture, every picture its label, and the sheet is drawn."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont, features

import mlx_mm
from mlx_mm.checkpoint import hub
from mlx_mm.cli import contact_sheet, demo, info, main
from mlx_mm.errors import OutputError

PLAN = json.loads((hub.BUNDLED / "demo.json").read_text("utf-8"))
PICTURES = {path.stem: path for path in (hub.BUNDLED / "pictures").glob("*.png")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The demo once, with a cache of its own: what it returned, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_MM_CACHE", str(folder / "cache"))
        return demo.run_demo(folder / "sheet.png"), folder


def test_plan_fits_the_pictures() -> None:
    assert len(PICTURES) >= 30
    assert len(PLAN["searches"]) >= 5
    assert len({search["language"] for search in PLAN["searches"]}) >= 4  # several languages are the point
    assert len(PLAN["classify"]) >= 2
    for search in PLAN["searches"]:
        assert search["expected"] in PICTURES
    assert not {absent["query"] for absent in PLAN["absent"]} & set(PICTURES)
    for item in PLAN["classify"]:
        assert Path(item["picture"]).stem in PICTURES
        assert item["expected"] in item["labels"]
        assert len(item["labels"]) >= 3


def test_every_query_finds_its_picture_first(run: tuple[dict[str, Any], Path]) -> None:
    found = {search["query"]: search["hits"][0]["picture"] for search in run[0]["searches"] if search["expected"]}
    assert found == {search["query"]: search["expected"] for search in PLAN["searches"]}


def test_hits_are_sorted_cosines(run: tuple[dict[str, Any], Path]) -> None:
    for search in run[0]["searches"]:
        cosines = [hit["score"] for hit in search["hits"]]
        assert len(cosines) == len({hit["picture"] for hit in search["hits"]}) == demo.BEST
        assert cosines == sorted(cosines, reverse=True)
        assert -1 <= cosines[-1] < cosines[0] <= 1


def test_tags_are_counted(run: tuple[dict[str, Any], Path]) -> None:
    """Those of the plan's two pictures among them, and nothing for what no picture shows."""
    tags = run[0]["tags"]
    assert set(tags) == {label for item in PLAN["classify"] for label in item["labels"]}
    assert tags["cat"] == 1
    assert tags["rocket"] in (1, 2)
    assert tags["tree"] == 0
    assert sum(tags.values()) <= len(tags)


def test_twins_are_found(run: tuple[dict[str, Any], Path]) -> None:
    assert run[0]["duplicates"] == {
        "identical": [["frog.png", "frog-copy.png"]],
        "same": [["mushroom.png", "mushroom-small.jpg"]],
    }
    assert run[0]["indexed"]["files"] == len(PICTURES) + 2
    assert run[0]["indexed"]["encoded"] == len(PICTURES) + 1


def test_the_result_is_plain(run: tuple[dict[str, Any], Path]) -> None:
    assert json.loads(json.dumps(run[0])) == run[0]
    assert run[0]["sheet"] == str(run[1] / "sheet.png")


def test_only_what_fits_is_shown(run: tuple[dict[str, Any], Path]) -> None:
    """The one picture, and none for what is not there, whose nearest ones are far below."""
    worst = min(search["hits"][0]["score"] for search in run[0]["searches"] if search["expected"])
    for search in run[0]["searches"]:
        assert search["fitting"] == [search["expected"]] * bool(search["expected"]), search["query"]
        assert [hit["strong"] for hit in search["hits"]] == [bool(search["expected"]), *[False] * 4]
        assert search["hits"][bool(search["expected"])]["score"] < worst
    assert [search["query"] for search in run[0]["searches"] if not search["fitting"]] == ["piano"]


def test_the_sheet_shows_a_cell_for_each_query(run: tuple[dict[str, Any], Path]) -> None:
    columns, label = contact_sheet.COLUMNS, contact_sheet.LABEL
    rows = -(-len(run[0]["searches"]) // columns)
    with Image.open(run[1] / "sheet.png") as image:
        assert image.format == "PNG"
        assert image.width in range(600, 1400)
        assert image.height == contact_sheet.HEAD + contact_sheet.ROW * rows
        pixels = np.asarray(image.convert("RGB"))
    width = pixels.shape[1] // columns
    for i, search in enumerate(run[0]["searches"]):
        top, left = contact_sheet.HEAD + i // columns * contact_sheet.ROW, i % columns * width
        cell = pixels[top + 4 : top + contact_sheet.ROW, left : left + width]
        assert (cell[:, :label] < 100).any(), f"{search['query']} is not written"
        drawn = (cell[:, label:] < 200).mean()
        assert drawn > 0.02 if search["fitting"] else drawn < 0.01, f"the pictures of {search['query']}"
    assert (pixels == 255).mean() > 0.3  # a white sheet, not a black one


def test_a_search_that_nothing_fits(tmp_path: Path) -> None:
    hits: list[demo.Hit] = [{"picture": "pizza", "score": 0.1, "strong": False}]
    searches: list[demo.Search] = [
        {"query": "x", "language": "en", "expected": "pizza", "hits": hits, "fitting": fitting}
        for fitting in ([], ["pizza"])
    ]
    contact_sheet.draw_sheet(tmp_path / "a.png", "", searches, hub.BUNDLED / "pictures", hub.BUNDLED / "fonts")
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB"))[contact_sheet.HEAD + 4 :]
    half = pixels.shape[1] // 2
    assert (pixels[:, contact_sheet.LABEL : half] == 255).all()
    assert (pixels[:, half + contact_sheet.LABEL :] < 200).any()


def test_every_letter_of_the_queries_is_in_the_fonts() -> None:
    """A letter that a font lacks is drawn as its empty box."""
    for search in PLAN["searches"]:
        file = contact_sheet.FONTS[contact_sheet.script_of(search["query"])]
        font = ImageFont.truetype(hub.BUNDLED / "fonts" / file, 20)
        missing = bytes(font.getmask("\U0010ffff"))
        assert missing
        for letter in set(search["query"]) - {" "}:
            assert bytes(font.getmask(letter)) != missing, f"{file} lacks {letter}"


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow cannot join letters")
def test_arabic_is_joined_and_without_raqm_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def drawn(name: str) -> np.ndarray:
        search: demo.Search = {"query": "بومة", "language": "ar", "expected": "owl", "hits": [], "fitting": []}
        contact_sheet.draw_sheet(tmp_path / name, "", [search], hub.BUNDLED / "pictures", hub.BUNDLED / "fonts")
        with Image.open(tmp_path / name) as image:
            return np.asarray(image.convert("L"))[:, : contact_sheet.LABEL]

    font = ImageFont.truetype(hub.BUNDLED / "fonts" / "NotoSansArabic.ttf", 20)
    assert font.getlength("بومة") < sum(map(font.getlength, "بومة"))
    joined = drawn("joined.png")
    monkeypatch.setattr(features, "check", lambda name: False)
    assert not np.array_equal(joined, drawn("explained.png"))


def test_the_conversion_is_kept(run: tuple[dict[str, Any], Path]) -> None:
    result, folder = run
    made = result["conversion"]
    assert Path(made["folder"]).parent == folder / "cache"
    described = info.describe_model(made["folder"])
    assert described["quantization"]["bits"] == made["bits"] == 4
    assert made["bytes"] < 0.45 * made["source_bytes"]  # float16 to 4.5 bits a weight, some kept
    assert sorted(os.listdir(folder)) == ["cache", "sheet.png"]
    assert sorted(os.listdir(folder / "cache")) == ["demo", "emoji-siglip2-4bit"]
    assert sorted(os.listdir(folder / "cache" / "demo")) == ["demo.mmindex", "pictures"]


def test_a_second_run_gives_the_same(
    run: tuple[dict[str, Any], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Over the first one's cache, through the command line, as JSON and as a table."""
    first, folder = run
    monkeypatch.setenv("MLX_MM_CACHE", str(folder / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--json"])
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    second = json.loads(out)
    assert second["searches"] == first["searches"]
    for what in ("duplicates", "tags"):
        assert second[what] == first[what]
    assert os.listdir(tmp_path) == ["mlx_mm-demo.png"]
    assert (tmp_path / "mlx_mm-demo.png").read_bytes() == (folder / "sheet.png").read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--out", "again.png"])
    assert stop.value.code == 0
    table = capsys.readouterr().out
    for search in first["searches"]:
        [line] = [line for line in table.splitlines() if search["query"] in re.split("  +", line)]
        assert search["expected"] in line
        assert ("nothing fits" in line) == (search["query"] == "piano")
    assert "duplicates: frog.png = frog-copy.png (identical), mushroom.png = mushroom-small.jpg (same)" in table
    assert "again.png" in table
    assert "--index" in table.splitlines()[-1]


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet", "missing/sheet.png"])
def test_a_sheet_that_cannot_be_written_is_found_first(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx_mm, "convert", lambda *_, **__: pytest.fail("converted"))
    with pytest.raises(OutputError, match="cannot be the contact sheet"):
        demo.run_demo(tmp_path / name)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLX_MM_CACHE", "~/mine")
    assert demo.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("MLX_MM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert demo.cache_folder() == tmp_path / "xdg" / "mlx_mm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert demo.cache_folder() == tmp_path / ".cache" / "mlx_mm"
    monkeypatch.setattr("sys.platform", "darwin")
    assert demo.cache_folder() == tmp_path / "Library" / "Caches" / "mlx_mm"
