"""Videos in every shape they come in, and the frames that are taken from them."""

from __future__ import annotations

import base64
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_mm.errors import InputError, MediaError
from mlx_mm.processing.video import Video, open_video

SIDE = (32, 48)
LEVELS = [20, 60, 100, 140, 180, 220]


def frame(level: int, size: tuple[int, int] = SIDE) -> Image.Image:
    """Grey, with a brighter upper half, so that a turn shows."""
    pixels = np.full((*size, 3), level, np.uint8)
    pixels[: size[0] // 2] += 30
    return Image.fromarray(pixels)


def animation(path: Path, durations: Sequence[int] | int = 100, levels: Sequence[int] = LEVELS) -> Path:
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    images = [frame(level) for level in levels]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, **options)
    return path


def levels_of(video: Video, indices: Sequence[int]) -> list[int]:
    """The grey of the lower half of each frame."""
    return [round(float(np.asarray(image)[-4:].mean())) for image in video.frames(indices)]


def shape_of(video: Video) -> tuple[int, int, int]:
    return video.total, video.height, video.width


# --- frames that are there already


def test_an_array() -> None:
    array = np.stack([np.asarray(frame(level)) for level in LEVELS])
    video = open_video(array, fps=2)
    assert shape_of(video) == (6, *SIDE)
    assert (video.fps, video.duration) == (2.0, None)
    assert levels_of(video, [0, 3, 3, 5]) == [20, 140, 140, 220]
    assert levels_of(open_video(array / 255.0), [1]) == [60]


def test_a_list_and_a_folder(tmp_path: Path) -> None:
    for i, level in enumerate(LEVELS + LEVELS):
        frame(level).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    os.mkfifo(tmp_path / "frame00.png")  # nobody named it, and it would be waited for
    folder = open_video(tmp_path, fps=4)
    assert shape_of(folder) == (12, *SIDE)
    assert levels_of(folder, [2, 10]) == [100, 180]  # frame2 stands before frame10
    mixed = open_video(
        [tmp_path / "frame1.png", frame(77), np.asarray(frame(99)), (tmp_path / "frame2.png").read_bytes()]
    )
    assert mixed.fps is None
    assert levels_of(mixed, range(4)) == [60, 77, 99, 100]


def test_only_the_chosen_frames_are_opened(tmp_path: Path) -> None:
    frame(20).save(tmp_path / "a.png")
    broken = tmp_path / "b.png"
    broken.write_bytes(b"nothing")
    video = open_video([tmp_path / "a.png", broken, frame(90)])
    assert levels_of(video, [0, 2]) == [20, 90]
    with pytest.raises(MediaError, match=r"b\.png"):
        levels_of(video, [1])


# --- animations


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations(suffix: str, tmp_path: Path) -> None:
    path = animation(tmp_path / f"a.{suffix}", [100, 100, 100, 100, 200, 400])
    for source in (path, str(path), path.read_bytes()):
        video = open_video(source)
        assert shape_of(video) == (6, *SIDE)
        assert video.duration == pytest.approx(1.0)
        assert video.fps == pytest.approx(6.0)
        np.testing.assert_allclose(levels_of(video, [0, 2, 5, 5]), [20, 100, 220, 220], atol=1)
    uri = f"data:image/{suffix};base64,{base64.b64encode(path.read_bytes()).decode()}"
    assert shape_of(open_video(uri)) == (6, *SIDE)


def test_an_animation_without_durations_needs_the_fps(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.gif", 0)
    assert open_video(path).fps is None
    assert open_video(path, fps=5).fps == 5.0


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_cut_at_any_length(suffix: str, tmp_path: Path) -> None:
    """Some cuts leave whole frames, and what is left is then a shorter film; no cut lets another error out."""
    data = animation(tmp_path / f"a.{suffix}", levels=LEVELS[:3]).read_bytes()
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 1200)):
        try:
            video = open_video(data[:length])
            assert len(levels_of(video, range(video.total))) == video.total
        except MediaError:
            refused += 1
    assert refused > 20


