"""The commands of an index, one after another, over a few bundled pictures."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import Checkpoint, Run, assert_one_error, environment
from PIL import Image

from mlx_mm.checkpoint import hub
from mlx_mm.cli import main
from mlx_mm.errors import StoreError
from mlx_mm.search.index import Index
from mlx_mm.search.records import RefreshReport

PICTURES = hub.BUNDLED / "pictures"
NAMES = ("cat", "dog", "frog", "mushroom", "owl", "pizza", "rocket")
HOSTILE = (
    b"line\nfeed.png",
    b"esc\x1b[31m.png",
    b"not-utf8-\xff.png",
    "nfd-e\u0301.png".encode(),
    b"x" * 251 + b".png",
)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos/`, some of them twice or with odd names, and `photos.mmindex` of it."""
    folder = tmp_path_factory.mktemp("album")
    photos = folder / "photos"
    photos.mkdir()
    for name in NAMES:
        shutil.copy(PICTURES / f"{name}.png", photos)
    shutil.copy(photos / "frog.png", photos / "frog-copy.png")
    for name in HOSTILE:
        shutil.copy(PICTURES / "umbrella.png", os.path.join(os.fsencode(photos), name))
    with Image.open(photos / "mushroom.png") as image:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
    white.convert("RGB").resize((96, 96)).save(photos / "mushroom-small.jpg", quality=90)
    (photos / "broken.jpg").write_bytes(b"no picture")
    with Index(folder / "photos.mmindex", model="emoji-siglip2") as index:
        index.refresh(photos)
    return folder


@pytest.fixture
def ask(album: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`ask("search", "cat")`: a command over the index of `album`."""
    monkeypatch.setenv("HOME", str(album))
    return lambda command, *words: run(command, *words, "--index", album / "photos.mmindex")


def bytes_of(*words: object) -> bytes:
    """What a command writes on stdout, as bytes."""
    stream = io.TextIOWrapper(io.BytesIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
    assert stop.value.code == 0
    written = stream.buffer
    assert isinstance(written, io.BytesIO)
    return written.getvalue()


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


# --- search -------------------------------------------------------------------------------------------------------


def test_words_find_a_picture(ask: Run) -> None:
    found = ask("search", "a", "photo", "of", "a", "cat")
    assert (found.status, found.err) == (0, "")
    heading, first, last = found.out.splitlines()
    assert heading.split() == ["#", "match", "score", "when", "file"]
    assert first.split()[0] == "1"
    assert first.split()[-1] == "~/photos/cat.png"
    assert last.startswith("1 strong match; ")
    assert last.endswith("weaker ones (--all)")


def test_what_is_not_there_is_not_found(ask: Run) -> None:
    """No five confident strangers; --all shows them as what they are."""
    found = ask("search", "piano")
    assert (found.status, found.err) == (0, "")
    [line] = found.out.splitlines()
    assert line.startswith('nothing fits "piano"; --all shows ')
    shown = ask("search", "piano", "--all", "--top", 3).out.splitlines()
    assert len(shown) == 5
    assert not any("●●●" in line for line in shown)
    nothing = ask("search", "piano", "--json").json
    assert nothing["hits"] == []
    assert nothing["strong"] == 0
    assert nothing["weaker"] > 5
    assert ask("search", "piano", "-0").out == ""


def test_json_has_everything(ask: Run, album: Path) -> None:
    found = ask("search", "pizza", "--json")
    hit = found.json["hits"][0]
    assert hit["path"] == str(album / "photos" / "pizza.png")
    assert hit["strong"] is True
    assert hit["kind"] == "image"
    with Image.open(PICTURES / "pizza.png") as image:
        assert (hit["width"], hit["height"]) == image.size
    assert set(hit) >= {"score", "z", "content", "copies", "start", "stop", "taken_at", "tags"}


def test_an_example_and_its_copies(ask: Run, album: Path) -> None:
    found = ask("search", "--like", album / "photos" / "frog.png", "--top", 1, "--json").json["hits"]
    assert names([found[0]["path"], *found[0]["copies"]]) == ["frog.png", "frog-copy.png"]


def test_odd_names(ask: Run, album: Path) -> None:
    """-0 writes their bytes; JSON has what embed's has; the table has no byte that steers a terminal."""
    found = ask("search", "umbrella", "--json").json["hits"]
    paths = [found[0]["path"], *found[0]["copies"]]
    assert sorted(os.fsencode(Path(path).name) for path in paths) == sorted(HOSTILE)
    [path, end] = bytes_of("search", "umbrella", "-0", "--index", album / "photos.mmindex").split(b"\0")
    assert end == b""
    assert os.path.basename(path) in HOSTILE
    table = ask("search", "umbrella").out
    assert "\x1b" not in table
    assert "  (+4)" in table


def test_a_contact_sheet(ask: Run, tmp_path: Path) -> None:
    sheet = tmp_path / "found.png"
    assert ask("search", "pizza", "--sheet", sheet).status == 0
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        colours = image.convert("RGB").getcolors(1 << 20) or []
    assert len(colours) > 100  # a picture is on it
    assert_one_error(ask("search", "pizza", "--sheet", tmp_path / "none" / "a.png"), "cannot be the contact sheet")
    assert_one_error(ask("search", "pizza", "--sheet", tmp_path / "a.jpg"), "expected a .png file")


def test_a_desktop_shows_the_best(ask: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = tmp_path / ("open" if sys.platform == "darwin" else "xdg-open")
    opener.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/shown\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("DISPLAY", ":9")
    assert ask("search", "pizza", "--open").status == 0
    assert (tmp_path / "shown").read_text().strip().endswith("photos/pizza.png")
    opener.write_text("#!/bin/sh\nexit 3\n")
    assert "xdg-open ended with 3" in ask("search", "pizza", "--open").err or sys.platform == "darwin"
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform != "darwin":
        assert_one_error(ask("search", "pizza", "--open"), "needs a desktop")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["expected"]),
        (["  "], ["expected"]),
        (["cat", "--since", "2023-13"], ["2023-13"]),
        (["cat", "--since", "2024", "--until", "2023"], ["2024"]),
        (["cat", "--near", "91,0,1km"], ["91"]),
        (["cat", "--top", "0"], ["--top"]),
        (["--like", "broken.jpg"], ["broken.jpg"]),
        (["--like", "missing.jpg"], ["missing.jpg"]),
        (["cat", "--json", "-0"], ["--json and --null"]),
    ],
    ids=str,
)
def test_queries_that_make_no_sense(
    ask: Run, album: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(album / "photos")
    assert_one_error(ask("search", *words), *parts)


def test_a_query_of_any_length(ask: Run) -> None:
    found = ask("search", "cat " * 25_000)
    assert found.status in (0, 1)
    assert len(found.err.splitlines()) <= 1
    assert len(found.out + found.err) < 300_000


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--near", "somewhere"], "54.3,13.1,20km"),
        (["--near", "1,2,3"], "54.3,13.1,20km"),
        (["--weight", "dog"], "2:dog"),
        (["--weight", "-1:dog"], "2:dog"),
        (["--weight", "inf:dog"], "2:dog"),
        (["--kind", "text"], "invalid choice"),
    ],
)
def test_wrong_usage(ask: Run, words: list[str], part: str) -> None:
    found = ask("search", "cat", *words)
    assert found.status == 2
    assert part in found.err


