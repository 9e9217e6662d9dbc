"""Images and videos, first as what they cost in patches and then as the patches themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from mlx_mm.errors import MediaError, at_place
from mlx_mm.models.glm4v.pixels import sample_by_duration, sample_by_rate, slice_times, to_patches
from mlx_mm.models.glm4v.settings import FrameSampling, VisualSettings, grid_of
from mlx_mm.processing.arguments import optional_flag, positive, unpacked
from mlx_mm.processing.batch import Batch, as_list
from mlx_mm.processing.image import ImageSource, resize, to_pixels
from mlx_mm.processing.measure import measured
from mlx_mm.processing.video import Video, VideoSource, open_video

Grid = tuple[int, int, int]
ONE_IMAGE = (str, bytes, bytearray, memoryview, np.ndarray, Image.Image)
ONE_VIDEO = (str, bytes, bytearray, memoryview, np.ndarray, Video)
PICTURE_AXES, VIDEO_AXES = 4, 5  # of an array of several images, or videos
HIGHEST_RATE = 1e6  # frames per second; above it are slips
# How fast frames without a rate follow each other where none are left out: transformers' assumption.
_USUAL_FPS = 24


@dataclass(frozen=True)
class MeasuredImage:
    """An image whose size is known. open: decodes it. place: that of its errors."""

    grid: Grid
    open: Callable[[], Image.Image]
    place: str | None = None

    def tokens(self, patches: int) -> int:
        """How many tokens it becomes, each of so many patches."""
        return self.grid[1] * self.grid[2] // patches


@dataclass(frozen=True)
class MeasuredVideo:
    """A video whose frames are chosen. labels: what is written after each of its temporal slices. place: of errors."""

    grid: Grid
    video: Video
    indices: list[int]
    labels: list[str]
    place: str | None = None

    def tokens(self, patches: int) -> tuple[int, list[str]]:
        """How many tokens a slice becomes, and the labels of all slices."""
        return self.grid[1] * self.grid[2] // patches, self.labels


def measure_images(images: ImageSource | Iterable[ImageSource], settings: VisualSettings) -> Iterator[MeasuredImage]:
    """Grids of images, by their headers where these suffice."""
    several = cast("Iterable[ImageSource]", unpacked(images, PICTURE_AXES))
    sources: list[ImageSource] = as_list(several, "images", ONE_IMAGE)
    for source in sources:
        height, width, opener = measured(source, do_convert_rgb=settings.do_convert_rgb)
        yield MeasuredImage(grid_of(settings, None, height, width), opener)


def measure_videos(
    videos: VideoSource | Iterable[VideoSource],
    settings: VisualSettings,
    rule: FrameSampling,
    fps: float | None,
    do_sample_frames: bool | None,
) -> Iterator[MeasuredVideo]:
    """Grids, frames and labels of videos. do_sample_frames: None leaves the rule's."""
    do_sample_frames = optional_flag("do_sample_frames", do_sample_frames)
    rate = None if fps is None else positive("fps", fps, HIGHEST_RATE, "Leave it out for the video's own.")
    several = cast("Iterable[VideoSource]", unpacked(videos, VIDEO_AXES))
    sources: list[VideoSource] = as_list(several, "videos", ONE_VIDEO)
    for source in sources:
        video = open_video(source, fps=rate)
        if rule.do_sample_frames if do_sample_frames is None else do_sample_frames:
            indices = _sample(video, rule, settings.temporal_patch_size)
        else:
            indices = list(range(video.total))
        grid = grid_of(settings, len(indices), video.height, video.width)
        times = slice_times(indices, video.fps or _USUAL_FPS, settings.temporal_patch_size)
        labels = [f"{time:.1f} seconds" if rule.decimals else f"{int(time)}" for time in times]
        yield MeasuredVideo(grid, video, indices, labels)


def image_arrays(images: Sequence[MeasuredImage], settings: VisualSettings) -> Batch:
    """pixel_values and image_grid_thw; nothing for no images."""
    if not images:
        return {}
    patch, times = settings.patch_size, settings.temporal_patch_size
    values = []
    for image in images:
        with at_place(image.place):
            pixels = _pixels(image.open(), image.grid, settings)
        values.append(to_patches(np.broadcast_to(pixels, (times, *pixels.shape)), patch, settings.merge_size))
    grids = np.array([image.grid for image in images], np.int32)
    return {"pixel_values": np.concatenate(values), "image_grid_thw": grids}


def video_arrays(videos: Sequence[MeasuredVideo], settings: VisualSettings) -> Batch:
    """pixel_values_videos and video_grid_thw; nothing for no videos."""
    if not videos:
        return {}
    values = [part for video in videos for part in _slices(video, settings)]
    grids = np.array([video.grid for video in videos], np.int32)
    return {"pixel_values_videos": np.concatenate(values), "video_grid_thw": grids}


def _slices(chosen: MeasuredVideo, settings: VisualSettings) -> Iterator[npt.NDArray[np.float32]]:
    """The patches of each temporal slice; the last frame fills an unfinished one. One slice is held at a time."""
    times, frames = settings.temporal_patch_size, list[npt.NDArray[np.float32]]()
    with at_place(chosen.place), contextlib.closing(chosen.video.frames(chosen.indices)) as images:
        for image in images:
            frames.append(_pixels(image, chosen.grid, settings))
            if len(frames) == times:
                yield to_patches(np.stack(frames), settings.patch_size, settings.merge_size)
                frames.clear()
    if frames:
        frames += frames[-1:] * (times - len(frames))
        yield to_patches(np.stack(frames), settings.patch_size, settings.merge_size)


def _pixels(image: Image.Image, grid: Grid, settings: VisualSettings) -> npt.NDArray[np.float32]:
    if settings.do_resize:
        patch = settings.patch_size
        image = resize(image, (grid[1] * patch, grid[2] * patch), settings.resample)
    return to_pixels(image, settings)


def _sample(video: Video, rule: FrameSampling, temporal: int) -> list[int]:
    if video.fps is None:
        raise MediaError(
            f"{video.name} has no frames per second, from which frames are chosen; expected them. Pass fps=, or "
            "do_sample_frames=False to take all frames."
        )
    if rule.by_duration:
        return sample_by_duration(video.total, video.fps, video.duration, temporal)
    return sample_by_rate(video.total, video.fps, video.duration, rule.fps, rule.max_duration)
