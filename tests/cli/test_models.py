"""`mlx_mm models`: what lies on this machine, and what is removed."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from command_line import Run, assert_one_error

from mlx_mm import convert
from mlx_mm.checkpoint import hub
from mlx_mm.cli import models


@pytest.fixture
def home(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one converted and one other checkpoint, and a hub cache with one."""
    monkeypatch.setenv("MLX_MM_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    convert(model, "tiny-4bit", bits=4)
    shutil.copytree(model, "plain")
    snapshot = tmp_path / "hub/models--owner--name/snapshots" / ("a" * 40)
    shutil.copytree(model, snapshot)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    refs = tmp_path / "hub/models--owner--name/refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    (tmp_path / "hub/.locks").mkdir()
    (tmp_path / "photos").mkdir()
    return tmp_path


def test_what_is_listed(run: Run, home: Path) -> None:
    rows = {row["name"]: row for row in run("models", "--json").json}
    assert {name: row["kind"] for name, row in rows.items()} == {
        **dict.fromkeys(hub.bundled_names(), "bundled"),
        "tiny-4bit": "converted",
        "plain": "hugging face",
        "owner/name": "hub cache",
    }
    assert rows["tiny-4bit"]["bits"] == 4
    assert rows["plain"]["bits"] is None
    assert rows["owner/name"]["licence"] == "mit"
    assert rows["tiny-4bit"]["bytes"] == sum(path.stat().st_size for path in Path("tiny-4bit").iterdir())
    assert rows["owner/name"]["bytes"] > 10_000
    assert rows["plain"]["model_type"] == "siglip2"
    shown = run("models").out.splitlines()
    assert shown[0].split() == ["name", "kind", "size", "bits", "licence", "folder"]
    assert len(shown) == 1 + len(rows)


def test_folders_that_are_named(run: Run, home: Path) -> None:
    (home / "shelf").mkdir()
    shutil.move("tiny-4bit", "shelf/tiny-4bit")
    for folder in ("shelf", "shelf/tiny-4bit"):
        names = [row["name"] for row in run("models", folder, "--json").json]
        assert names == [*hub.bundled_names(), "shelf/tiny-4bit", "owner/name"]
    (home / "shelf/tiny-4bit/config.json").write_text("{")
    (home / "photos/config.json").write_text('{"model_type": "bert"}')
    kinds = [row["kind"] for row in run("models", "shelf", "photos", "--json").json]
    assert kinds == [*["bundled"] * len(hub.bundled_names()), "hub cache"]
    assert run("models", "missing", "--json").status == 0


def test_a_converted_folder_is_removed(run: Run, home: Path) -> None:
    assert_one_error(run("models", "--remove", "tiny-4bit"), "--yes")
    assert Path("tiny-4bit").is_dir()
    result = run("models", "--remove", "tiny-4bit", "--yes")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("removed tiny-4bit, ")
    assert not Path("tiny-4bit").exists()
    assert sorted(os.listdir()) == ["hub", "photos", "plain"]


def test_a_model_of_the_hub_is_removed(run: Run, home: Path) -> None:
    assert run("models", "--remove", "owner/name", "--yes", "--json").json["removed"]["name"] == "owner/name"
    assert not (home / "hub/models--owner--name").exists()
    assert_one_error(run("models", "--remove", "owner/name", "--yes"), "There is no model owner/name")


def test_what_is_not_removed(run: Run, home: Path) -> None:
    (home / "link").symlink_to("tiny-4bit")
    (home / "mixed").mkdir()
    for path in Path("tiny-4bit").iterdir():
        shutil.copy(path, "mixed")
    (home / "mixed/holiday.jpg").touch()
    before = sorted(path for path in home.rglob("*"))
    for name, part in {
        "emoji-siglip2": "is bundled",
        "plain": "is hugging face",
        "photos": "There is no model photos",
        "missing": "There is no model missing",
        ".": "There is no model .",
        "mixed": "also holds holiday.jpg",
        str(home / "link"): "is a link",
    }.items():
        assert_one_error(run("models", "--remove", name, "--yes"), part)
    assert_one_error(run("models", "--yes"), "--yes is about --remove")
    assert sorted(path for path in home.rglob("*")) == before


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("n", False), ("", False)])
def test_it_asks_at_a_terminal(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, answer: str, gone: bool) -> None:
    monkeypatch.setattr(models, "watched", lambda stream: True)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\n"))
    result = run("models", "--remove", "tiny-4bit")
    assert "remove tiny-4bit, " in result.err
    assert result.status == (0 if gone else 1)
    assert Path("tiny-4bit").exists() is not gone
