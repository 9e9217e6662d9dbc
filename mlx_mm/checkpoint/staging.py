"""A folder beside what is written, in which it grows, and which the next run removes where its own was killed.

    .mlx_mm-XXXXXXXX/
    ├── lock     is locked for as long as the run lives; the system unlocks it, however the run ends
    ├── new/     what is being written
    └── old/     what stood at its name, for the moment between two renames where the system has no one step

A run writes beside its target, so that a rename is all that is left to do. An unlocked folder belongs to no run: no
number of a process, which may be given anew, and no time is trusted. A run that has made its folder and not yet locked
it may lose it, notices that by the file of the lock, and makes another. Where the file system has no locks nobody
can tell, and nothing is removed.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from mlx_mm.checkpoint import undisturbed

PREFIX = ".mlx_mm-"
LOCK, NEW, OLD = "lock", "new", "old"


@contextlib.contextmanager
def staged(parent: Path) -> Iterator[Path]:
    """A new staging folder in `parent`, for this run alone, that vanishes with what is left in it.

    Those of runs that have ended are removed first, see `sweep`. What stands in `old/` at the end goes back to its
    place if nothing is there. Raises OSError where none can be made.
    """
    sweep(parent)
    undisturbed.Section.held = True
    try:
        folder, lock = _make(parent)
    except OSError:
        undisturbed.end()
        raise
    try:
        undisturbed.end()
        (folder / NEW).mkdir()
        yield folder
    finally:
        undisturbed.Section.held = True
        _clear(folder)
        os.close(lock)
        undisturbed.end()


def sweep(parent: Path) -> None:
    """Remove the staging folders in `parent` whose runs have ended, put back what these had set aside, and warn."""
    removed, back = 0, list[Path]()
    for folder in _folders(parent):
        lock = _take(folder)
        if lock is not None:
            try:
                begun = (folder / NEW).exists()  # else a run has just made it, or has just ended well
                back += _clear(folder)
                removed += begun and not folder.exists()
            finally:
                os.close(lock)
    if removed or back:
        whose = "a run that was killed" if removed < 2 else f"{removed} runs that were killed"
        again = "".join(f"; {path.name}, which was set aside, is back" for path in back)
        warnings.warn(f"Removed what {whose} had left in {parent}{again}.", stacklevel=2)


def put_back(path: Path) -> None:
    """Where nothing stands at `path`, put back what a run that was killed had set aside there, and warn of it."""
    place = Path(os.path.realpath(path))
    if os.path.lexists(place):
        return
    if any(os.path.lexists(folder / OLD / place.name) for folder in _folders(place.parent)):
        sweep(place.parent)


def _folders(parent: Path) -> list[Path]:
    """The staging folders of this user."""
    try:
        names = [name for name in os.listdir(parent) if name.startswith(PREFIX)]
    except OSError:
        return []  # there is no such folder, or it may not be listed
    return [parent / name for name in names if _is_own_folder(parent / name)]


def _is_own_folder(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:  # somebody has removed it
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _make(parent: Path) -> tuple[Path, int]:
    """A new staging folder, which only this user may enter, and its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with contextlib.suppress(FileNotFoundError):  # somebody took it for left behind
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = os.path.samestat(os.stat(folder / LOCK), os.fstat(lock))
            except (BlockingIOError, FileNotFoundError):
                mine = False
            except OSError:
                mine = True  # no locks here
            if mine:
                return folder, lock
            os.close(lock)


def _take(folder: Path) -> int | None:
    """The lock of a folder whose run has ended; None where it lives, or nobody can tell."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            folder.rmdir()  # empty: its run was killed before it wrote, or locks it just now and makes another
        return None
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _clear(folder: Path) -> list[Path]:
    """Remove a staging folder, its lock last; returns what went back to its place. What cannot go stays for later."""
    back = []
    try:
        for old in (folder / OLD).iterdir() if (folder / OLD).is_dir() else ():
            place = folder.parent / old.name
            if not os.path.lexists(place):
                old.rename(place)
                back.append(place)
    except OSError:
        return back
    for name in (NEW, OLD):
        shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        if set(os.listdir(folder)) == {LOCK}:
            (folder / LOCK).unlink()
            folder.rmdir()
    return back
