"""Which pictures stand for a video."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest

from mlx_mm.errors import MediaError
from mlx_mm.processing.key_frames import MOST, About, key_frames
from mlx_mm.processing.sources import Source

RATE, GOP = 2, 2  # frames a second, and a key frame each second


def video(seconds: int, level: Callable[[float], int], **options: str) -> Source:
    """Grey, of a level at each second."""
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options=options) as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 32, 16, "yuv420p", GOP
        for number in range(seconds * RATE):
            pixels = np.full((16, 32, 3), level(number / RATE), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return Source("a video", lambda: io.BytesIO(file.getvalue()))


def test_each_ten_seconds_and_at_changes_of_the_scene() -> None:
    about = About()
    found = list(key_frames(video(34, lambda second: 20 if second < 13 else 200), about))
    assert [(frame.start, frame.stop) for frame in found] == [(0, 10), (10, 13), (13, 23), (23, 33), (33, 34)]
    levels = [frame.image.convert("L").getpixel((5, 5)) for frame in found]
    assert [level > 100 for level in levels] == [False, False, True, True, True]
    assert about.seconds == pytest.approx(34, abs=0.1)


def test_no_more_than_so_many_and_yet_to_the_end() -> None:
    restless = video(200, lambda second: 20 if int(second) % 2 else 200)
    found = list(key_frames(restless, About()))
    assert len(found) <= MOST
    assert found[-1].start >= 185
    long = list(key_frames(video(900, lambda _: 90), About()))
    assert 60 <= len(long) <= MOST
    assert long[-1].start > 870


def test_what_is_no_video() -> None:
    pytest.importorskip("av")
    for data in (b"", b"<html>", b"nothing of the kind" * 100, b"#EXTM3U\nhttp://example.org/a.ts"):
        with pytest.raises(MediaError, match="a video"):
            list(key_frames(Source("a video", lambda data=data: io.BytesIO(data)), About()))


def test_one_that_is_cut_off() -> None:
    whole = video(20, lambda _: 90).open().read()
    with pytest.raises(MediaError, match="cannot be read as a video"):
        list(key_frames(Source("cut", lambda: io.BytesIO(whole[: len(whole) // 2])), About()))
