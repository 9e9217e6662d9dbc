"""Where pictures, sounds and videos come from: paths, URLs, data URIs, bytes and open files, opened in one place."""

import base64
import binascii
import io
import os
import stat
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, TypeAlias, TypeGuard, cast

from mlx_mm.errors import MediaError, foreign, reason
from mlx_mm.processing.fetching import MOST_BYTES, fetch, short_name
from mlx_mm.processing.files import open_regular

if TYPE_CHECKING:
    from mlx_mm.processing.glance import Glance

MOST_URI_CHARACTERS = MOST_BYTES // 3 * 4 + 1000  # the same in base64, and what stands before it
BUFFER = 1 << 16

_LOCKS = [threading.Lock() for _ in range(61)]


class Readable(Protocol):
    """An open file, or whatever else gives bytes: io.BytesIO, open(path, "rb"), a response of urllib."""

    def read(self, size: int = ..., /) -> bytes:
        """At most so many bytes, all of them by default."""


class Kind(NamedTuple):
    """What is expected, in words and as the first part of a MIME type."""

    noun: str
    mime: str


PICTURE = Kind("an image", "image")
SOUND = Kind("a sound", "audio")
VIDEO = Kind("a video", "video")
MEDIUM = Kind("a picture, sound or video", "image")


@dataclass(frozen=True)
class Source:
    """An encoded picture, sound or video.

    name: what messages call it. open: gives a file at its start that can be read and seeked, as often as it is called;
    OSError or ValueError where that fails. path: of a regular file, None for everything else. glance: what is to learn
    of a picture when it is decoded.
    """

    name: str
    open: Callable[[], BinaryIO]
    path: str | None = None
    glance: "Glance | None" = None

    def opened(self, kind: Kind) -> BinaryIO:
        """What `open` gives; MediaError where it fails."""
        try:
            return self.open()
        except (OSError, ValueError) as error:
            raise MediaError(
                f"{self.name} cannot be opened ({reason(error)}); expected {kind.noun} file. Check the path and its "
                "permissions."
            ) from error


EncodedSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Source


