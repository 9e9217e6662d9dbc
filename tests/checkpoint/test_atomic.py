"""Files and folders appear complete or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import listing

from mlx_mm.checkpoint.atomic import check_folder, new_file, new_folder
from mlx_mm.errors import OutputError

FULL = OSError(errno.ENOSPC, "No space left on device")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    with new_file(path) as new:
        assert new.parent == tmp_path
        assert new.suffix == ".npz"  # some writers append the ending that they expect
        assert not path.exists()
        new.write_bytes(b"done")
    assert path.read_bytes() == b"done"
    assert mode(path) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with new_file(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_file_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with new_file(Path("a.txt")) as new:
        new.write_text("here")
    assert (tmp_path / "a.txt").read_text() == "here"


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), ValueError("no")], ids=repr)
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_keeps_the_file_that_was_there(error: BaseException, exists: bool, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if exists:
        path.write_text("old")

    def fail() -> None:
        with new_file(path) as new:
            new.write_text("half")
            raise error

    check_failure(fail, error, path)


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), ValueError("no")], ids=repr)
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_keeps_the_folder_that_was_there(error: BaseException, exists: bool, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if exists:
        path.mkdir()
        (path / "config.json").write_text("old")

    def fail() -> None:
        with new_folder(path, True) as new:
            (new / "config.json").write_text("half")
            raise error

    check_failure(fail, error, path)


def check_failure(fail: Callable[[], None], error: BaseException, path: Path) -> None:
    before = listing(path.parent)
    with pytest.raises(OutputError if error is FULL else type(error)) as caught:
        fail()
    assert listing(path.parent) == before
    if error is FULL:
        assert str(caught.value) == f"Writing {path} failed: No space left on device. Nothing was kept."


def test_a_file_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.txt failed: No such file"), new_file(tmp_path / "no" / "a.txt"):
        pytest.fail("began")
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    with new_folder(out, False) as new:
        (new / "x").write_text("done")
        assert not out.exists()
    assert (out / "x").read_text() == "done"
    assert mode(out) == 0o755
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_checkpoint_is_overwritten_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / "left").touch()
    with pytest.raises(OutputError, match="overwrite"), new_folder(out, False):
        pytest.fail("began")
    with new_folder(out, True) as new:
        (new / "config.json").write_text("[]")
    assert [path.name for path in out.iterdir()] == ["config.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_checkpoint_is_safe(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    (tmp_path / "file").touch()
    for name in ("photos", "file"):
        with pytest.raises(OutputError):
            check_folder(tmp_path / name, overwrite)
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty", overwrite)
    check_folder(tmp_path / "nothing", overwrite)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="Choose another place"), new_folder(tmp_path / "out", False):
        pytest.fail("began")


def test_a_link_to_a_folder_is_replaced_alone(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    link.symlink_to(folder)
    with new_folder(link, overwrite=True) as new:
        (new / "config.json").write_text("new")
    assert (folder / "config.json").read_text() == "old"
    assert (link / "config.json").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]
