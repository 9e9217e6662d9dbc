"""Files and folders that appear complete or not at all.

What is written is put on the disk (fsync) before it takes its name, and the name after it, so that a power cut leaves
the old or the new. docs/writing.md says what holds of modes, links and runs that are killed.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from mlx_mm.checkpoint.exchange import exchange
from mlx_mm.checkpoint.staging import NEW, OLD, staged
from mlx_mm.errors import InputError, OutputError, shown


def as_name(out: str | Path) -> Path:
    """`out` as a path, with ~ for the user's folder; InputError or OutputError for what no file can be called."""
    if not isinstance(out, str | os.PathLike):
        raise InputError(f"The output is {shown(out)}; expected the name of a file or folder. Give a str or a Path.")
    try:
        path = Path(out).expanduser()
        fits = bool(os.fspath(out)) and b"\0" not in os.fsencode(path)
    except (TypeError, ValueError, RuntimeError):  # bytes, half a surrogate pair, the ~ of nobody
        fits = False
    if not fits:
        raise OutputError(
            f"The output is {shown(os.fspath(out))}, which cannot be a file's name; expected another. Choose one."
        )
    return path


def check_folder(out: Path, overwrite: bool) -> None:
    """Raise OutputError, before any work, where `new_folder` would refuse: only an empty folder is filled, and only a
    checkpoint is overwritten; neither where the folder itself must stay, as a mount point or the current one."""
    found = _stat(out)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        kind = "a file" if stat.S_ISREG(found.st_mode) else "no folder"
        raise OutputError(f"{out} is {kind}; expected the name of a new folder.")
    real = _real(out)
    if _current_folder().is_relative_to(real):
        raise OutputError(f"{out} is the current folder, or holds it, and cannot be replaced. Name a new folder.")
    if _is_mount_point(real):
        raise OutputError(f"{out} is a mount point and cannot be replaced. Name a new folder in it.")
    if not os.access(real, os.R_OK | os.W_OK | os.X_OK):
        raise OutputError(f"{out} may not be read or written by you. Choose another name, or change its mode.")
    if not any(real.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{out} exists already. Choose another name, or pass overwrite (--overwrite).")
    if not (real / "config.json").exists():
        raise OutputError(f"{out} is no checkpoint, so it is not overwritten. Choose another name.")


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block succeeds, and vanishes when it fails.

    Where `out` is a link, the folder that it leads to is replaced. A folder that is replaced hands on its mode. Parents
    are made, and removed again where the block fails. An OSError of the block, such as a full disk, becomes an
    OutputError.
    """
    check_folder(out, overwrite)
    real = _real(out)
    with contextlib.ExitStack() as stack:
        with _refused(out):
            stack.enter_context(_parents(real.parent))
            staging = stack.enter_context(staged(real.parent))
            new = staging / NEW / real.name
            new.mkdir()
        try:
            yield new
            _settle(new)
            _take_over(_stat(out), new)
            _place(new, real, staging / OLD / real.name, overwrite)
            _settle_names(real.parent)
        except OSError as error:
            raise _failure(out, error) from error


def check_file(path: Path) -> None:
    """Raise OutputError, before any work, where `new_file` would refuse."""
    with _beside(path):
        pass


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """An empty file of the same name in another folder, that replaces `path` when the block succeeds and vanishes when
    it fails.

    Where `path` is a link, the file that it leads to is replaced; a file hands on its mode, other hard links to it keep
    the old contents. An OSError of the block becomes an OutputError.
    """
    with _beside(path) as new:
        try:
            yield new
            _settle(new)
            _take_over(_stat(path), new)
            new.replace(_real(path))
            _settle_names(_real(path).parent)
        except OSError as error:
            raise _failure(path, error) from error


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The empty file of `new_file`."""
    found = _stat(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise OutputError(f"{path} is a folder; expected the name of a file.")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{path} is a pipe or a device; expected the name of a file. Write to one, and copy that.")
    if found is not None and not os.access(path, os.W_OK):
        raise OutputError(f"{path} may not be written by you. Choose another name, or change its mode.")
    with contextlib.ExitStack() as stack:
        with _refused(path):
            staging = stack.enter_context(staged(_real(path).parent))
            new = staging / NEW / path.name  # some writers append the ending that they expect
            new.touch()
        yield new


def _place(new: Path, real: Path, old: Path, overwrite: bool) -> None:
    """`new` takes the name `real`. What stands there is in the place of `new` then, or was at `old` for a moment."""
    try:
        new.rename(real)  # where nothing stands, or an empty folder
    except OSError as error:
        if not overwrite or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not exchange(new, real):
            old.parent.mkdir()
            real.rename(old)
            new.rename(real)


@contextlib.contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """Inside, the folder is there; one that was made for it stays only where the block succeeds."""
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with contextlib.ExitStack() as failed:
        for parent in reversed(made):
            parent.mkdir(exist_ok=True)
            failed.callback(_remove_empty, parent)
        yield
        failed.pop_all()


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else uses it
        folder.rmdir()


def _take_over(found: os.stat_result | None, new: Path) -> None:
    """The mode of what is replaced, and its owner where we may."""
    if found is not None:
        with contextlib.suppress(PermissionError):
            os.chown(new, found.st_uid, found.st_gid)
        new.chmod(stat.S_IMODE(found.st_mode))


def _settle(path: Path) -> None:
    """Put a file, or a folder with all that is in it, on the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            _settle(inner)
        _settle_names(path)
    else:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _settle_names(folder: Path) -> None:
    """Put the names of a folder on the disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _real(path: Path) -> Path:
    """Where a path leads, through all links."""
    return Path(os.path.realpath(path))


def _is_mount_point(folder: Path) -> bool:
    """Also one that shows another folder of the same disk, which `os.path.ismount` does not see."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()  # Linux: man 5 proc_pid_mountinfo
    except OSError:
        lines = []
    places = {re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), line.split()[4]) for line in lines}
    return os.path.ismount(folder) or os.fsencode(folder) in places


def _current_folder() -> Path:
    try:
        return Path(os.path.realpath(os.getcwd()))
    except OSError:  # it was removed
        return Path(os.sep)


def _stat(path: Path) -> os.stat_result | None:
    """What stands at the end of a path's links; None for nothing. OutputError where nobody can tell."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refusal(path, error) from error


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> OutputError:
    advice = "Choose a shorter name." if error.errno == errno.ENAMETOOLONG else "Choose another place."
    return OutputError(f"Writing {path} failed: {error.strerror or error}. Nothing was kept. {advice}")


def _failure(path: Path, error: OSError) -> OutputError:
    return OutputError(f"Writing {path} failed: {error.strerror or error}. Nothing was kept.")
