"""Videos: what is in them, and those of their frames that were chosen.

A video is opened without keeping a picture; `frames` then decodes what it is asked for, one frame at a time.
"""

import contextlib
import os
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mlx_mm.errors import InputError, MediaError, foreign, is_number
from mlx_mm.processing.decoding import check_pixel_count, to_rgb, too_large
from mlx_mm.processing.fetching import is_page, short_name
from mlx_mm.processing.image import ImageSource, open_image
from mlx_mm.processing.sources import VIDEO, EncodedSource, Source, each_once, source_of

Frames: TypeAlias = Generator[Image.Image, None, None]
Read: TypeAlias = Callable[[Sequence[int]], Frames]

_ANIMATIONS = ("GIF", "WEBP", "PNG")  # what Pillow reads frame by frame, by its names
_MILLISECONDS = 1000
_FRAME_BYTES = 24  # that Pillow holds for each pixel of an animation: frames of 33 million pixels, 8K, take 0.8 GB
_SLOWEST, _FASTEST = 1e-6, 1e6  # frames per second, from one in 12 days to the fastest cameras
# Playlists, in which ffmpeg would follow the names of other files and addresses: HLS, concat and DASH.
_PLAYLIST = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:#EXTM3U|ffconcat|<)", re.IGNORECASE)
# Decoders may find a few frames less than packets promise; with less than this share a file counts as cut off.
_COMPLETE = 0.95
_EXPECTED = "a complete mp4, mov, webm or mkv, an animated GIF, WebP or PNG, or a folder of pictures"


class DecodedFrame(Protocol):
    """A frame of PyAV; newer ones have `rotation`, in degrees."""

    def to_image(self) -> Image.Image: ...


@dataclass(frozen=True, kw_only=True)
class Video:
    """What is known of a video before its pictures are decoded.

    total: number of frames. fps: frames per second, None where only the caller could know. duration: in seconds, None
    where nothing says it. height, width: of its frames, upright.
    """

    name: str
    total: int
    fps: float | None
    duration: float | None
    height: int
    width: int
    read: Read

    def frames(self, indices: Sequence[int]) -> Frames:
        """The frames at `indices`, which do not descend, upright and RGB; one is held at a time.

        Raises MediaError for frames that cannot be decoded, or whose size is not the first one's. Close the iterator
        (contextlib.closing) where it is not used up.
        """
        with contextlib.closing(self.read(indices)) as images:
            for image in images:
                if (image.height, image.width) != (self.height, self.width):
                    raise MediaError(
                        f"{self.name} has a frame of {image.height}x{image.width} after others of {self.height}x"
                        f"{self.width}; expected one size. Convert it, or resize its frames."
                    )
                yield image


VideoSource: TypeAlias = EncodedSource | npt.NDArray[Any] | list[ImageSource] | tuple[ImageSource, ...] | Video


def open_video(source: VideoSource, *, fps: float | None = None) -> Video:
    """Find out what a video is, whatever it comes in.

    source: path, http(s) URL, data URI, bytes or open file of mp4, mov, webm, mkv (with PyAV, the extra `video`) or of
    an animated GIF, WebP or PNG; a folder of pictures, which are sorted by name with numbers in their order; a list of
    frames, each whatever `open_image` takes; an array (T, H, W, 3) of uint8 or of floats in 0..1.
    fps: of the frames in a folder, list or array, and of animations that do not say it. A file that says it has its
    own. Phone videos are turned upright. Raises MediaError for what cannot be read and InputError for the fps.
    """
    if fps is not None and not (is_number(fps) and _SLOWEST <= fps <= _FASTEST):
        raise InputError(
            f"fps is {repr(fps)[:50]}; expected a number above 0, from {_SLOWEST:g} to {_FASTEST:g}, the frames per "
            "second of the video. Correct it."
        )
    video = _open(source)
    if fps is None:
        return video
    if video.fps is not None:
        raise InputError(
            f"fps={fps:g} was given and {video.name} has its own, {video.fps:g}; expected fps for frames without any. "
            "Leave it out."
        )
    return replace(video, fps=float(fps))


def _open(source: VideoSource) -> Video:
    if isinstance(source, Video):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, list | tuple):
        return _from_images(source, "the list of frames")
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        return _from_folder(Path(os.fsdecode(source)))
    found = source_of(source, VIDEO)
    if found is None:
        raise MediaError(
            f"A video was given as {type(source).__name__}; expected a path, URL, bytes, open file, list of frames or "
            "an array (T, H, W, 3). Convert it to one of these; a list of videos is a list of these."
        )
    return _from_file(found)


# --- frames that are there already


def _from_array(array: npt.NDArray[Any]) -> Video:
    if array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        raise MediaError(
            f"A video array has the shape {array.shape}; expected (frames, height, width, 3) with one frame at least. "
            "Move its axes with transpose; give a single picture as an image."
        )
    total, height, width, _ = array.shape
    name = f"the array of shape {array.shape}"
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise MediaError(
            f"{name} is {array.dtype}; expected uint8 in 0..255 or floats in 0..1. Convert it with astype."
        )

    def read(indices: Sequence[int]) -> Frames:
        yield from (open_image(array[index]) for index in indices)

    return Video(name=name, total=total, fps=None, duration=None, height=height, width=width, read=read)


def _from_folder(path: Path) -> Video:
    known = Image.registered_extensions()
    name = f"the folder {short_name(str(path))}"
    with foreign(MediaError, f"{name} cannot be listed", "expected a folder of pictures. Check its permissions."):
        named = [file for file in path.iterdir() if file.suffix.lower() in known and not file.name.startswith(".")]
        files = [file for file in named if file.is_file()]  # a pipe that nobody named would be waited for
    files.sort(key=_natural)
    return _from_images(files, name)


