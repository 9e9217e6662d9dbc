"""One picture or sound, however it is handed over: paths, pipes, URIs, bytes and open files of every kind."""

from __future__ import annotations

import base64
import gzip
import io
import os
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from mlx_mm.errors import MediaError
from mlx_mm.processing import sources
from mlx_mm.processing.audio import count_samples, open_audio, reusable, stream_audio
from mlx_mm.processing.batch import as_items, as_list
from mlx_mm.processing.image import as_images, open_image
from mlx_mm.processing.measure import measured
from mlx_mm.processing.video import open_video

RGB = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3) * 2
RATE = 48_000
SAMPLES = (0.3 * np.sin(np.arange(4000) * 0.05)).astype(np.float32)


def png(array: np.ndarray = RGB) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def gif() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 100, 200)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


class Stream(io.RawIOBase):
    """What cannot be seeked, and gives little at a time, as a response of a server."""

    def __init__(self, data: bytes):
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(memoryview(buffer)[:7])


class OnlyReads:
    def __init__(self, data: Any):
        self._file = io.StringIO(data) if isinstance(data, str) else io.BytesIO(data)

    def read(self, size: int = -1) -> Any:
        return self._file.read(size)


def unrewound(data: bytes) -> io.BytesIO:
    file = io.BytesIO()
    file.write(data)
    return file


def zipped(data: bytes) -> Any:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", data)
    return zipfile.ZipFile(file).open("a")


HANDED: dict[str, Callable[[bytes], Any]] = {
    "BytesIO": io.BytesIO,
    "not rewound": unrewound,
    "stream": lambda data: io.BufferedReader(Stream(data)),
    "raw stream": Stream,
    "only read": OnlyReads,
    "gzip": lambda data: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(data))),
    "zip": zipped,
    "bytearray": bytearray,
    "memoryview": memoryview,
}


@pytest.mark.parametrize("how", HANDED)
def test_files_of_every_kind(how: str) -> None:
    give = HANDED[how]
    np.testing.assert_array_equal(np.asarray(open_image(give(png()))), RGB)
    height, width, opener = measured(give(png()))
    assert (height, width) == (5, 6)
    np.testing.assert_array_equal(np.asarray(opener()), RGB)
    np.testing.assert_array_equal(open_audio(give(wav()), RATE), SAMPLES)
    sound = reusable(give(wav()))
    assert count_samples(sound, RATE) == 4000
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(sound, RATE, 999))), SAMPLES)
    video = open_video(give(gif()))
    assert video.total == 3
    assert [int(np.asarray(frame)[0, 0, 0]) for frame in video.frames([0, 2])] == [0, 200]


def test_open_files_stay_open_and_where_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        for opened in (file, raw, io.BytesIO(png())):
            opened.seek(3)
            for _ in range(2):
                np.testing.assert_array_equal(np.asarray(open_image(opened)), RGB)
            assert not opened.closed
            assert opened.tell() == 3
    for kind in (tempfile.NamedTemporaryFile, tempfile.TemporaryFile, tempfile.SpooledTemporaryFile):
        with kind() as temporary:
            temporary.write(png())
            np.testing.assert_array_equal(np.asarray(open_image(temporary)), RGB)


def test_a_file_is_one_item_and_not_its_lines() -> None:
    data = b"several\nlines\n"
    for file in (io.BytesIO(data), io.BufferedReader(Stream(data)), OnlyReads(data)):
        assert as_items(file) == ([file], True)
        assert as_images(file) == [file]  # type: ignore[arg-type]
        assert as_list(file, "media", str) == [file]
        assert as_items([file]) == ([file], False)
    assert as_items(iter("ab")) == (["a", "b"], False)


@pytest.mark.parametrize("how", ["BytesIO", "stream", "only read", "gzip"])
def test_a_file_that_stands_twice_in_a_list_is_read_once(how: str) -> None:
    file, other = HANDED[how](png()), HANDED[how](png(RGB[::-1].copy()))
    items, single = as_items([file, other, file, file])
    assert not single
    with ThreadPoolExecutor(4) as pool:
        found = [np.asarray(image) for image in pool.map(open_image, items)]
    for got, right in zip(found, [RGB, RGB[::-1], RGB, RGB], strict=True):
        np.testing.assert_array_equal(got, right)
    frame = HANDED[how](png())
    video = open_video([frame, frame, Image.fromarray(RGB)], fps=1)
    assert all((np.asarray(image) == RGB).all() for image in video.frames([0, 1, 2]))


