"""What a scan of folders finds, and what patterns leave out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlx_mm.errors import InputError
from mlx_mm.search import scanning
from mlx_mm.search.ignoring import left_out, read_rules, rules_of
from mlx_mm.search.scanning import Found, scan


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found_in(root: Path, *patterns: str, videos: bool = False) -> Found:
    return scan(os.fsencode(root), rules_of(patterns), videos=videos, seen=set())


def names(found: Found) -> list[str]:
    return [os.fsdecode(path) for path in found.files]


@pytest.mark.parametrize(
    ("pattern", "path", "folder", "fits"),
    [
        ("*.tmp", b"a/b.tmp", False, True),
        ("*.tmp", b"a/b.tmp.png", False, False),
        ("drafts/", b"a/drafts", True, True),
        ("drafts/", b"a/drafts", False, False),
        ("/drafts", b"drafts", True, True),
        ("/drafts", b"a/drafts", True, False),
        ("a/b", b"a/b", True, True),
        ("a/b", b"c/a/b", True, False),
        ("2019/**/raw", b"2019/raw", True, True),
        ("2019/**/raw", b"2019/x/y/raw", True, True),
        ("2019/**/raw", b"2019/x/yraw", True, False),
        ("**/raw", b"raw", True, True),
        ("foo/**", b"foo/a/b", False, True),
        ("foo/**", b"foo", True, False),
        ("IMG_????.jpg", b"IMG_1234.jpg", False, True),
        ("IMG_????.jpg", b"IMG_12/4.jpg", False, False),
        ("[a-c]?[!0-9].png", b"bxx.png", False, True),
        ("[a-c]?[!0-9].png", b"bx1.png", False, False),
        (r"\*.png", b"*.png", False, True),
        (r"\*.png", b"a.png", False, False),
        ("a.b", b"aXb", False, False),
        ("Zo\u00eb", "Zo\u00eb".encode(), False, True),
    ],
)
def test_patterns(pattern: str, path: bytes, folder: bool, fits: bool) -> None:
    assert left_out(path, folder, rules_of([pattern])) == fits


def test_the_last_pattern_that_fits_decides() -> None:
    rules = read_rules(b"# all but one\n*.png\n!keep.png\n\nkeep.png \\\n", b"sub/")
    assert left_out(b"sub/a.png", False, rules)
    assert not left_out(b"sub/keep.png", False, rules)
    assert not left_out(b"a.png", False, rules)  # is not below the file of patterns


@pytest.mark.parametrize("pattern", ["", "#", "/", "[z-a]", 5])
def test_what_is_no_pattern(pattern: object) -> None:
    with pytest.raises(InputError, match=r"exclude has .*; expected a pattern as in \.gitignore"):
        rules_of([pattern])  # type: ignore[list-item]


def test_what_is_found_and_what_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "b.JPG", "a/c.heic", "a/d.wav", "notes.txt", ".hidden.png", ".cache/e.png", "@eaDir/f.jpg")
    put(tmp_path, "node_modules/g.png", "P.photoslibrary/resources/h.jpg", "P.photoslibrary/originals/i.jpg")
    put(tmp_path, "x.mmindex/thumbs/j.jpg", "k.mp4", "b.cr2", "l.nef", "drawing.svg")
    found = found_in(tmp_path)
    assert names(found) == ["b.JPG", "P.photoslibrary/originals/i.jpg", "a/c.heic", "a/d.wav"]
    assert {entry.kind for entry in found.files.values()} == {"image", "audio"}
    assert found.skipped == {scanning.VIDEOS: 1, scanning.RAW_BESIDE: 1, scanning.RAW: 2}
    assert "k.mp4" in names(found_in(tmp_path, videos=True))


def test_patterns_in_folders(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "in/a.png", "in/b.png", "in/deep/a.png", "out/c.png")
    (tmp_path / "in" / ".mmignore").write_text("a.png\n")
    found = found_in(tmp_path, "out/")
    assert names(found) == ["a.png", "in/b.png"]
    assert found.skipped == {scanning.EXCLUDED: 3}


def test_links(tmp_path: Path) -> None:
    put(tmp_path, "real/a.png", "real/inner/b.png")
    (tmp_path / "a link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "file.png").symlink_to(tmp_path / "real" / "a.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "nothing")
    found = found_in(tmp_path)
    assert names(found) == ["file.png", "real/a.png", "real/inner/b.png"]  # each real folder once, not by its link
    assert found.skipped == {scanning.LINKS: 1}


def test_pipes_and_placeholders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "cloud.jpg", "here.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    marked = os.stat(tmp_path / "cloud.jpg").st_ino
    monkeypatch.setattr(scanning, "is_dataless", lambda status: status.st_ino == marked)
    found = found_in(tmp_path)
    assert names(found) == ["here.jpg"]
    assert found.skipped == {scanning.CLOUD: 1, scanning.SPECIAL: 1}
    assert found.unread == [b"cloud.jpg"]  # what the index has of it stays
