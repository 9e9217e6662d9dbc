"""Files and folders that appear complete or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlx_mm.errors import OutputError


def check_folder(out: Path, overwrite: bool) -> None:
    """Raise OutputError, before any work, where `new_folder` would refuse: only an empty folder is filled, and only a
    checkpoint is overwritten."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; expected the name of a new folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{out} exists already. Choose another name, or pass overwrite (--overwrite).")
    if not (out / "config.json").exists():
        raise OutputError(f"{out} is no checkpoint, so it is not overwritten. Choose another name.")


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary sibling of `out` that takes its place when the block succeeds, and vanishes when it fails.

    Its parents are made. An OSError of the block, such as a full disk, becomes an OutputError.
    """
    check_folder(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError(f"Cannot write to {out.parent}: {error.strerror}. Choose another place.") from error
    old = new.with_name(new.name + ".old")
    try:
        yield new
        new.chmod(0o755)  # mkdtemp's is private
        if out.exists():
            out.rename(old)
        new.rename(out)
    except OSError as error:
        raise _failure(out, error) from error
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(new, ignore_errors=True)
        if old.is_symlink():
            old.unlink()
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, with its ending, that replaces it when the block succeeds and vanishes when it
    fails. An OSError of the block becomes an OutputError."""
    new = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.resolve().parent)
        os.close(handle)
        new = Path(name)
        yield new
        new.chmod(0o644)  # mkstemp's is private
        new.replace(path)
    except OSError as error:
        raise _failure(path, error) from error
    finally:
        if new is not None:
            new.unlink(missing_ok=True)


def _failure(path: Path, error: OSError) -> OutputError:
    return OutputError(f"Writing {path} failed: {error.strerror or error}. Nothing was kept.")