def source_of(given: object, kind: Kind) -> Source | None:
    """Where an encoded picture, sound or video is found; None for what is none of the kinds of `EncodedSource`.

    A URL is fetched here, a data URI decoded, a pipe read to its end; all of them and files that cannot be seeked up
    to MOST_BYTES. Raises MediaError.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, bytes | bytearray | memoryview):
        data = bytes(given)
        return _in_memory(data, f"the {len(data)} bytes given")
    if isinstance(given, str) and given[:5].lower() == "data:":
        return _in_memory(read_data_uri(given, kind), "the data URI")
    if isinstance(given, str) and given[:8].lower().startswith(("http://", "https://")):
        return _in_memory(fetch(given, kind.noun), short_name(given))
    if isinstance(given, str | os.PathLike):
        return _at_path(os.fsdecode(given), kind)
    return _of_file(given, kind) if is_file(given) else None


def is_file(given: object) -> TypeGuard[Readable]:
    """Whether it is an open file or the like, which is one picture or sound, however it could be iterated over."""
    return callable(getattr(given, "read", None)) and not isinstance(given, type)


def each_once(items: Iterable[object]) -> list[object]:
    """The items, with files that stand among them more than once in a form that is read once."""
    kept = list(items)
    times = Counter(id(item) for item in kept if is_file(item))
    sources = {id(item): _of_file(item) for item in kept if times[id(item)] > 1 and is_file(item)}
    return [sources.get(id(item), item) for item in kept]


def lock_of(held: object) -> threading.Lock:
    """The lock of an open file, which has no place for one of its own; two files may share it."""
    return _LOCKS[id(held) // 16 % len(_LOCKS)]


def read_data_uri(uri: str, kind: Kind) -> bytes:
    """What a data URI holds; MediaError for one that cannot be decoded, or has more than MOST_URI_CHARACTERS."""
    if len(uri) > MOST_URI_CHARACTERS:
        raise MediaError(
            f"The data URI {short_name(uri)} is too long; expected at most {MOST_URI_CHARACTERS:,} characters, "
            f"{MOST_BYTES:,} bytes in base64. Give {kind.noun} of that size as a path or an open file."
        )
    header, comma, body = uri.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if not header.lower().endswith(";base64"):
            return urllib.parse.unquote_to_bytes(body)
        data = urllib.parse.unquote_to_bytes(body) if "%" in body else body.encode("ascii")
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error:  # line breaks, mostly
            return base64.b64decode(data.translate(None, b" \t\r\n\f\v"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise MediaError(
            f"The data URI {short_name(uri)} cannot be decoded ({reason(error)}); expected "
            f"data:{kind.mime}/...;base64,... Check that it is complete."
        ) from error


def _in_memory(data: bytes, name: str) -> Source:
    return Source(name, lambda: io.BytesIO(data))


def _at_path(path: str, kind: Kind) -> Source:
    source = Source(short_name(path), lambda: open_regular(path), path)
    try:
        pipe = stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):  # which opening it will say better
        return source
    if not pipe:
        return source
    with Source(source.name, lambda: open_regular(path, pipes=True)).opened(kind) as file:
        return _in_memory(_all_of(file, source.name, kind), source.name)


def _of_file(file: Readable, kind: Kind = MEDIUM) -> Source:
    """An open file from its start, wherever it stands; one that cannot go back is read when it is first needed."""
    label = getattr(file, "name", None)
    name = f"the open file {short_name(label)}" if isinstance(label, str) else f"the {type(file).__name__} given"
    held: list[bytes] = []

    def again() -> BinaryIO:
        if isinstance(cast("object", file), io.TextIOBase):
            raise MediaError(
                f"{name} is open for text; expected one that gives bytes. Open it with mode 'rb', or give its .buffer."
            )
        with foreign(MediaError, f"{name} cannot be read", f"expected {kind.noun} file, open for reading bytes."):
            if not held and _can_seek(file):
                return io.BufferedReader(_View(cast("BinaryIO", file)), BUFFER)
            with lock_of(file):
                if not held:
                    held.append(_all_of(file, name, kind))
            return io.BytesIO(held[0])

    return Source(name, again)


def _can_seek(file: Readable) -> bool:
    seekable = getattr(file, "seekable", None)
    return bool(seekable()) if callable(seekable) else hasattr(file, "seek") and hasattr(file, "tell")


def _all_of(file: Readable, name: str, kind: Kind) -> bytes:
    parts, size = [], 0
    with foreign(MediaError, f"{name} cannot be read", f"expected {kind.noun} file, open for reading bytes."):
        while part := file.read(BUFFER):
            parts.append(_as_bytes(part))
            size += len(part)
            if size > MOST_BYTES:
                raise MediaError(
                    f"{name} goes on after {MOST_BYTES:,} bytes, and cannot be seeked; expected {kind.noun} below that."
                    " Write it to a file and give its path."
                )
    return b"".join(parts)


def _as_bytes(found: object) -> bytes:
    if isinstance(found, bytes | bytearray | memoryview):
        return bytes(found)
    raise TypeError(f"reading it gives {type(found).__name__}, not bytes")


class _View(io.RawIOBase):
    """A file that others may read at the same time: it keeps a place of its own, and leaves the file where it was."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._place = 0
        with lock_of(file):
            self._before = file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            with lock_of(self._file):
                self._file.seek(0, io.SEEK_END)
                offset += self._file.tell()
        elif whence == io.SEEK_CUR:
            offset += self._place
        if offset < 0:
            raise ValueError(f"place {offset} lies before the start")
        self._place = offset
        return offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with lock_of(self._file):
            if self._file.tell() != self._place:
                self._file.seek(self._place)
            data = _as_bytes(self._file.read(len(buffer)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed and not getattr(self._file, "closed", False):
            with lock_of(self._file):
                self._file.seek(self._before)
        super().close()
