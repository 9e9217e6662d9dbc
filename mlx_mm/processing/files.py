"""Files that are opened by name: regular ones, within bounds, and as what they claim to hold."""

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

from mlx_mm.errors import ConfigError, foreign

MAX_JSON_BYTES = 256 << 20  # the largest tokenizer.json of a supported checkpoint has 33 MB


def open_regular(path: str | os.PathLike[str], *, pipes: bool = False) -> BinaryIO:
    """A regular file, opened for reading without ever waiting; OSError for anything else, such as a device.

    pipes: take a pipe, too, and wait for its writer, which is right where the user named it.
    """
    waits = pipes and stat.S_ISFIFO(os.stat(path).st_mode)
    with contextlib.ExitStack() as kept:
        file = kept.enter_context(open(path, "rb", opener=os.open if waits else _without_waiting))
        mode = os.fstat(file.fileno()).st_mode
        if not (stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode))):
            raise OSError(errno.EINVAL, f"it is {_kind(mode)}, no regular file", os.fspath(path))
        if hasattr(os, "set_blocking"):
            os.set_blocking(file.fileno(), True)
        kept.pop_all()
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_regular(path: str | os.PathLike[str], most: int) -> None:
    """OSError for what is no regular file, or has more than `most` bytes; for libraries that open files themselves."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The contents of a regular file; OSError for another, and for more than `most` bytes."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
    return data


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file, {} where there is no such file; raises ConfigError for anything else."""
    if not os.path.lexists(path):
        return {}
    with foreign(ConfigError, f"{path} cannot be read", "expected a file with JSON in UTF-8. Download it again."):
        values = json.loads(read_regular(path, MAX_JSON_BYTES).decode("utf-8-sig"))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected a JSON object. Download it again.")
    return values


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "something else")
