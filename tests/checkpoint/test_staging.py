"""What a killed run left is removed by the next one, what a living one writes is not, and folders change places."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_mm.checkpoint import atomic, exchange, hub, undisturbed
from mlx_mm.checkpoint.atomic import check_file, new_file, new_folder
from mlx_mm.checkpoint.staging import LOCK, NEW, OLD, PREFIX, put_back, sweep
from mlx_mm.errors import ModelNotFoundError, OutputError

KILLED = """
import os, sys, time
from pathlib import Path
from mlx_mm.checkpoint import atomic
with atomic.{block} as new:
    (new / "half" if new.is_dir() else new).write_text("half")
    print(flush=True)
    time.sleep(60)
"""


def killed(block: str, folder: Path) -> None:
    """Kill a process that writes in `folder`."""
    command = [sys.executable, "-c", KILLED.format(block=block)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(atomic.__file__).parents[2])}


def make(path: Path, content: str) -> None:
    path.mkdir(parents=True)
    (path / "config.json").write_text(content)


def write(path: Path, text: str = "new") -> None:
    with new_file(path) as new:
        new.write_text(text)


def replace(path: Path, text: str = "new") -> None:
    with new_folder(path, True) as new:
        (new / "config.json").write_text(text)


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- what runs leave ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["new_folder(Path('out'), True)", "new_file(Path('v.npz'))"])
def test_the_next_run_removes_what_a_killed_one_left(block: str, tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    (tmp_path / "v.npz").write_text("old")
    killed(block, tmp_path)
    killed(block, tmp_path)
    assert len(left(tmp_path)) == 3  # the second run has removed what the first one left
    with pytest.warns(UserWarning, match=f"^Removed what a run that was killed had left in {tmp_path}\\.$") as warned:
        write(tmp_path / "another.txt")
    assert len(warned) == 1
    assert left(tmp_path) == ["another.txt", "out", "v.npz"]
    assert (tmp_path / "out" / "config.json").read_text() == (tmp_path / "v.npz").read_text() == "old"
    with new_folder(tmp_path / "out", True):  # nothing more to warn of
        pass


def test_a_check_removes_it_too(tmp_path: Path) -> None:
    killed("new_file(Path('v.npz'))", tmp_path)
    with pytest.warns(UserWarning, match="Removed"):
        check_file(tmp_path / "v.npz")
    assert left(tmp_path) == []


def test_a_living_run_keeps_what_it_writes(tmp_path: Path) -> None:
    with new_file(tmp_path / "a") as first, new_folder(tmp_path / "out", False) as second:
        sweep(tmp_path)
        with new_file(tmp_path / "a") as third:
            third.write_text("third")
        first.write_text("first")
        (second / "x").write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # whoever ends last
    assert (tmp_path / "out" / "x").read_text() == "second"
    assert left(tmp_path) == ["a", "out"]


def test_many_runs_at_once(tmp_path: Path) -> None:
    """Each sweeps what the others have just made and not yet locked."""
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(15):
                write(tmp_path / f"{number % 2}")
                replace(tmp_path / "out")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert left(tmp_path) == ["0", "1", "out"]
    assert left(tmp_path / "out") == ["config.json"]


def test_two_runs_make_the_same_folder(tmp_path: Path) -> None:
    def second() -> None:
        with new_folder(tmp_path / "out", False) as new:
            replace(tmp_path / "out", "second")
            (new / "config.json").write_text("first")

    with pytest.raises(OutputError, match="not empty"):
        second()
    assert (tmp_path / "out" / "config.json").read_text() == "second"
    assert left(tmp_path) == ["out"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}file").touch()
    make(tmp_path / f"{PREFIX}folder", "without a lock")
    make(tmp_path / "elsewhere" / NEW, "x")
    (tmp_path / "elsewhere" / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to("elsewhere")
    make(tmp_path / f"{PREFIX}pipe" / NEW, "x")
    os.mkfifo(tmp_path / f"{PREFIX}pipe" / "own")
    (tmp_path / f"{PREFIX}pipe" / LOCK).touch()
    before = left(tmp_path)
    sweep(tmp_path)
    assert left(tmp_path) == before
    assert (tmp_path / "elsewhere" / NEW / "config.json").exists()
    (tmp_path / f"{PREFIX}empty").mkdir()  # its run was killed before it had a lock
    sweep(tmp_path)
    assert left(tmp_path) == before


def test_where_there_are_no_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    make(tmp_path / f"{PREFIX}left" / NEW, "x")
    (tmp_path / f"{PREFIX}left" / LOCK).touch()
    monkeypatch.setattr("fcntl.flock", refuse)
    with new_file(tmp_path / "a") as new:
        new.write_text("a")
    assert left(tmp_path) == [f"{PREFIX}left", "a"]


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "Read-only file system"), None])
def test_signals_wait_for_what_is_made_and_cleared(
    error: OSError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    usual = tempfile.mkdtemp

    def make(**options: Any) -> str:
        undisturbed.disturb(lambda: called.append("after"))
        assert called == []
        if error is not None:
            raise error
        return usual(**options)

    monkeypatch.setattr(tempfile, "mkdtemp", make)
    if error is None:
        write(tmp_path / "a")
    else:
        with pytest.raises(OutputError):
            write(tmp_path / "a")
    assert called == ["after"]
    assert not undisturbed.Section.held


# --- one step or two ------------------------------------------------------------------------------------------------


def no_exchange(_one: Path, _other: Path) -> bool:
    return False


def test_exchange(tmp_path: Path) -> None:
    make(tmp_path / "a", "a")
    make(tmp_path / "b", "b")
    done = exchange.exchange(tmp_path / "a", tmp_path / "b")
    assert done or sys.platform not in ("linux", "darwin")
    assert (tmp_path / "a" / "config.json").read_text() == ("b" if done else "a")
    with pytest.raises(FileNotFoundError):
        exchange.exchange(tmp_path / "a", tmp_path / "missing")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENOTSUP])
def test_systems_without_an_exchange(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_one: bytes, _other: bytes) -> int:
        ctypes.set_errno(code)
        return -1

    make(tmp_path / "out", "old")
    monkeypatch.setattr(exchange, "find_call", lambda: fail)
    with new_folder(tmp_path / "out", True) as new:
        (new / "config.json").write_text("new")
    monkeypatch.setattr(exchange, "find_call", lambda: None)
    assert (tmp_path / "out" / "config.json").read_text() == "new"
    with new_folder(tmp_path / "out", True) as new:
        (new / "config.json").write_text("newer")
    assert (tmp_path / "out" / "config.json").read_text() == "newer"
    assert left(tmp_path) == ["out"]


def test_another_error_of_the_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_one: bytes, _other: bytes) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    make(tmp_path / "out", "old")
    monkeypatch.setattr(exchange, "find_call", lambda: fail)
    with pytest.raises(OutputError, match="Input/output error"), new_folder(tmp_path / "out", True):
        pass
    assert (tmp_path / "out" / "config.json").read_text() == "old"
    assert left(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("system", "machine", "names", "expected"),
    [
        ("darwin", "arm64", ["renamex_np"], ("renamex_np", b"a", b"b", 2)),
        ("linux", "x86_64", ["renameat2", "syscall"], ("renameat2", -100, b"a", -100, b"b", 2)),
        ("linux", "x86_64", ["syscall"], ("syscall", 316, -100, b"a", -100, b"b", 2)),
        ("linux", "aarch64", ["syscall"], ("syscall", 276, -100, b"a", -100, b"b", 2)),
        ("linux", "riscv64", ["syscall"], None),
        ("freebsd", "x86_64", ["syscall"], None),
    ],
)
def test_the_call_of_each_system(
    system: str, machine: str, names: list[str], expected: tuple[Any, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[Any, ...]] = []

    def function(name: str) -> Callable[..., int]:
        def call(*given: Any) -> int:
            called.append((name, *(each.value if isinstance(each, ctypes.c_long) else each for each in given)))
            return 0

        return call

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    library = SimpleNamespace(**{name: function(name) for name in names})
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    call = exchange.find_call()
    assert (call is None) == (expected is None)
    if call is not None:
        call(b"a", b"b")
        assert called == [expected]


def test_the_second_of_two_renames_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out", "old")
    rename, calls = Path.rename, []

    def fail(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == 3:  # in vain onto a full folder, the old one aside, the new one in its place
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(atomic, "exchange", no_exchange)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="Input/output error"), new_folder(tmp_path / "out", True) as new:
        (new / "config.json").write_text("new")
    assert (tmp_path / "out" / "config.json").read_text() == "old"
    assert left(tmp_path) == ["out"]


KILLED_BETWEEN = """
import os, signal
from pathlib import Path
from mlx_mm.checkpoint import atomic
atomic.exchange = lambda one, other: False
rename = Path.rename
def kill(path, target):
    rename(path, target)
    if path == Path("out").absolute():
        os.kill(os.getpid(), signal.SIGKILL)
