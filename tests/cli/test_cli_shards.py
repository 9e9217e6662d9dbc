"""Shares of the work on the command line, by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import Run, assert_one_error
from sharing import PICTURES, rows_of, write_photos


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with pictures, in the current one."""
    write_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return "photos"


def test_embedded_shards_are_the_whole(photos: str, run: Run) -> None:
    assert run("embed", photos, "-o", "all.npz").status == 0
    found: dict[str, bytes] = {}
    for number in (1, 2, 3):
        assert run("embed", photos, "-o", "some.npz", "--shard", f"{number}/3").status == 0
        part = rows_of(f"some-{number}-of-3.npz")
        assert not found.keys() & part.keys()
        found |= part
    assert found == rows_of("all.npz")


def test_a_shard_without_inputs_is_no_error(photos: str, run: Run) -> None:
    results = [run("embed", PICTURES[0], "-o", "one.npz", "--shard", f"{number}/2") for number in (1, 2)]
    assert [result.status for result in results] == [0, 0]
    assert sum("has none of these inputs" in result.err for result in results) == 1
    assert len([name for name in os.listdir() if name.startswith("one-")]) == 1


def test_shards_merged(photos: str, run: Run) -> None:
    for number in (1, 2, 3):
        result = run("index", photos, "--index", "a.mmindex", "--shard", f"{number}/3")
        assert result.out.startswith(f"a-{number}-of-3.mmindex: ")
    result = run("index", "--index", "a.mmindex", "--merge", "a-1-of-3.mmindex", "a-2-of-3.mmindex", "--json")
    assert result.json["absent"] == ["3/3"]
    result = run("index", "--index", "a.mmindex", "--merge", "a-2-of-3.mmindex")
    assert "note: shards 1/3 and 3/3 are not among the parts" in result.err
    result = run("index", "--index", "a.mmindex", "--merge", "a-3-of-3.mmindex", "a-1-of-3.mmindex", "a-2-of-3.mmindex")
    assert "note" not in result.err
    assert run("index", "--index", "a.mmindex", "--json").json["files"] == len(PICTURES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("embed", "photos", "--shard", "4/3"), "expected I/N with I from 1 to N"),
        (("index", "photos", "--shard", "0/3"), "expected I/N with I from 1 to N"),
        (("index", "--stats", "--shard", "1/3"), "--shard says nothing about --stats"),
        (("index", "--merge", "nothing.mmindex"), "There is no nothing.mmindex"),
        (("index", "--merge", "a.mmindex", "--model", "emoji-siglip2"), "--model says nothing about --merge"),
        (("index", "--merge", "a.mmindex", "--check"), "stand together"),
    ],
)
def test_what_cannot_be_asked(photos: str, run: Run, words: tuple[str, ...], said: str) -> None:
    assert_one_error(run(*words), said)
