"""What is said on stderr: notes, warnings, skipped inputs."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command_line import Run

from mlx_mm import progress
from mlx_mm.cli.notes import Skipped, warnings_as_notes
from mlx_mm.errors import MediaError


def test_skipped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    skipped = Skipped()
    files = skipped.find([str(tmp_path), str(tmp_path / "missing.png")], "image")
    assert files == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    callback = skipped.on_error(files)
    callback(1, MediaError(f"{files[1]} is empty"))  # names the file itself
    callback(0, MediaError("cannot be read"))
    assert skipped.remaining(files) == []
    assert skipped.count == 3
    skipped.report()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split("\n") == [
        f"warning: skipped {tmp_path}/missing.png: there is no such file",
        f"warning: skipped {files[1]} is empty",
        f"warning: skipped {files[0]}: cannot be read",
        "3 inputs skipped, see the warnings above",
        "",
    ]


def test_nothing_skipped_nothing_said(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = Skipped()
    skipped.report()
    assert skipped.remaining(["a", "b"]) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_what_pillow_says_of_damaged_exif_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    """It names no file, and the picture is read."""
    with warnings_as_notes():
        warnings.warn_explicit("Corrupt EXIF data.", UserWarning, "x.py", 1, module="PIL.TiffImagePlugin")
        warnings.warn_explicit("Our own.", UserWarning, "x.py", 1, module="mlx_mm.embed")
    assert capsys.readouterr().err == "warning: Our own.\n"


def test_one_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = Skipped()
    skipped.on_error(["a.png"])(0, MediaError("a.png is empty"))
    skipped.report()
    assert capsys.readouterr().err.endswith("1 input skipped, see the warnings above\n")


def test_warnings_as_notes(capsys: pytest.CaptureFixture[str]) -> None:
    """Each once, on one line, from threads too; what is not for users keeps its place in the code."""

    def work() -> None:
        for text in ("first", "first", "over\ntwo  lines"):
            warnings.warn(text, UserWarning, stacklevel=1)

    for _ in range(2):
        with warnings_as_notes():
            work()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(work).result()
        assert capsys.readouterr() == ("", "warning: first\nwarning: over two lines\n")
    with pytest.warns(RuntimeWarning, match="not for users"), warnings_as_notes():
        warnings.warn("not for users", RuntimeWarning, stacklevel=1)
    with pytest.raises(UserWarning):  # pytest's own filters are back
        work()


@pytest.mark.parametrize("command", ["embed", "classify", "convert"])
def test_progress_is_told_in_lines_where_there_is_no_terminal(
    run: Run, model: Path, photos: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    words = {"embed": ["photos"], "classify": ["photos", "-l", "cat"], "convert": ["out"]}[command]
    result = run(command, *([model, *words] if command == "convert" else [*words, "-m", model]))
    assert result.status == 0
    assert any(line.endswith("s") and ": 4 of 4" in line for line in result.err.splitlines()) or command == "convert"
    assert result.err.count("\n") >= 1
    assert "\r" not in result.err