def test_values_that_begin_with_a_minus(ask: Run) -> None:
    """The southern half of the earth, and low scores."""
    assert ask("search", "cat", "--near", "-33.8,151.2,5km").out.startswith("nothing fits")
    assert ask("search", "cat", "--min", "-1").status == 0


def test_sounds_beside_pictures(album: Path, tmp_path: Path, run: Run, tiny_checkpoint: Checkpoint) -> None:
    """By a model of their own, which needs no word; a search tells the time of the window that fits."""
    shutil.copytree(album / "photos.mmindex", tmp_path / "own.mmindex")
    (tmp_path / "sounds").mkdir()
    soundfile.write(tmp_path / "sounds" / "long.wav", np.sin(np.arange(25 * 8000) / 9), 8000)
    own = ["--index", tmp_path / "own.mmindex"]
    made = run("index", tmp_path / "sounds", "-m", tiny_checkpoint("clap"), *own)
    assert made.out.startswith("15 files | 1 new, 1 unreadable | ")
    [hit] = run("search", "rain", "--kind", "audio", "--all", "--json", *own).json["hits"]
    assert (hit["start"], hit["stop"]) in [(0, 10), (10, 20), (15, 25), (20, 25)]
    row = run("search", "rain", "--kind", "audio", "--all", *own).out.splitlines()[1]
    assert re.search(r"long\.wav  0:\d\d-0:\d\d$", row)
    assert run("search", "pizza", *own).out.splitlines()[1].endswith("photos/pizza.png")


# --- dups, tag, export --------------------------------------------------------------------------------------------