def test_frames_that_are_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An animation holds several canvases, so its frames may have fewer pixels than a picture."""
    path = animation(tmp_path / "a.gif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE[0] * SIDE[1] * 24 // 9 + 24)
    assert open_video(path).total == 6
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE[0] * SIDE[1])
    with pytest.raises(MediaError, match=r"is too large \(1536 pixels, limit 576\)"):
        open_video(path)


# --- files that cannot be used


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), "0, 8, 8, 3"),
        (np.zeros((8, 8, 3), np.uint8), "give a single picture as an image"),
        (np.zeros((2, 3, 8, 8), np.uint8), "transpose"),
        (np.zeros((2, 8, 8, 3), np.int64), "astype"),
        ([], "no frames"),
        ("missing.mp4", "cannot be opened"),
        (b"", "is empty"),
        (3, "int"),
        ("https://example.com/a.mp4", "Download it"),
        ("data:video/mp4;base64,@@", "data:video/...;base64"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_video(source: Any, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        open_video(source)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "it is a text"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "it is a text"),
        (b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>", "it is a text"),
    ],
)
def test_pages_and_playlists_are_no_videos(data: bytes, words: str) -> None:
    """ffmpeg would open what a playlist names."""
    with pytest.raises(MediaError, match=rf"cannot be read as a video \({words}"):
        open_video(data)


def test_a_folder_without_pictures_and_a_still_picture(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no frames"):
        open_video(tmp_path)
    frame(20).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="still picture"):
        open_video(tmp_path / "a.png")


def test_frames_of_two_sizes() -> None:
    with pytest.raises(MediaError, match="one size"):
        levels_of(open_video([frame(20), frame(20, (30, 48))]), [0, 1])


@pytest.mark.parametrize(
    "fps", [0, -1, float("nan"), float("inf"), "2", True, 10**400, -(10**400), 1e-300, 5e-324, 1e300, [2], 1j]
)
def test_an_fps_that_cannot_be(fps: Any) -> None:
    with pytest.raises(InputError, match="fps"):
        open_video([frame(20)], fps=fps)


def test_an_fps_beside_the_files_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its own, 10"):
        open_video(animation(tmp_path / "a.gif"), fps=3)


def test_a_damaged_animation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(4)]
    path = tmp_path / "a.webp"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    data = path.read_bytes()
    with pytest.raises(MediaError):
        levels_of(open_video(data[: len(data) // 2]), range(4))


def test_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MediaError, match=r"pip install 'mlx_mm\[video\]'"):
        open_video(b"\0\0\0\x18ftypmp42" + bytes(100))


# --- containers, through PyAV


def film(path: Path, *, frames: int = 30, rate: int = 10, codec: str = "mpeg4", sound: bool = False) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.bit_rate = 4_000_000
        for i in range(frames):
            picture = frame(20 + 6 * i, (64, 96))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "mpeg4"), ("mp4", "libx264"), ("mov", "mpeg4"), ("mkv", "mpeg4"), ("webm", "libvpx")]
)
def test_films(suffix: str, codec: str, tmp_path: Path) -> None:
    path = film(tmp_path / f"a.{suffix}", codec=codec)
    for source in (path, path.read_bytes()):
        video = open_video(source)
        assert shape_of(video) == (30, 64, 96)
        assert video.fps == pytest.approx(10)
        assert video.duration == pytest.approx(3.0)
        np.testing.assert_allclose(levels_of(video, [0, 7, 7, 29]), [20, 62, 62, 194], atol=4)


def test_a_film_is_read_to_the_last_chosen_frame(tmp_path: Path) -> None:
    video = open_video(film(tmp_path / "a.mp4"))
    images = video.frames([0, 29])
    assert next(images).size == (96, 64)
    images.close()  # what Ctrl-C does to it
    with pytest.raises(StopIteration):
        next(images)


def test_a_turned_film(tmp_path: Path) -> None:
    """The display matrix of a phone held upright: a quarter turn clockwise."""
    data = bytearray(film(tmp_path / "a.mp4").read_bytes())
    place = data.index(struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000), data.index(b"tkhd"))
    data[place : place + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 64 << 16, 0, 0x40000000)
    video = open_video(bytes(data))
    assert shape_of(video) == (30, 96, 64)
    pixels = np.asarray(next(video.frames([0]))).mean(-1)
    assert pixels[:, -8:].mean() > pixels[:, :8].mean() + 15  # the upper half has come to the right


def test_damaged_films(tmp_path: Path) -> None:
    data = film(tmp_path / "a.mp4").read_bytes()
    for broken in (data[: len(data) // 2], b"\0\0\0\x18ftypmp42" + bytes(500), bytes(range(256)) * 9):
        with pytest.raises(MediaError, match="cannot be read as a video"):
            open_video(broken)
    matroska = film(tmp_path / "a.mkv").read_bytes()
    found = open_video(matroska[: len(matroska) // 2])  # what is left of it is a shorter film
    assert 5 < found.total < 30
    assert levels_of(found, [0, found.total - 1])[0] == pytest.approx(20, abs=4)


def test_a_film_without_pictures(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match="no video track"):
        open_video(path)


def test_a_photo_is_no_film(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frame(20).save(tmp_path / "a.jpg")
    with pytest.raises(MediaError, match=r"still picture|no video track"):
        open_video(tmp_path / "a.jpg")
