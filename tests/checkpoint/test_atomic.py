"""Files and folders appear complete or not at all."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from damage import listing

from mlx_mm.checkpoint.atomic import as_name, check_file, check_folder, new_file, new_folder
from mlx_mm.errors import InputError, OutputError

FULL = OSError(errno.ENOSPC, "No space left on device")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    with new_file(path) as new:
        assert new.name == path.name  # some writers append the ending that they expect
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


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


# --- modes and links ------------------------------------------------------------------------------------------------


def test_what_is_new_follows_the_umask(umask: int, tmp_path: Path) -> None:
    with new_file(tmp_path / "a.txt") as new:
        new.write_text("a")
    with new_folder(tmp_path / "out", False) as folder:
        (folder / "b.txt").write_text("b")
    assert mode(tmp_path / "a.txt") == mode(tmp_path / "out" / "b.txt") == 0o666 & ~umask
    assert mode(tmp_path / "out") == 0o777 & ~umask


@pytest.mark.parametrize("old", [0o600, 0o640, 0o664, 0o755])
def test_what_is_replaced_hands_on_its_mode(umask: int, old: int, tmp_path: Path) -> None:
    file, folder = tmp_path / "a.txt", tmp_path / "out"
    file.touch()
    folder.mkdir()
    (folder / "config.json").touch()
    file.chmod(old)
    folder.chmod(old | 0o110)
    with new_file(file) as new:
        new.write_text("new")
    with new_folder(folder, True) as made:
        (made / "config.json").write_text("new")
    assert (mode(file), mode(folder)) == (old, old | 0o110)
    assert file.read_text() == (folder / "config.json").read_text() == "new"


def test_nobody_else_reads_a_private_file_while_it_is_written(tmp_path: Path) -> None:
    with new_file(tmp_path / "a.txt") as new:
        assert mode(new.parent.parent) == 0o700
    with new_folder(tmp_path / "out", False) as folder:
        assert mode(folder.parent.parent) == 0o700


@pytest.mark.parametrize("target", ["real.txt", "deep/real.txt", "{}/deep/real.txt", "other", "missing.txt"])
def test_a_link_to_a_file_stays(target: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "real.txt").write_text("old")
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "other").symlink_to("deep/real.txt")
    link = tmp_path / "link.txt"
    link.symlink_to(target.format(tmp_path))
    with new_file(link) as new:
        new.write_text("new")
    assert os.readlink(link) == target.format(tmp_path)
    assert link.read_text() == Path(os.path.realpath(link)).read_text() == "new"
    assert not Path(os.path.realpath(link)).is_symlink()
    assert not list(tmp_path.rglob(".*"))


def test_other_hard_links_keep_the_old_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")
    with new_file(tmp_path / "a") as new:
        new.write_text("new")
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("new", "old")


@pytest.mark.parametrize("content", ["config.json", None])
def test_a_link_to_a_folder_stays(content: str | None, tmp_path: Path) -> None:
    folder, link = tmp_path / "elsewhere" / "folder", tmp_path / "link"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / content).write_text("old")
    link.symlink_to("elsewhere/folder")
    with new_folder(link, overwrite=content is not None) as new:
        (new / "config.json").write_text("new")
    assert os.readlink(link) == "elsewhere/folder"
    assert (folder / "config.json").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "link"]
    assert os.listdir(tmp_path / "elsewhere") == ["folder"]


# --- places where nothing can be written ----------------------------------------------------------------------------


def test_a_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    with new_file(tmp_path / ("x" * 251 + ".npz")) as new:
        new.write_text("file")
    with new_folder(tmp_path / ("ж" * 127), False) as folder:
        (folder / "a").write_text("folder")
    assert {len(os.fsencode(name)) for name in os.listdir(tmp_path)} == {254, 255}


@pytest.mark.parametrize("name", ["x" * 256, "new/folder/" + "x" * 300, "猫" * 86, "y/" * 2500 + "z"])
def test_longer_names_are_refused_first(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"), new_folder(tmp_path / name, False):
        pytest.fail("began")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 256, "x" * 300 + ".npz", "猫" * 86])
def test_longer_names_of_files_are_refused_first(name: str, tmp_path: Path) -> None:
    for refused in (check_file, lambda path: new_file(path).__enter__()):
        with pytest.raises(OutputError, match=r"File name too long.*Choose a shorter name"):
            refused(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    before = listing(tmp_path)
    for name in ("pipe", "link", "loop", "folder", "/dev/null", "/dev/stdin/x"):
        with pytest.raises(OutputError):
            check_file(tmp_path / name)
        with pytest.raises(OutputError), new_file(tmp_path / name):
            pytest.fail("began")
        if name != "folder":
            with pytest.raises(OutputError), new_folder(tmp_path / name, True):
                pytest.fail("began")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", [".", "..", "{}", "../here", "", "/"])
@pytest.mark.parametrize("full", [False, True])
def test_the_current_folder_is_not_replaced(
    name: str, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if full:
        Path("config.json").touch()
        Path("../config.json").touch()
    before = listing(tmp_path)
    with pytest.raises(OutputError, match="is the current folder"), new_folder(Path(name.format(Path.cwd())), full):
        pytest.fail("began")
    assert listing(tmp_path) == before


def test_a_mount_point_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    with pytest.raises(OutputError, match="is a mount point"), new_folder(tmp_path / "disk", False):
        pytest.fail("began")
    with new_folder(tmp_path / "disk" / "out", False):
        pass


@pytest.mark.parametrize("place", ["/proc/mlx_mm/out", "/proc/out", "/dev/null/out"])
def test_places_where_not_even_root_may_write(place: str) -> None:
    if not os.path.exists("/proc/self"):
        pytest.skip("this system has no /proc")
    with pytest.raises(OutputError, match="Choose another place"), new_folder(Path(place), False):
        pytest.fail("began")
    with pytest.raises(OutputError, match="Choose another place"):
        check_file(Path(place))


def test_names_that_no_file_can_have() -> None:
    for name in ("a\0b", "\ud800", "", "~nobody-of-that-name/x"):
        with pytest.raises(OutputError, match="cannot be a file's name"):
            as_name(name)
    for wrong in (None, 5, b"x", ["x"], True):
        with pytest.raises(InputError, match="expected the name"):
            as_name(wrong)  # type: ignore[arg-type]
    assert as_name("~/x") == Path.home() / "x"
    assert as_name("a\nb") == Path("a\nb")


def test_parents_that_were_made_go_with_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a" / "b" / "out", False):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_limit_of_the_system(kind: str, tmp_path: Path) -> None:
    """EFBIG, as a full disk is ENOSPC."""

    def write() -> None:
        if kind == "file":
            with new_file(tmp_path / "a") as new:
                new.write_bytes(bytes(200_000))
        else:
            with new_folder(tmp_path / "a", False) as new:
                (new / "b").write_bytes(bytes(200_000))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match=r"failed: File too large\. Nothing was kept"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