def test_duplicates(ask: Run, album: Path) -> None:
    same = ask("dups")
    assert (same.status, same.err) == (0, "")
    lines = same.out.splitlines()
    assert lines[0].startswith("2 files show the same picture, cosine 0.9")
    assert lines[1].split()[-1] == "~/photos/mushroom.png"
    assert lines[1].split()[0] == "keep"
    assert lines[2].split()[-1] == "~/photos/mushroom-small.jpg"
    assert lines[-1].endswith("Nothing was deleted.")
    words = ("dups", "--kind", "identical", "--paths-of-copies", "-0", "--index", album / "photos.mmindex")
    found = bytes_of(*words).split(b"\0")[:-1]
    assert len(found) == 5  # all but one of frogs and umbrellas
    assert {os.path.basename(path) for path in found} < {*HOSTILE, b"frog.png", b"frog-copy.png"}
    assert [len(group["files"]) for group in ask("dups", "--kind", "identical", "--json").json] == [5, 2]
    assert ask("dups", "--null").status == 1


def test_decisions_are_remembered(ask: Run, album: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(album / "photos.mmindex", tmp_path / "own.mmindex")
    photos = album / "photos"
    own = ["--index", tmp_path / "own.mmindex"]
    said = run("dups", "--keep-apart", photos / "mushroom.png", photos / "mushroom-small.jpg", *own)
    assert "are no duplicates from now on" in said.out
    assert run("dups", *own).out == "no files show the same picture\n"
    assert_one_error(run("dups", "--keep-apart", photos / "mushroom.png", "unheard of", *own), "unheard of")


def test_tags(ask: Run) -> None:
    assert ask("tag", "--labels", "cat, pizza,, tractor", "--json").json == {"cat": 1, "pizza": 1, "tractor": 0}
    assert names([hit["path"] for hit in ask("search", "--tag", "cat", "--json").json["hits"]]) == ["cat.png"]
    shown = ask("tag", "--labels", "cat").out.splitlines()
    assert [line.split() for line in shown] == [["label", "files"], ["cat", "1"]]
    for words in ([], ["--labels", " , "]):
        assert_one_error(ask("tag", *words), "No label is given")


def test_export(ask: Run, tmp_path: Path) -> None:
    done = ask("export", "-o", tmp_path / "a.jsonl", "--json").json
    assert ask("export", "-o", tmp_path / "b.jsonl", "--kind", "audio", "--json").json["vectors"] == 0 < done["vectors"]
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    assert done["vectors"] == len(rows) > len(NAMES)
    assert_one_error(ask("export", "-o", tmp_path / "a.csv"), "a.csv")
    assert_one_error(ask("export", "-o", tmp_path / "none" / "a.npz"), "none")


# --- index --------------------------------------------------------------------------------------------------------


def test_a_first_and_a_second_run(album: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("cat", "dog"):
        shutil.copy(PICTURES / f"{name}.png", photos)
    (photos / "broken.jpg").write_bytes(b"no picture")
    first = run("index", photos)
    assert first.status == 0
    assert first.out.startswith("2 files | 2 new, 1 unreadable | 2 through the model in ")
    used, bad = first.err.splitlines()
    assert used.startswith("using the bundled emoji-siglip2")
    assert bad.startswith(f"not indexed: {photos}/broken.jpg cannot be read")
    (photos / "dog.png").rename(photos / "hound.png")
    second = run("index", "--json").json
    assert (second["files"], second["moved"], second["encoded"]) == (2, 1, 0)
    assert list(second["failed"]) == [str(photos / "broken.jpg")]  # told, and not tried
    assert run("search", "dog").out.splitlines()[1].endswith("~/photos/hound.png")
    assert run("index", "--check").status == 0
    assert run("index", "--stats", "--json").json
    (photos / "cat.png").unlink()
    assert run("index").out.startswith("1 file | 1 missing")
    assert run("index", "--forget", "--json").json == {"forgotten": 1}
    assert run("index", "--compact").status == 0
    (tmp_path / "elsewhere").mkdir()
    photos.rename(tmp_path / "elsewhere" / "photos")
    gone = run("index")
    assert_one_error(gone, "photos", "--accept-missing")
    assert run("index", "--moved", photos, tmp_path / "elsewhere" / "photos", "--json").json == {
        "moved": 2
    }  # one of them is unreadable
    assert run("index", "--json").json["encoded"] == 0


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--check", "--stats"], "--check and --stats stand together"),
        (["--repair"], "--repair stands without --check"),
        (["photos", "--compact"], "--compact is about the whole index"),
        (["--poll", "5s"], "--poll stands without --watch"),
        (["--every", "5m"], "--every stands without --watch"),
        (["--watch", "--reembed"], "--reembed says nothing about --watch"),
        (["--forget", "--exclude", "x"], "--exclude says nothing about --forget"),
        (["missing-folder"], "missing-folder"),
    ],
)
def test_tasks_that_do_not_fit(ask: Run, words: list[str], part: str) -> None:
    assert_one_error(ask("index", *words), part)