Path.rename = kill
with atomic.new_folder(Path("out"), True) as new:
    (new / "config.json").write_text("new")
"""


@pytest.fixture
def set_aside(tmp_path: Path) -> Path:
    """`out`, which a run has set aside before it was killed."""
    make(tmp_path / "out", "old")
    ended = subprocess.run([sys.executable, "-c", KILLED_BETWEEN], cwd=tmp_path, env=environment(), check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    return tmp_path / "out"


def test_the_next_run_puts_back_what_was_set_aside(set_aside: Path) -> None:
    with pytest.warns(UserWarning, match="Removed what a run that was killed had left in .*; out, .* is back"):
        sweep(set_aside.parent)
    assert (set_aside / "config.json").read_text() == "old"
    replace(set_aside)
    assert (set_aside / "config.json").read_text() == "new"
    assert left(set_aside.parent) == ["out"]


@pytest.mark.parametrize("way", ["as it is", "by a link"])
def test_who_opens_it_finds_it(way: str, set_aside: Path) -> None:
    path = set_aside
    if way == "by a link":
        path = set_aside.with_name("link")
        path.symlink_to("out")
    with pytest.warns(UserWarning, match="is back"):
        assert hub.resolve(path) == path
    assert (path / "config.json").read_text() == "old"
    assert left(set_aside.parent) in (["out"], ["link", "out"])


def test_another_name_does_not_stir_it(set_aside: Path) -> None:
    put_back(set_aside.with_name("other"))
    with pytest.raises(ModelNotFoundError):
        hub.resolve(set_aside.with_name("other"))
    assert not set_aside.exists()


def test_nothing_is_put_back_onto_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / f"{PREFIX}left"
    make(folder / OLD / "out", "old")
    make(folder / NEW, "")
    (folder / LOCK).touch()
    make(tmp_path / "out", "new")
    with pytest.warns(UserWarning, match="Removed"):
        sweep(tmp_path)
    assert (tmp_path / "out" / "config.json").read_text() == "new"
    assert left(tmp_path) == ["out"]
