"""From names on the command line to files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from command_line import EQUAL, Run, assert_one_error, damage, embed_images, stdin
from PIL import Image

from mlx_mm.cli.files import endings_of, find_files, modality_of, passed_over_line
from mlx_mm.processing.endings import AUDIO_ENDINGS, IMAGE_ENDINGS, image_endings


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, other files and hidden ones; the current folder is its parent."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "photos/b.jpg",
        "photos/a.PNG",
        "photos/notes.txt",
        "photos/.hidden.png",
        "photos/deep/er/c.webp",
        "photos/deep/d.tiff",
        "photos/.thumbnails/e.png",
        "photos/[x].png",
        "other/z.gif",
        "other/no_ending",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")
    return tmp_path


def test_a_folder_is_searched_to_the_bottom(tree: Path) -> None:
    found = find_files(["photos"])
    assert found.files == [
        "photos/[x].png",
        "photos/a.PNG",
        "photos/b.jpg",
        "photos/deep/d.tiff",
        "photos/deep/er/c.webp",
    ]
    assert found.problems == []


def test_folders_are_sorted(tree: Path) -> None:
    """Otherwise two runs on two machines would number the pictures differently."""
    names = [f"years/{year}/{month}/a.png" for year in (2023, 2024, 2025) for month in ("01", "02", "10")]
    for name in reversed(names):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).touch()
    assert find_files(["years"]).files == names


def test_names_keep_their_order(tree: Path) -> None:
    assert find_files(["other/z.gif", "photos/deep", "photos/b.jpg"]).files == [
        "other/z.gif",
        "photos/deep/d.tiff",
        "photos/deep/er/c.webp",
        "photos/b.jpg",
    ]


def test_a_file_named_itself_may_have_any_ending(tree: Path) -> None:
    assert find_files(["other/no_ending", "photos/notes.txt"]).files == ["other/no_ending", "photos/notes.txt"]


def test_a_hidden_file_or_folder_named_itself_counts(tree: Path) -> None:
    found = find_files(["photos/.hidden.png", "photos/.thumbnails"])
    assert found.files == ["photos/.hidden.png", "photos/.thumbnails/e.png"]


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("photos/*.jpg", ["photos/b.jpg"]),
        ("photos/?.*", ["photos/a.PNG", "photos/b.jpg"]),
        ("photos/**/*.webp", ["photos/deep/er/c.webp"]),
        ("*/*.gif", ["other/z.gif"]),
    ],
)
def test_patterns(tree: Path, pattern: str, files: list[str]) -> None:
    assert find_files([pattern]).files == files


def test_a_pattern_gives_files_only(tree: Path) -> None:
    assert find_files(["photos/d*"]).files == []
    assert find_files(["photos/d*"]).problems == ["photos/d*: there is no such file"]


def test_a_file_whose_name_is_a_pattern(tree: Path) -> None:
    """`[x].png` as a pattern would match x.png only."""
    assert find_files(["photos/[x].png"]).files == ["photos/[x].png"]


def test_each_file_once(tree: Path) -> None:
    assert find_files(["photos/b.jpg", "photos", "photos/*.jpg"]).files.count("photos/b.jpg") == 1
    assert find_files(["photos/b.jpg", "photos/b.jpg"]).files == ["photos/b.jpg"]
    assert find_files(["photos/b.jpg", "photos/b.jpg"]).problems == []


def test_what_is_missing_is_named(tree: Path) -> None:
    (tree / "empty").mkdir()
    found = find_files(["missing.png", "photos/b.jpg", "empty", "photos/*.bmp"])
    assert found.files == ["photos/b.jpg"]
    assert found.problems == [
        "missing.png: there is no such file",
        "empty: no pictures in the folder",
        "photos/*.bmp: there is no such file",
    ]


def test_addresses_pass_through(tree: Path) -> None:
    names = ["https://example.org/a.png", "http://example.org/b?x=*", "data:image/png;base64,AAAA"]
    assert find_files(names).files == names


def test_the_home_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert find_files(["~/photos/b.jpg"]).files == [str(tree / "photos/b.jpg")]


def test_other_endings(tree: Path) -> None:
    (tree / "photos" / "bark.FLAC").touch()
    (tree / "silent").mkdir()
    assert find_files(["photos"], "audio").files == ["photos/bark.FLAC"]
    assert find_files(["silent"], "audio").problems == ["silent: no sounds in the folder"]
    assert "photos/bark.FLAC" not in find_files(["photos"]).files
    for endings in (IMAGE_ENDINGS, AUDIO_ENDINGS):
        assert all(ending == ending.lower() and ending.startswith(".") for ending in endings)
    assert not set(IMAGE_ENDINGS) & set(AUDIO_ENDINGS)


def test_links_to_a_parent_do_not_loop(tree: Path) -> None:
    (tree / "photos/deep/up").symlink_to(tree / "photos", target_is_directory=True)
    assert len(find_files(["photos"]).files) == 5


def test_a_linked_album_is_followed(tree: Path) -> None:
    (tree / "albums/summer").mkdir(parents=True)
    (tree / "albums/summer/s.png").touch()
    (tree / "photos/album").symlink_to(tree / "albums", target_is_directory=True)
    found = find_files(["photos"])
    assert found.files[-1] == "photos/album/summer/s.png"
    assert len(found.files) == 6
    assert found.problems == []


def test_each_real_folder_once(tree: Path) -> None:
    """Under its own name where it has one inside what was named."""
    (tree / "photos/aa").symlink_to(tree / "photos/deep", target_is_directory=True)
    (tree / "photos/deep/er/loop").symlink_to("..", target_is_directory=True)
    (tree / "photos/deep/self").symlink_to("self")  # leads nowhere
    files = find_files(["photos"]).files
    assert [name for name in files if "deep" in name] == ["photos/deep/d.tiff", "photos/deep/er/c.webp"]
    assert len(files) == 5
    (tree / "again").symlink_to("photos", target_is_directory=True)
    found = find_files(["photos", "./photos", "again"])
    assert (found.files, found.problems) == (files, [])


def test_a_folder_that_cannot_be_searched(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str) -> object:
        if path == "photos/deep":
            raise PermissionError(13, "Permission denied", path)
        return usual(path)

    usual = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    found = find_files(["photos"])
    assert found.problems == ["photos/deep: the folder cannot be searched (Permission denied)"]
    assert found.files == ["photos/[x].png", "photos/a.PNG", "photos/b.jpg"]
    alone = find_files(["photos/deep"])
    assert (alone.files, alone.problems) == ([], found.problems)


@pytest.mark.parametrize(
    "ending", [".JPE", ".mpo", ".jpx", ".dib", ".ico", ".pgm", ".qoi", ".psd", ".apng", ".HEIC", ".Avif", ".J2K"]
)
def test_what_pillow_opens_is_a_picture(tree: Path, ending: str) -> None:
    (tree / "new").mkdir()
    (tree / f"new/a{ending}").touch()
    assert find_files(["new"]).files == [f"new/a{ending}"]
    assert modality_of([f"a{ending}"]) == "image"


def test_what_pillow_registers_in_addition_is_a_picture(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a plug-in for .jxl would."""
    (tree / "photos/a.JXL").touch()
    assert find_files(["photos"]).passed_over == {".jxl": 1}
    monkeypatch.setitem(Image.OPEN, "JXL", Image.OPEN["PNG"])
    monkeypatch.setitem(Image.EXTENSION, ".jxl", "JXL")
    image_endings.cache_clear()
    try:
        assert "photos/a.JXL" in find_files(["photos"]).files
    finally:
        image_endings.cache_clear()


