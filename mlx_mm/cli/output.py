"""The one way out: text without what steers a terminal or tears a line, JSON in UTF-8, and streams that fail."""

import contextlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from typing import TextIO

from mlx_mm.errors import OutputError, reason

# C0 and C1 controls, the separators of lines and paragraphs, what embeds, overrides or isolates a direction (UAX 9),
# and surrogates, of which those of U+DC80…DCFF stand for the bytes of a file name that is not UTF-8 (PEP 383)
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def visible(text: str) -> str:
    r"""Text on one line that steers no terminal: in place of a control character stands `\x1b` or the like."""
    return UNSAFE.sub(_escaped, text)


def json_text(value: object, *, indent: int | None = None) -> str:
    r"""JSON that gives the very value back, safe on a terminal; readable but for `\u…` in place of what is not.

    Raises OutputError for a number that is not finite, which JSON does not have.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    except ValueError as error:
        raise OutputError(
            "The result has a number that is not finite; expected one that JSON can hold. Check the input."
        ) from error
    return UNSAFE.sub(lambda found: "\n" if found.group() == "\n" else f"\\u{ord(found.group()):04x}", text)


def say(text: str) -> None:
    """Results for people, on stdout: one line, or lines whose breaks are ours."""
    put("\n".join(map(visible, text.split("\n"))) + "\n")


def say_json(value: object, *, indent: int | None = 2) -> None:
    """Results for programs, on stdout: in UTF-8, whatever the encoding of the terminal."""
    put_json(json_text(value, indent=indent))


def put_json(text: str) -> None:
    """What `json_text` made, and the end of its line, on stdout."""
    put_bytes(text.encode() + b"\n")


def put_bytes(data: bytes) -> None:
    """Bytes as they are, on stdout, such as names of files, which may be any."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        flush()  # what is waiting there comes first
        with _failing():
            sys.stdout.buffer.write(data)
    else:
        put(data.decode("utf-8", "backslashreplace"))


def say_beside(text: str) -> None:
    """One line on stderr; nothing where there is no stderr, or it takes nothing."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(visible(text) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        abandon(sys.stderr)


def put(text: str) -> None:
    """Text as it is, on stdout. Raises OutputError where that takes nothing, such as on a full disk."""
    if sys.stdout is None:
        raise OutputError("stdout is closed; expected a terminal, a file or a pipe. Open it, or send it to /dev/null.")
    with _failing():
        sys.stdout.write(text)


def flush() -> None:
    """What was said arrives now, or an OutputError says why not."""
    if sys.stdout is not None:
        with _failing():
            sys.stdout.flush()


def abandon(stream: TextIO | None) -> None:
    """Send what a stream still holds nowhere, so that Python does not stumble over it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream in a test has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]


def prepare_streams() -> None:
    """Let standard streams take any character; where one is closed, let no file of ours have its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def watched(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal."""
    return stream is not None and stream.isatty()


def terminal_width() -> int | None:
    """Columns of the terminal that shows the results; None where they go elsewhere."""
    return shutil.get_terminal_size().columns if watched(sys.stdout) else None


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return _SHORT.get(found.group()) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Inside, stdout that takes nothing is an OutputError; a reader that has gone away is not."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:  # a ValueError where somebody closed it in this process
        abandon(sys.stdout)
        raise OutputError(
            f"Writing to stdout failed ({reason(error)}); expected one that takes the results. Send them elsewhere."
        ) from error
