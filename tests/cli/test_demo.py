"""`mlx_mm demo`: every query finds its picture or sound, every question its answer, and the sheet is drawn."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from command_line import Run, assert_one_error
from comparing import LONG
from PIL import Image, ImageFont, features

import mlx_mm
from mlx_mm.checkpoint import hub
from mlx_mm.checkpoint.bundled import EACH
from mlx_mm.cli import contact_sheet, demo_run, info, main
from mlx_mm.cli.demo_run import Hit, Search

PLAN = json.loads((hub.BUNDLED / "demo.json").read_text("utf-8"))
PICTURES = {path.stem: path for path in (hub.BUNDLED / "pictures").glob("*.png")}
SOUNDS = {path.stem: path for path in (hub.BUNDLED / "sounds").glob("*.flac")}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The demo once, with a cache of its own: its JSON, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("demo")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_MM_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main(["demo", "--json", "--page", "page.html"])
    assert (stop.value.code, err.getvalue()) == (0, "")
    return json.loads(out.getvalue()), folder


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
    assert len(SOUNDS) >= 12
    assert len({search["language"] for search in PLAN["sounds"]}) >= 4
    assert {search["expected"] for search in PLAN["sounds"]} - {""} <= set(SOUNDS)
    assert "" in {search["expected"] for search in PLAN["sounds"]}
    assert len(PLAN["questions"]) >= 5
    assert all(item["expected"] and Path(item["picture"]).stem in PICTURES for item in PLAN["questions"])


def test_every_query_finds_its_picture_first(shown: tuple[dict[str, Any], Path]) -> None:
    found = {search["query"]: search["hits"][0]["name"] for search in shown[0]["searches"] if search["expected"]}
    assert found == {search["query"]: search["expected"] for search in PLAN["searches"]}


def test_every_sound_is_found_first_and_its_part(shown: tuple[dict[str, Any], Path]) -> None:
    for search in shown[0]["heard"]:
        assert search["fitting"][:1] == [search["expected"]] * bool(search["expected"]), search["query"]
        for hit in search["hits"]:
            seconds = soundfile.info(SOUNDS[hit["name"]]).duration
            assert 0 <= hit["start"] < hit["stop"] <= seconds + 0.01
            assert hit["stop"] - hit["start"] <= 10
    assert [search["query"] for search in shown[0]["heard"]] == [search["query"] for search in PLAN["sounds"]]


def test_every_question_is_answered(shown: tuple[dict[str, Any], Path]) -> None:
    for answer, item in zip(shown[0]["answers"], PLAN["questions"], strict=True):
        assert item["expected"].lower() in answer["answer"].lower(), answer
        assert answer["question"] == item["question"]
        assert 0 < answer["seconds"] < shown[0]["seconds"]


def test_hits_are_sorted_cosines(shown: tuple[dict[str, Any], Path]) -> None:
    for search in shown[0]["searches"]:
        cosines = [hit["score"] for hit in search["hits"]]
        assert len(cosines) == len({hit["name"] for hit in search["hits"]}) == demo_run.BEST
        assert cosines == sorted(cosines, reverse=True)
        assert -1 <= cosines[-1] < cosines[0] <= 1


def test_tags_are_counted(shown: tuple[dict[str, Any], Path]) -> None:
    """Those of the plan's two pictures among them, and nothing for what no picture shows."""
    tags = shown[0]["tags"]
    assert set(tags) == {label for item in PLAN["classify"] for label in item["labels"]}
    assert tags["cat"] == 1
    assert tags["rocket"] in (1, 2)
    assert tags["tree"] == 0
    assert sum(tags.values()) <= len(tags)


def test_twins_are_found(shown: tuple[dict[str, Any], Path]) -> None:
    assert shown[0]["duplicates"] == {
        "identical": [["frog.png", "frog-copy.png"]],
        "same": [["mushroom.png", "mushroom-small.jpg"]],
    }
    assert shown[0]["pictures"]["files"] == len(PICTURES) + 2
    assert shown[0]["pictures"]["encoded"] == len(PICTURES) + 1
    assert shown[0]["sounds"]["new"] == shown[0]["sounds"]["encoded"] == len(SOUNDS)


