"""What is read as text: the lines of stdin, and files of labels, functions and recipes."""

import codecs
import json
import os
import sys
from pathlib import Path

from mlx_mm.errors import InputError, foreign, reason
from mlx_mm.processing.files import open_regular

MAX_BYTES = 256 << 20  # of a file that is read whole

# Byte order marks, longest first: that of UTF-32 begins with that of UTF-16
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """The contents of a text file, or of a pipe that is named; InputError where it cannot be read."""
    if str(path) == os.devnull:  # of all devices the one that is a usual name for nothing
        return ""
    try:
        with open_regular(path, pipes=True) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError for a name that no file can have
        raise InputError(f"Cannot read {path}: {reason(error)}. Expected a UTF-8 text file.") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"Cannot read {path}: it has more than {MAX_BYTES:,} bytes. Expected a UTF-8 text file.")
    return decode(data, str(path))


def read_json_file(path: Path, expected: str) -> object:
    """What a JSON file holds; InputError where it cannot be read. expected: in words, for the message."""
    text = read_text(path)
    with foreign(InputError, f"{path} is not JSON", f"expected {expected}. Correct the file."):
        value: object = json.loads(text)
        return value


def read_stdin() -> str:
    """All of stdin, as text."""
    return decode(_stdin_bytes(), "stdin").replace("\r\n", "\n")


def stdin_items(*, names: bool, null: bool = False) -> list[str]:
    """The lines of stdin that are not empty. names: of files, which may be any bytes. null: items end with a NUL byte,
    as `find -print0` writes them."""
    text = decode(_stdin_bytes(), "stdin", names=names, null=null)
    return [item for item in (text.split("\0") if null else lines(text)) if item.strip()]


def stdin_line() -> str | None:
    """The next line of stdin, in which files may be named; None at the end."""
    _require_stdin()
    buffer = getattr(sys.stdin, "buffer", None)
    data: bytes = sys.stdin.readline().encode("utf-8", "surrogateescape") if buffer is None else buffer.readline()
    return decode(data, "stdin", names=True) if data else None


def lines(text: str) -> list[str]:
    r"""The lines of a text, each of which ends at "\n", or "\r\n", and at nothing else."""
    found = [line.removesuffix("\r") for line in text.split("\n")]
    return found if found[-1] else found[:-1]


def decode(data: bytes, where: str, *, names: bool = False, null: bool = False) -> str:
    """Text in UTF-8, or in what a byte order mark says, without the mark. where: it comes from, for the InputError."""
    mark = next((mark for mark in _MARKS if data.startswith(mark)), None)
    if mark is None and names:
        text = os.fsdecode(data)
    else:
        try:
            text = data.decode("utf-8" if mark is None else _MARKS[mark])
        except UnicodeDecodeError as error:
            raise InputError(f"Cannot read {where}: {reason(error)}. Expected a UTF-8 text file.") from error
    if "\0" in text and not null:
        raise InputError(
            f"{where} has NUL bytes, as UTF-16 without its mark has, or a list of `find -print0`; expected text in "
            "UTF-8. Save it as that; for such a list of names pass --null."
        )
    return text


def _stdin_bytes() -> bytes:
    _require_stdin()
    buffer = getattr(sys.stdin, "buffer", None)
    try:
        data: bytes = sys.stdin.read().encode("utf-8", "surrogateescape") if buffer is None else buffer.read()
    except OSError as error:
        raise InputError(f"Cannot read stdin: {reason(error)}. Expected a terminal, a file or a pipe.") from error
    return data


def _require_stdin() -> None:
    if sys.stdin is None:
        raise InputError("stdin is closed; expected a terminal, a file or a pipe. Open it, or name the input.")
