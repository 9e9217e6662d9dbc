"""Encoded sounds: libsndfile for most, PyAV for the others, and what both make of damaged or unfinished files."""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import soundfile

from mlx_mm.errors import MediaError, foreign
from mlx_mm.processing.fetching import is_page
from mlx_mm.processing.sound_headers import Mended, mended_mpeg, starts_as_mpeg, unfinished
from mlx_mm.processing.sources import SOUND, Source

Found = TypeVar("Found")
Reader: TypeAlias = Callable[[int], Iterator[npt.NDArray[Any]]]  # samples at a time -> blocks (n, channels)

LOWEST_RATE = 1000  # Hz; below it stand slips, such as 48 for 48 kHz, that would grow to gigabytes
HIGHEST_RATE = 10**9  # Hz; what stands above it is damage

_UNRECOGNISED = 1  # libsndfile's number for it
_USUAL_CHANNELS = 8  # with more of them, fewer samples are decoded at once
_UNKNOWN_COUNT = 2**48  # samples; what libsndfile says of a stream without a length is more
# libsndfile's log where a chunk promises more bytes than there are, and what pipes write for "until the end".
_CUT_OFF = re.compile(r"(\d+) \(should be (\d+)\)")
_UNKNOWN_SIZE = 0x7FFF0000
_SLACK = 64  # bytes; some writers count a chunk's own header or its padding
# Containers that libsndfile has no decoder for, by what stands in their first bytes: ISO media (m4a, mp4, mov, 3gp),
# Matroska and WebM, ADTS AAC, ASF (wma).
_CONTAINER = re.compile(rb"....ftyp|\x1aE\xdf\xa3|\xff[\xf0\xf1\xf8\xf9]|0&\xb2u\x8ef\xcf\x11", re.DOTALL)


@dataclass(frozen=True)
class Sound:
    """A sound that is not decoded yet. rate: in Hz. count: samples per channel, 0 where nothing says it."""

    name: str
    rate: float
    count: int
    read: Reader


def open_sound(source: Source) -> Sound:
    """What an encoded sound holds; MediaError for what cannot be read, here or when it is decoded."""
    with _opened(source) as file, reading(source.name):
        start = file.read(2048)
        if not start:
            raise unreadable(source.name, "it is empty")
        if is_page(start):
            raise unreadable(source.name, "it is a web page, which was saved in place of the file")
        if _CONTAINER.match(start):
            return _container(source)
        # libmpg123 writes to stderr about what is no MP3 after all, so it is not asked.
        likely = starts_as_mpeg(start)
        mpeg = mended_mpeg(file) if likely or start[:3] == b"ID3" else None
        if mpeg is None and likely:
            raise unreadable(source.name, "its frames do not follow each other")
        if mpeg is not None and mpeg != (0, {}):
            return _decoded(source, _parts(source, mpeg))
        try:
            return _decoded(source, lambda: _unnamed(source))
        except MediaError as error:
            other: Mended | None = Mended(0, unfinished(file))
            if other == (0, {}):
                other = mended_mpeg(file) if getattr(error.__cause__, "code", 0) == _UNRECOGNISED else None
            if other is None:
                raise
            return _decoded(source, _parts(source, other))


def _parts(source: Source, mended: Mended) -> Callable[[], Any]:
    return lambda: _Part(source.open(), mended.start, mended.changes)


def reading(name: str) -> contextlib.AbstractContextManager[None]:
    """The net around everything that a library does with an encoded sound."""
    return foreign(
        MediaError,
        f"{name} cannot be read as a sound",
        "expected a complete wav, flac, ogg or mp3 file. Download or convert it again.",
    )


def unreadable(name: str, found: str) -> MediaError:
    """The same error for what was found here."""
    return MediaError(
        f"{name} cannot be read as a sound ({found.strip().rstrip('.')}); expected a complete wav, flac, ogg or mp3 "
        "file. Download or convert it again."
    )


def _opened(source: Source) -> BinaryIO:
    try:
        return source.opened(SOUND)
    except MediaError as error:
        folder = isinstance(error.__cause__, IsADirectoryError)
        if not folder and not isinstance(error.__cause__, FileNotFoundError):
            raise
        found = "a folder" if folder else "not there"
        raise MediaError(f"{source.name} is {found}; expected a sound file.") from error


def _unnamed(source: Source) -> Any:
    """What soundfile opens: a descriptor where there is one, as of a path libsndfile would believe the ending."""
    file = source.open()
    if source.path is None:
        return _Memory(file.getvalue()) if isinstance(file, io.BytesIO) else _Part(file, 0, {})
    with file:
        return os.dup(file.fileno())


