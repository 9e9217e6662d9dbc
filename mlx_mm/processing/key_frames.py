"""Some pictures of a video that show what is in it: key frames, which are decoded without those between them."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mlx_mm.errors import MediaError
from mlx_mm.processing.sources import VIDEO, Source
from mlx_mm.processing.video import check_start, reading_video, unreadable_video, upright_frame

MOST = 64  # frames of one video
SPACING = 10.0  # seconds between two frames, and more where MOST would not reach the end
SCENE = 30.0  # levels of 255 by which fields of two frames differ on average, when the second shows another scene
SIDE = 16  # of the grid of brightness by which scenes are told apart
_MICROSECONDS = 1e6  # ffmpeg's AV_TIME_BASE


@dataclass(frozen=True)
class KeyFrame:
    """image: upright and RGB. start, stop: seconds from and to which it stands for the video."""

    image: Image.Image
    start: float
    stop: float


@dataclass
class About:
    """Filled while key frames are read. seconds: the length of the video. taken_at: seconds since 1970."""

    seconds: float | None = None
    taken_at: float | None = None


def can_read_videos() -> bool:
    """Whether PyAV, the extra `video`, is there."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def key_frames(source: Source, about: About) -> Iterator[KeyFrame]:
    """One each SPACING seconds and at changes of the scene, MOST at the most, each once the next one is found.

    Raises MediaError for what is no video, or not a whole one, or where PyAV is not there.
    """
    try:
        import av
    except ImportError as error:
        raise MediaError(
            f"{source.name} is a video, and PyAV, which decodes videos, is not there; expected it. pip install "
            "'mlx_mm[video]'."
        ) from error
    with source.opened(VIDEO) as file, reading_video(source.name):
        check_start(file, source.name)
        with av.open(file) as container:
            if not container.streams.video:
                raise unreadable_video(source.name, "it has no video track")
            stream = container.streams.video[0]
            stream.codec_context.skip_frame = "NONKEY"
            about.seconds = container.duration / _MICROSECONDS if container.duration else None
            about.taken_at = _time(container.metadata.get("creation_time"))
            before: tuple[Image.Image, float] | None = None
            last = 0.0
            for image, start in _chosen(container.decode(stream), about.seconds):
                if before is not None:
                    yield KeyFrame(*before, start)
                before, last = (image, start), start
            if before is None:
                raise unreadable_video(source.name, "it has no frames")
            about.seconds = max(about.seconds or 0.0, last)
            yield KeyFrame(*before, about.seconds)


def _chosen(frames: Iterator[Any], seconds: float | None) -> Iterator[tuple[Image.Image, float]]:
    """(image, time in seconds) of those that are taken."""
    spacing = max(SPACING, (seconds or 0.0) / MOST)
    count, first, last = 0, 0.0, 0.0
    scene: npt.NDArray[np.int16] | None = None
    for frame in frames:
        time = float(frame.time or 0.0)
        first = time if count == 0 else first
        time = max(0.0, time - first)
        image = upright_frame(frame)
        found = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.int16)
        changed = scene is not None and np.abs(found - scene).mean() > SCENE
        needed = max(0.0, (seconds or time) - time) / spacing  # for what is still to come
        if count == 0 or time - last >= spacing or (changed and count + 1 + needed <= MOST):
            yield image, time
            count, last, scene = count + 1, time, found
            if count == MOST:
                return


def _time(text: str | None) -> float | None:
    """ISO 8601, as cameras and phones write it, in UTC."""
    try:
        return datetime.datetime.fromisoformat((text or "").replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None