def _natural(path: Path) -> list[tuple[int, str]]:
    """frame2 before frame10."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"([0-9]+)", path.name)]


def _from_images(sources: Sequence[ImageSource], name: str) -> Video:
    if not sources:
        raise MediaError(f"{name} has no frames; expected pictures, one at least. Leave the video out.")
    frames = cast("list[ImageSource]", each_once(sources))
    first = open_image(frames[0])

    def read(indices: Sequence[int]) -> Frames:
        yield from (open_image(frames[index]) for index in indices)

    height, width = first.height, first.width
    return Video(name=name, total=len(sources), fps=None, duration=None, height=height, width=width, read=read)


# --- files


def _from_file(source: Source) -> Video:
    with source.opened(VIDEO) as file, reading_video(source.name):
        check_start(file, source.name)
        with contextlib.suppress(UnidentifiedImageError):
            return _animation(file, source)
    return _from_container(source)


def check_start(file: BinaryIO, name: str) -> None:
    """Raise MediaError for what is no video by its first bytes; the file is at its start then."""
    start = file.read(2048)
    if not start:
        raise MediaError(f"{name} is empty; expected a video. Replace the file.")
    if is_page(start):
        raise unreadable_video(name, "it is a web page, which was saved in place of the file")
    if _PLAYLIST.match(start):
        raise unreadable_video(name, "it is a text")
    file.seek(0)


def reading_video(name: str) -> contextlib.AbstractContextManager[None]:
    """The net around everything that a library does with an encoded video."""
    return foreign(
        MediaError,
        f"{name} cannot be read as a video",
        f"expected {_EXPECTED}. Play it to see whether it is damaged, and download or convert it again.",
    )


def _animation(file: Any, source: Source) -> Video:
    """GIF, WebP or animated PNG; raises UnidentifiedImageError for other files."""
    name = source.name
    try:
        with Image.open(file, formats=_ANIMATIONS) as image:
            check_pixel_count(image, name, _FRAME_BYTES)
            total = getattr(image, "n_frames", 1)
            if not getattr(image, "is_animated", False) and image.format != "GIF":
                raise MediaError(f"{name} is a still picture; expected a video. Pass it as an image.")
            seconds = sum(_frame_seconds(image, index) for index in range(total))
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(name, str(error)) from error

    def read(indices: Sequence[int]) -> Frames:
        with reading_video(name), source.open() as file, Image.open(file, formats=_ANIMATIONS) as image:
            for index in indices:
                image.seek(index)
                yield to_rgb(image, name)

    fps = total / seconds if seconds else None
    return Video(name=name, total=total, fps=fps, duration=seconds or None, height=height, width=width, read=read)


def _frame_seconds(image: Image.Image, index: int) -> float:
    image.seek(index)
    if image.format == "WEBP":
        image.load()  # Pillow tells how long a WebP frame is shown once it is decoded
    return float(image.info.get("duration", 0)) / _MILLISECONDS


def _from_container(source: Source) -> Video:
    """mp4, mov, webm, mkv and whatever else ffmpeg reads, through PyAV, which is an extra."""
    name = source.name
    try:
        import av
    except ImportError as error:
        raise MediaError(
            f"{name} is no animated GIF, WebP or PNG, and PyAV, which decodes mp4, mov, webm and mkv, is not there; "
            "expected it. pip install 'mlx_mm[video]', or give the frames as a list or folder, with fps."
        ) from error

    with reading_video(name):
        with source.open() as file, av.open(file) as container:
            if not container.streams.video or re.search("image2|_pipe", container.format.name):
                raise unreadable_video(name, "it has no video track")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            first = next(container.decode(stream), None)
            if first is None:
                raise unreadable_video(name, "it has no frames")
            width, height = upright_frame(first).size
        with source.open() as file, av.open(file) as container:
            # The header's count is 0 in webm, and in mp4 it counts what an edit list hides.
            total = sum(not packet.is_discard and packet.size > 0 for packet in container.demux(video=0))

    def read(indices: Sequence[int]) -> Frames:
        place, count, frame = 0, 0, None
        with reading_video(name), source.open() as file, av.open(file) as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                while place < len(indices) and indices[place] == count:
                    yield upright_frame(frame)
                    place += 1
                if place == len(indices):
                    return
                count += 1
        if frame is None or count < _COMPLETE * total:
            raise unreadable_video(name, f"{count} of its {total} frames can be decoded")
        for _ in indices[place:]:
            yield upright_frame(frame)

    fps = float(rate) if rate else None
    duration = total / fps if fps else None
    return Video(name=name, total=total, fps=fps, duration=duration, height=height, width=width, read=read)


def upright_frame(frame: DecodedFrame) -> Image.Image:
    """A frame of PyAV as RGB, turned as its display matrix says."""
    image = frame.to_image()
    turns = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, -180: Image.Transpose.ROTATE_180}
    method = {**turns, -90: Image.Transpose.ROTATE_270}.get(getattr(frame, "rotation", 0))
    return image if method is None else image.transpose(method)


def unreadable_video(name: str, found: str) -> MediaError:
    """The error for a file that is no video, or not a whole one."""
    return MediaError(
        f"{name} cannot be read as a video ({found.strip().rstrip('.')}); expected {_EXPECTED}. Play it to see whether "
        "it is damaged, and download or convert it again."
    )