def _decoded(source: Source, target: Callable[[], Any]) -> Sound:
    """Through libsndfile. target gives what soundfile opens, anew at each call."""
    name = source.name
    with _sound_of(target(), name) as sound:
        rate, count, log, channels = sound.samplerate, sound.frames, sound.extra_info, sound.channels
    for promised, there in _CUT_OFF.findall(log):
        if int(there) + _SLACK < int(promised) < _UNKNOWN_SIZE:
            raise unreadable(name, f"has {there} of {promised} bytes")
    if count < 1 or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise unreadable(name, f"has {count} samples at {rate} Hz")

    kind = soundfile.SoundFile if count < _UNKNOWN_COUNT else _Onwards

    def read(size: int) -> Iterator[npt.NDArray[Any]]:
        size = max(1, size * _USUAL_CHANNELS // max(channels, _USUAL_CHANNELS))
        with reading(name), _sound_of(target(), name, kind) as sound:
            while len(block := sound.read(size, dtype="float32", always_2d=True)):
                yield block

    return Sound(name, rate, count if count < _UNKNOWN_COUNT else 0, read)


@contextlib.contextmanager
def _sound_of(target: Any, name: str, kind: type[soundfile.SoundFile] = soundfile.SoundFile) -> Iterator[Any]:
    """target, opened by soundfile; what reading it raised meanwhile is raised after it."""
    try:
        with kind(target) as sound:
            yield sound
    except soundfile.SoundFileError as error:
        if isinstance(target, _Part) and target.error is not None:
            raise target.error from error
        raise unreadable(name, str(error).rsplit(": ", 1)[-1]) from error
    finally:
        if isinstance(target, _Part):
            target.close()
    if isinstance(target, _Part) and target.error is not None:
        raise target.error


class _Onwards(soundfile.SoundFile):  # type: ignore[misc] # which has no types
    """A stream without a length, in which soundfile must not seek to where it is."""

    def seekable(self) -> bool:
        return False


class _Memory(io.BytesIO):
    """Bytes for libsndfile, which seeks to before the start of damaged ones; its calls must not raise."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset if whence else max(offset, 0), whence)


class _Part:
    """A file for libsndfile, which calls it from C, where no exception may leave: the first one is kept.

    start: where it begins. changes: places after that -> the bytes that are read there. Closes the file.
    """

    def __init__(self, file: BinaryIO, start: int, changes: dict[int, bytes]):
        self._file = file
        self._start = start
        self._changes = changes
        self.error: Exception | None = None
        file.seek(start)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where it then stands."""
        return self._kept(lambda: self._file.seek(offset + (0 if whence else self._start), whence), 0) - self._start

    def tell(self) -> int:
        """Where it stands."""
        return self._kept(self._file.tell, 0) - self._start

    def read(self, size: int) -> bytes:
        """Nothing after an error."""
        place = self.tell() if self._changes else 0
        data = self._kept(lambda: self._file.read(size), b"")
        for where, change in self._changes.items():
            low, high = max(where, place), min(where + len(change), place + len(data))
            if low < high:
                data = data[: low - place] + change[low - where : high - where] + data[high - place :]
        return data

    def write(self, data: bytes) -> int:
        """Never called, and asked for."""
        return 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _kept(self, step: Callable[[], Found], otherwise: Found) -> Found:
        if self.error is None:
            try:
                with foreign(MediaError, "It cannot be read", "expected a file that can be seeked."):
                    return step()
            except MediaError as error:
                self.error = error
        return otherwise


def _container(source: Source) -> Sound:
    """Sounds, also those of videos, through PyAV, which is an extra; how long they are is not known before."""
    name = source.name
    try:
        import av
    except ImportError as error:
        raise MediaError(
            f"{name} is AAC, MP4, WebM or WMA, and PyAV, which decodes them, is not there; expected it, or wav, flac, "
            "ogg or mp3. pip install 'mlx_mm[audio]', or convert the sound: ffmpeg -i INPUT -vn OUTPUT.flac"
        ) from error

    def read(size: int) -> Iterator[npt.NDArray[Any]]:
        parts: list[npt.NDArray[Any]] = []
        with reading(name), source.open() as file, av.open(file) as container:
            to_floats = av.AudioResampler("fltp")
            for frame in container.decode(audio=0):
                parts += [part.to_ndarray().T for part in to_floats.resample(frame)]
                if len(parts) * len(parts[0]) >= size:
                    yield np.concatenate(parts)
                    parts = []
        if parts:
            yield np.concatenate(parts)

    with source.open() as file, av.open(file) as container:
        rates = [track.rate for track in container.streams.audio]
    if not rates or not LOWEST_RATE <= rates[0] <= HIGHEST_RATE:
        raise unreadable(name, f"its tracks of sound have the rates {rates}")
    return Sound(name, rates[0], 0, read)