@pytest.mark.parametrize("ending", [".pdf", ".txt", ".eps", ".h5", ".mpg", ".wmf", ".svg", ".mp4", ".wav", ""])
def test_what_is_no_picture(ending: str) -> None:
    assert ending not in endings_of("image")


def test_media_of_other_kinds_are_counted(tree: Path, run: Run, model: Path) -> None:
    for name in ("photos/a.wav", "photos/b.MOV", "photos/deep/c.cr2", "photos/d.xmp"):
        (tree / name).touch()
    found = find_files(["photos"])
    assert found.passed_over == {".wav": 1, ".mov": 1, ".cr2": 1}
    assert passed_over_line(found) == "left out of the folders: 3 files of other kinds (.cr2, .mov, .wav)"
    assert passed_over_line(find_files(["other"])) == ""
    assert find_files(["other"], "audio").problems == [
        "other: no sounds in the folder (2 files of other kinds: .gif, none)"
    ]
    assert passed_over_line(found) in run("embed", "photos", "-m", model).err.splitlines()


def test_pipes_in_a_folder_are_passed_over(tree: Path) -> None:
    os.mkfifo(tree / "photos/pipe.png")
    os.mkfifo(tree / "photos/pipe")
    (tree / "photos/deep/link.png").symlink_to("../pipe.png")
    (tree / "photos/gone.png").symlink_to("nowhere.png")
    found = find_files(["photos"])
    assert "photos/gone.png" in found.files  # whoever opens it says that there is no such file
    assert len(found.files) == 6
    assert passed_over_line(found) == "left out of the folders: 3 pipes and devices"
    assert find_files(["photos/pipe*"]).problems == ["photos/pipe*: there is no such file"]
    assert find_files(["photos/pipe.png"]).files == ["photos/pipe.png"]  # it was named