@pytest.mark.parametrize("format", ["PNG", "AVIF", "WEBP", "TIFF", "GIF"])
def test_lazily_opened_images_that_share_a_file(format: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.kron(RGB, np.ones((40, 40, 1), np.uint8))).save(file, format)
    right = np.asarray(open_image(file.getvalue()))
    for _ in range(5):
        shared = io.BytesIO(file.getvalue())
        one, two = Image.open(shared), Image.open(shared)
        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(open_image, [one, two, one, two]):
                np.testing.assert_array_equal(np.asarray(got), right)


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda: io.StringIO("text"), r"open for text.*'rb'"),
        (lambda: OnlyReads("text"), "gives str, not bytes"),
        (io.BytesIO, "is empty"),
        (lambda: io.BytesIO(b"nothing"), "cannot be read as|is no animated"),
        (lambda: io.BufferedWriter(io.BytesIO()), "cannot be read"),
    ],
    ids=["text", "str", "empty", "nothing", "write-only"],
)
def test_files_that_are_none(give: Callable[[], Any], words: str) -> None:
    for opener in (open_image, lambda source: open_audio(source, RATE), open_video):
        with pytest.raises(MediaError, match=words):
            opener(give())


def test_closed_and_breaking_files() -> None:
    closed = io.BytesIO(png())
    closed.close()
    with pytest.raises(MediaError, match="closed file"):
        open_image(closed)

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError(104, "Connection reset by peer")

    for opener in (open_image, lambda source: open_audio(source, RATE), open_video):
        with pytest.raises(MediaError, match="Connection reset"):
            opener(Breaking(png()))


def test_a_stream_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return len(buffer)

    monkeypatch.setattr(sources, "MOST_BYTES", 10**6)
    with pytest.raises(MediaError, match=r"goes on after 1,000,000 bytes.*give its path"):
        open_image(Endless())


# --- paths


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    threads = []

    def made(data: bytes) -> Path:
        path = tmp_path / f"pipe{len(threads)}.png"
        os.mkfifo(path)
        threads.append(threading.Thread(target=path.write_bytes, args=(data,)))
        threads[-1].start()
        return path

    yield made
    for thread in threads:
        thread.join(10)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipes_that_are_named_are_read_once(pipe: Callable[[bytes], Path]) -> None:
    np.testing.assert_array_equal(np.asarray(open_image(pipe(png()))), RGB)
    height, width, opener = measured(str(pipe(png())))
    assert (height, width, np.asarray(opener()).tolist()) == (5, 6, RGB.tolist())
    sound = reusable(pipe(wav()))
    assert count_samples(sound, RATE) == len(open_audio(sound, RATE)) == 4000
    assert open_video(pipe(gif())).total == 3


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no descriptors by name")
def test_descriptors_by_name() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(png())
    np.testing.assert_array_equal(np.asarray(open_image(f"/dev/fd/{reader}")), RGB)
    os.close(reader)


@pytest.mark.skipif(sys.platform == "win32", reason="devices have other names")
def test_devices_sockets_folders_and_long_names_are_no_files(tmp_path: Path) -> None:
    for path, words in {
        "/dev/zero": "it is a device, no regular file",
        "/dev/null": "it is a device, no regular file",
        str(tmp_path / ("x" * 300)) + ".png": "File name too long",
        "a\0b": "null",
    }.items():
        for opener in (open_image, lambda source: open_audio(source, RATE), open_video):
            with pytest.raises(MediaError, match=rf"cannot be opened \(.*{words}"):
                opener(path)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no such file here")
def test_files_whose_bytes_cannot_be_read() -> None:
    for opener in (open_image, lambda source: open_audio(source, RATE), open_video):
        with pytest.raises(MediaError, match=r"mem cannot be read .*Input/output error"):
            opener("/proc/self/mem")


# --- data URIs


def test_data_uris_of_all_kinds() -> None:
    np.testing.assert_array_equal(
        open_audio("data:audio/wav;base64," + base64.b64encode(wav()).decode(), RATE), SAMPLES
    )
    assert open_video("data:image/gif;base64," + base64.encodebytes(gif()).decode()).total == 3
    with pytest.raises(MediaError, match=r"expected data:audio/"):
        open_audio("data:audio/wav;base64,@", RATE)


def test_a_data_uri_has_a_bound_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    monkeypatch.setattr(sources, "MOST_URI_CHARACTERS", len(uri))
    open_image(uri)
    with pytest.raises(MediaError, match=rf"too long; expected at most {len(uri)} characters"):
        open_image(uri + "=" * 4)