@pytest.mark.parametrize("command", [["search", "cat"], ["dups"], ["tag", "-l", "a"], ["export", "-o", "a.npz"]])
def test_no_index_yet(run: Run, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_error(run(*command, "--index", "none.mmindex"), "none.mmindex", "mlx_mm index")
    assert os.listdir(tmp_path) == []


def test_what_is_no_index(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "file.mmindex"
    file.write_text("not a folder")
    assert_one_error(run("search", "cat", "--index", file), "file.mmindex")
    assert_one_error(run("index", tmp_path, "--index", file), "file.mmindex")
    assert file.read_text() == "not a folder"
    foreign, text = (tmp_path / f"{name}.mmindex" for name in ("foreign", "text"))
    for folder in (foreign, text):
        folder.mkdir()
    rows = sqlite3.connect(foreign / "index.sqlite")
    rows.execute("CREATE TABLE theirs(a)")
    rows.close()
    (text / "index.sqlite").write_text("no database" * 1000)
    assert_one_error(run("search", "cat", "--index", foreign), "foreign.mmindex")
    assert_one_error(run("search", "cat", "--index", text), "text.mmindex")


def test_a_newer_one(album: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(album / "photos.mmindex", tmp_path / "newer.mmindex")
    rows = sqlite3.connect(tmp_path / "newer.mmindex" / "index.sqlite")
    rows.execute("PRAGMA user_version = 999")
    rows.close()
    assert_one_error(run("search", "cat", "--index", tmp_path / "newer.mmindex"), "newer")


def test_another_model_has_three_ways_out(ask: Run, model: Path) -> None:
    refused = ask("index", "-m", model)
    assert_one_error(refused, "emoji-siglip2", "--model", "--add-space", "--reembed")


def test_a_reader_that_goes_away(album: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mlx_mm", "search", "cat", "-0", "--index", str(album / "photos.mmindex")]
    try:
        ended = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False, env=environment()
        )
    finally:
        os.close(writer)
    assert ended.stderr == b""


def test_a_run_that_is_interrupted_says_what_is_kept(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, on_event: Callable[[str, str], None], **__: object) -> None:
        for event in ("new", "copied", "failed"):
            on_event(event, "a.jpg")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(Index, "refresh", interrupted)
    ended = run("index", tmp_path, "--index", tmp_path / "a.mmindex", "-m", "emoji-siglip2")
    assert ended.status == 130
    assert ended.err == "interrupted; 2 files of this run are kept, run it again to go on\n"


def test_a_disk_that_is_away_is_told_of(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    report = RefreshReport(files=3, new=1, left_alone=["/disk is not there, and 2 of its 2 files are gone"])
    monkeypatch.setattr(Index, "refresh", lambda *_, **__: report)
    options = ("--index", tmp_path / "a.mmindex", "-m", "emoji-siglip2")
    done = run("index", *options)
    assert done.out == "3 files | 1 new | 0.0 s\n"
    assert done.err.startswith("error: /disk is not there, and 2 of its 2 files are gone; expected less than half.")
    assert done.status == 1
    assert run("index", tmp_path, *options).status == 0  # who names another folder knows


def test_watching_says_what_changed(album: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for the first look, and for each one that found something; the model and errors after it are notes."""
    reports = (RefreshReport(files=2, new=2), RefreshReport(files=2), RefreshReport(files=3, new=1))

    def watch(
        *_: object,
        on_event: Callable[..., None],
        on_report: Callable[..., None],
        on_error: Callable[..., None],
        **options: object,
    ) -> None:
        assert options == {"exclude": ["a"], "videos": False, "poll": 5.0, "every": 60.0}
        for report in reports:
            on_event("new", "a.png")
            on_report(report)
        on_error(StoreError("a disk is gone"))
        on_error(StoreError("a disk is gone"))  # still
        on_event("model", "sounds-clap")

    monkeypatch.setattr(Index, "watch", watch)
    words = ("index", "--watch", "--poll", "5s", "--every", "1m", "--exclude", "a", "--index", album / "photos.mmindex")
    done = run(*words)
    assert done.out.splitlines() == ["2 files | 2 new | 0.0 s", "3 files | 1 new | 0.0 s"]
    error, used = done.err.splitlines()
    assert error == "error: a disk is gone"
    assert used.startswith("using the bundled sounds-clap")
    assert [row["new"] for row in run(*words, "--json").rows] == [2, 1]
    reports = ()
    assert_one_error(run(*words), "a disk is gone")


def test_help_of_every_command_is_short_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("index", "search", "dups", "tag", "export"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        out = capsys.readouterr().out
        assert f"mlx_mm {command}" in out.split("examples:")[1]