def test_only_what_fits_is_shown(shown: tuple[dict[str, Any], Path]) -> None:
    """The one picture, and none for what is not there, whose nearest ones are far below."""
    worst = min(search["hits"][0]["score"] for search in shown[0]["searches"] if search["expected"])
    for search in shown[0]["searches"]:
        assert search["fitting"] == [search["expected"]] * bool(search["expected"]), search["query"]
        assert [hit["strong"] for hit in search["hits"]] == [bool(search["expected"]), *[False] * 4]
        assert search["hits"][bool(search["expected"])]["score"] < worst
    assert [search["query"] for search in shown[0]["searches"] if not search["fitting"]] == ["piano"]


def test_the_sheet_shows_a_cell_for_each_query(shown: tuple[dict[str, Any], Path]) -> None:
    columns, label = contact_sheet.COLUMNS, contact_sheet.LABEL
    rows = -(-len(shown[0]["searches"]) // columns)
    with Image.open(shown[1] / "mlx_mm-demo.png") as image:
        assert image.format == "PNG"
        assert image.width in range(600, 1400)
        assert image.height == contact_sheet.HEAD + contact_sheet.ROW * rows
        pixels = np.asarray(image.convert("RGB"))
    width = pixels.shape[1] // columns
    for i, search in enumerate(shown[0]["searches"]):
        top, left = contact_sheet.HEAD + i // columns * contact_sheet.ROW, i % columns * width
        cell = pixels[top + 4 : top + contact_sheet.ROW, left : left + width]
        assert (cell[:, :label] < 100).any(), f"{search['query']} is not written"
        drawn = (cell[:, label:] < 200).mean()
        assert drawn > 0.02 if search["fitting"] else drawn < 0.01, f"the pictures of {search['query']}"
    assert (pixels == 255).mean() > 0.3  # a white sheet, not a black one


def test_the_sheet_in_the_documents_is_this_one(shown: tuple[dict[str, Any], Path]) -> None:
    """Up to what another version of Pillow or FreeType draws."""
    document = Path(__file__).parents[2] / "docs" / "demo.png"
    with Image.open(shown[1] / "mlx_mm-demo.png") as made, Image.open(document) as kept:
        assert made.size == kept.size
        difference = np.abs(np.asarray(made.convert("L"), np.int16) - np.asarray(kept.convert("L"), np.int16))
    assert difference.mean() < 2


def test_a_search_that_nothing_fits(tmp_path: Path) -> None:
    hits: list[Hit] = [{"name": "pizza", "score": 0.1, "strong": False, "start": None, "stop": None}]
    searches: list[Search] = [
        {"query": "x", "language": "en", "expected": "pizza", "hits": hits, "fitting": fitting}
        for fitting in ([], ["pizza"])
    ]
    contact_sheet.draw_sheet(tmp_path / "a.png", "", searches)
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
        search: Search = {"query": "بومة", "language": "ar", "expected": "owl", "hits": [], "fitting": []}
        contact_sheet.draw_sheet(tmp_path / name, "", [search])
        with Image.open(tmp_path / name) as image:
            return np.asarray(image.convert("L"))[:, : contact_sheet.LABEL]

    font = ImageFont.truetype(hub.BUNDLED / "fonts" / "NotoSansArabic.ttf", 20)
    assert font.getlength("بومة") < sum(map(font.getlength, "بومة"))
    joined = drawn("joined.png")
    monkeypatch.setattr(features, "check", lambda name: False)
    assert not np.array_equal(joined, drawn("explained.png"))


def test_the_conversions_are_kept(shown: tuple[dict[str, Any], Path]) -> None:
    result, folder = shown
    assert [made["model"] for made in result["models"]] == list(EACH)
    for made in result["models"]:
        assert Path(made["folder"]).parent == folder / "cache"
        described = info.describe_model(made["folder"])
        assert described["quantization"]["bits"] == made["bits"] == 4
        assert made["bytes"] < 0.6 * made["source_bytes"]  # float16 to 4.5 bits a weight, some kept
    assert sorted(os.listdir(folder)) == ["cache", "mlx_mm-demo.png", "page.html"]
    assert sorted(os.listdir(folder / "cache")) == ["demo", *sorted(f"{name}-4bit" for name in EACH), "writer.lock"]
    assert sorted(os.listdir(folder / "cache" / "demo")) == ["demo.mmindex", "pictures", "sounds"]


@LONG[0]
@LONG[1]
def test_a_second_run_says_the_same(
    shown: tuple[dict[str, Any], Path],
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> None:
    """Over the first one's cache, in which one that was interrupted left something; as tables, answers as they come."""
    first, folder = shown
    (folder / "cache" / "demo" / "half.tmp").touch()
    monkeypatch.setenv("MLX_MM_CACHE", str(folder / "cache"))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.chdir(folder)
    status, table, told = run("demo", "--out", "again.png", "--open")
    assert status == 0
    assert not (folder / "cache" / "demo" / "half.tmp").exists()
    assert (folder / "again.png").read_bytes() == (folder / "mlx_mm-demo.png").read_bytes()
    for search in [*first["searches"], *first["heard"]]:
        [line] = [line for line in table.splitlines() if re.split("  +", line)[0] == search["query"]]
        assert search["expected"] in line
        assert ("nothing fits" in line) == (not search["expected"])
    for answer in first["answers"]:
        said = f"{answer['picture']}  {answer['question']}  {answer['answer']}  ("
        assert [line for line in table.splitlines() if line.startswith(said) and line.endswith(" s)")]
    assert "duplicates: frog.png = frog-copy.png (identical), mushroom.png = mushroom-small.jpg (same)" in table
    for name in EACH:
        assert re.search(rf"^{name}: \d+\.\d MB -> \d+\.\d MB \(4 bit\) in ", table, re.MULTILINE)
    assert "--index" in table.splitlines()[-1]
    page = folder / "mlx_mm-demo.html"
    assert told == f"there is no desktop to show mlx_mm-demo.html on; open it in a browser: {page.as_uri()}\n"
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    for made in ("again.png", page.name):
        (folder / made).unlink()


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A second one in the same cache waits for the end of the first, however that ends."""
    monkeypatch.setenv("MLX_MM_CACHE", str(tmp_path))
    running, events = threading.Event(), list[str]()

    def convert(*_: object, **__: object) -> None:
        events.append("begins")
        if len(events) == 1:
            running.set()
            while "is running" not in capsys.readouterr().err:
                time.sleep(0.01)
        events.append("ends")
        raise KeyboardInterrupt

    def attempt() -> None:
        with pytest.raises(KeyboardInterrupt):
            demo_run.run_demo()

    monkeypatch.setattr(mlx_mm, "convert", convert)
    first = threading.Thread(target=attempt)
    first.start()
    running.wait(30)
    attempt()
    first.join(30)
    assert events == ["begins", "ends"] * 2


@pytest.mark.parametrize(
    ("option", "name", "part"),
    [
        *(("--out", name, "cannot be the contact sheet") for name in ("sheet.jpg", "sheet", "missing/sheet.png")),
        *(("--page", name, "cannot be the page") for name in ("page.png", "page", "missing/page.html")),
        ("--out", "folder.png", "is a folder"),
        ("--page", "folder.html", "is a folder"),
    ],
)
def test_what_cannot_be_written_is_found_first(
    option: str, name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setattr(mlx_mm, "convert", lambda *_, **__: pytest.fail("converted"))
    monkeypatch.chdir(tmp_path)
    if "folder" in name:
        (tmp_path / name).mkdir()
    assert_one_error(run("demo", option, name), part)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLX_MM_CACHE", "~/mine")
    assert demo_run.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("MLX_MM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert demo_run.cache_folder() == tmp_path / "xdg" / "mlx_mm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert demo_run.cache_folder() == tmp_path / ".cache" / "mlx_mm"
    monkeypatch.setattr("sys.platform", "darwin")
    assert demo_run.cache_folder() == tmp_path / "Library" / "Caches" / "mlx_mm"
