"""Files that are opened by name: regular ones, within bounds, and as what they claim to hold."""

import contextlib
import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import BinaryIO

from mlx_mm.errors import ConfigError, MlxMmError, foreign

MAX_JSON_BYTES = 256 << 20  # the largest tokenizer.json of a supported checkpoint has 33 MB
MAX_DEPTH = 64  # of objects and lists within each other


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


def read_json(path: Path, error: type[MlxMmError] = ConfigError) -> dict[str, object]:
    """The object in a JSON file, {} where there is no such file; raises `error` for anything else."""
    if not os.path.lexists(path):
        return {}
    values = load_json(path, error)
    if not isinstance(values, dict):
        raise error(f"{path} holds a {type(values).__name__}; expected a JSON object. Download it again.")
    return values


def load_json(path: Path, error: type[MlxMmError] = ConfigError) -> object:
    """What a JSON file holds; raises `error` where it is not there or not JSON.

    It can be written and shown again: values do not lie within each other without end, all texts are Unicode, and all
    numbers finite.
    """
    advice = "expected a file with JSON in UTF-8. Download it again."
    with foreign(error, f"{path} cannot be read", advice):
        data = read_regular(path, MAX_JSON_BYTES)
    with foreign(error, f"{path} cannot be read: it is not JSON", advice):
        values: object = json.loads(data.decode("utf-8-sig"))
        _check_values(values)
    return values


def _check_values(values: object) -> None:
    """ValueError for values within each other without end, texts with half of a surrogate pair, and NaN or infinity."""
    level = [("a value", values)]
    for _ in range(MAX_DEPTH):
        "".join(part for _, part in level if isinstance(part, str)).encode()
        for name, part in level:
            if isinstance(part, float) and not math.isfinite(part):
                raise ValueError(f"{name} is {part}")
        "".join(key for _, part in level if isinstance(part, dict) for key in part).encode()
        lists = [(name, part) for name, part in level if isinstance(part, list)]
        dicts = [part for _, part in level if isinstance(part, dict)]
        if not lists and not dicts:
            return
        level = [(name, item) for name, part in lists for item in part]
        level += [pair for part in dicts for pair in part.items()]
    raise ValueError(f"values lie within each other more than {MAX_DEPTH} times")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "something else")