def test_pipes_that_are_named_are_read(run: Run, model: Path, photos: Path) -> None:
    """As `embed <(cat photos/a.jpg) photos/b.png` names them."""
    reader, writer = os.pipe()
    os.write(writer, Path("photos/a.jpg").read_bytes())
    os.close(writer)
    try:
        piped, plain = run("embed", f"/dev/fd/{reader}", "photos/b.png", "-m", model).rows
    finally:
        os.close(reader)
    assert (piped["id"], plain["id"]) == (f"/dev/fd/{reader}", "photos/b.png")
    assert np.abs(np.array(piped["vector"]) - embed_images(model, ["photos/a.jpg"])[0]).max() <= EQUAL


def test_nothing_named() -> None:
    found = find_files([])
    assert (found.files, found.problems) == ([], [])


@pytest.mark.parametrize(
    ("names", "modality"),
    [
        (["a.jpg", "deep/b.PNG", "*.webp"], "image"),
        (["a.wav", "~/b.Mp3"], "audio"),
        (["https://example.org/a.png?size=2.wav", "http://example.org/b.jpg"], "image"),
        (["a.jpg", "a.wav"], None),
        (["a.jpg", "no_ending"], None),
        (["clip.mp4"], None),  # a model of sounds may read its track
        (["photos"], None),
        (["album.png"], None),
        (["data:image/png;base64,AAAA"], None),
        ([], None),
    ],
)
def test_what_endings_say(tree: Path, names: list[str], modality: str | None) -> None:
    (tree / "album.png").mkdir()
    assert modality_of(names) == modality


@pytest.mark.parametrize("command", ["embed", "classify"])
def test_nothing_readable(run: Run, model: Path, photos: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = damage(photos)
    more = ["-o", "v.npz"] if command == "embed" else ["-l", "cat,dog"]
    for inputs in (bad, ["missing.png"], ["photos/*.bmp"]):
        result = run(command, *inputs, "-m", model, *more)
        assert_one_error(result, "Nothing could be read")
        assert len(result.err.splitlines()) == len(inputs) + 1
    stdin(monkeypatch, "\n\n")
    assert_one_error(run(command, "-", "-m", model, *more), "Nothing could be read")
    assert not Path("v.npz").exists()
