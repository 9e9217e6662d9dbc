"""Encoded pictures that are long, large, unfinished or hostile: what is read, what it costs, and what is refused."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from comparing import LONG
from PIL import Image, PngImagePlugin

from mlx_mm.errors import MediaError
from mlx_mm.processing import decoding
from mlx_mm.processing.image import open_image
from mlx_mm.processing.measure import measured


def photo(height: int = 97, width: int = 131) -> Image.Image:
    """Smooth, with noise, and no side a multiple of a JPEG block."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 20, (height, width, 3))
    return Image.fromarray(((np.stack([x + y, x * 2, y * 2], -1) + noise) % 256).astype(np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(source: object) -> np.ndarray:
    return np.asarray(open_image(source))  # type: ignore[arg-type]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# --- PNG files with long texts

MEGABYTES = 2**20
TEXTS: dict[str, Callable[[], bytes]] = {
    "zTXt": lambda: chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(2 * MEGABYTES))),
    "zTXt of 60 MB": lambda: chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(60 * MEGABYTES))),
    "iTXt": lambda: chunk(b"iTXt", b"workflow\0\1\0en\0Ablauf\0" + zlib.compress(b"x" * 3 * MEGABYTES)),
    "long iTXt": lambda: chunk(b"iTXt", b"workflow\0\0\0\0\0" + b"x" * 3 * MEGABYTES),
    "tEXt of 65 MB": lambda: chunk(b"tEXt", b"prompt\0" + b"x" * 65 * MEGABYTES),
    "many": lambda: chunk(b"zTXt", b"note\0\0" + zlib.compress(b"x" * 1000_000)) * 68,
    "profile": lambda: chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2 * MEGABYTES))),
}


CASES = [(kind, b"IDAT") for kind in TEXTS] + [("zTXt", b"IEND"), ("long iTXt", b"IEND")]


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_long_texts_of_a_png_do_not_hide_its_pixels(kind: str, where: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(20, 30).quantize(16), "PNG", exif=exif, transparency=3)
    place = data.index(where) - 4
    with_text = data[:place] + TEXTS[kind]() + data[place:]
    right = pixels(data)
    assert right.shape == (30, 20, 3)
    np.testing.assert_array_equal(pixels(with_text), right)
    if len(with_text) < MEGABYTES:
        height, width, opener = measured(with_text)
        assert (height, width) == (30, 20)
        np.testing.assert_array_equal(np.asarray(opener()), right)


def test_short_texts_are_kept_beside_a_long_one() -> None:
    """ImageMagick keeps the EXIF in one, and Adobe's XMP has the orientation."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    info.add_text("note", "x" * 2 * MEGABYTES, zip=True)
    assert pixels(encoded(photo(20, 30), "PNG", pnginfo=info)).shape == (30, 20, 3)


def test_a_damaged_png_with_a_long_text_stays_an_error() -> None:
    data = encoded(photo(), "PNG")
    place = data.index(b"IDAT") - 4
    broken = data[:place] + TEXTS["zTXt"]() + data[place : place + 4000]
    with pytest.raises(MediaError, match=r"cannot be read as an image \(.+\); expected a complete PNG"):
        open_image(broken)
    limits = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    assert limits == (MEGABYTES, 64 * MEGABYTES)  # of the whole process, and not ours to change


# --- JPEG files without their end

JPEGS: list[dict[str, object]] = [
    {}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}, {"quality": 30},
]  # fmt: skip


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lacks_only_its_end_marker(mode: str, options: dict[str, object]) -> None:
    data = encoded(photo().convert(mode), "JPEG", **options)
    assert data.endswith(b"\xff\xd9")
    for cut in (1, 2):
        np.testing.assert_array_equal(pixels(data[:-cut]), pixels(data))


@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_a_jpeg_that_lacks_more_stays_an_error(options: dict[str, object], tmp_path: Path) -> None:
    data = encoded(photo(), "JPEG", **options)
    right = pixels(data)
    path = tmp_path / "cut.jpg"
    read = []
    for cut in (3, 4, 5, 7, 11, 20, 41, 100, 333, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:-cut])
        with contextlib.suppress(MediaError):
            np.testing.assert_array_equal(pixels(path), right)
            read.append(cut)
    assert set(read) <= {3, 4}  # where the last byte is padding
    with pytest.raises(MediaError, match=r"cut\.jpg cannot be read as an image \(.+\); expected"):
        open_image(path)


def test_a_jpeg_cut_between_two_scans_stays_an_error() -> None:
    """What is there is decodable, and less than the header calls for."""
    data = encoded(photo(), "JPEG", progressive=True)
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    assert len(scans) > 3
    for place in scans[1:]:
        start = data.rindex(b"\xff\xc4", 0, place) if b"\xff\xc4" in data[place - 60 : place] else place
        with pytest.raises(MediaError, match="cannot be read as an image"):
            open_image(data[:start])


# --- what is no picture


@pytest.mark.parametrize(
    "page",
    [b"<!DOCTYPE html><html>", b"\n  <html lang=en>", b"\xef\xbb\xbf<!doctype HTML>", b"<!-- saved --><html>"],
)
def test_a_web_page_under_the_name_of_a_picture(page: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(page + b"<title>404</title>")
    with pytest.raises(MediaError, match=r"photo\.jpg cannot be read as an image \(it is a web page, which was saved"):
        open_image(path)


def test_odd_errors_of_plugins_become_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    data = encoded(photo(4, 4), "BMP")
    for error in (
        RecursionError("deep"),
        AssertionError(),
        struct.error("short"),
        MemoryError(),
        PanicException("rust"),
    ):

        def fail(*args: object, kept: BaseException = error) -> None:
            raise kept

        monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", fail)
        with pytest.raises(MediaError, match=r"cannot be read as an image \(.+\); expected"):
            open_image(data)


# --- memory


def test_bands_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (40, 30)).astype(np.uint16)
    alpha = photo(40, 30)
    alpha.putalpha(Image.fromarray((values // 256).astype(np.uint8)))
    palette = photo(40, 30).quantize(8)
    palette.info["transparency"] = bytes(range(0, 240, 30))
    images = [alpha, alpha.convert("LA"), alpha.convert("La"), palette, Image.fromarray(values)]
    images += [Image.fromarray(values.astype(np.int32)), Image.fromarray((values / 65535).astype(np.float32))]
    whole = [pixels(image) for image in images]
    for size in (1, 100, 333):
        monkeypatch.setattr(decoding, "BAND", size)
        for image, right in zip(images, whole, strict=True):
            np.testing.assert_array_equal(pixels(image), right)


SCRIPT = """
import resource, sys
from PIL import Image
from mlx_mm.processing.image import open_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert open_image(sys.argv[1]).size == (4000, 5000)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(used // 1024 if sys.platform == "darwin" else used)
"""


@LONG[0]
@LONG[1]
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
@pytest.mark.parametrize(("colour", "channels", "bits"), [(6, 4, 8), (0, 1, 16)])
def test_memory_of_a_small_file_with_many_pixels(colour: int, channels: int, bits: int, tmp_path: Path) -> None:
    """20 million pixels, transparent or of 16 bits, that lie on their side: 8 bytes for each, and some for the rest."""
    width, height = 5000, 4000
    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels * bits // 8)
    body = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    exif = Image.Exif()
    exif[0x0112] = 6
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"eXIf", exif.tobytes()[6:]), (b"IDAT", body), (b"IEND", b"")]
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks))
    assert path.stat().st_size < 500_000
    run = subprocess.run([sys.executable, "-c", SCRIPT, path], capture_output=True, text=True, check=True, timeout=100)
    assert int(run.stdout) * 1024 < 9.5 * width * height + 20e6


def test_formats_whose_decoders_take_more_may_have_fewer_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photo(100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for format in ("PNG", "JPEG", "TIFF", "GIF", "BMP"):
        assert open_image(encoded(picture, format)).size == (100, 100)
    small = {"WEBP": 5294, "AVIF": 4285, "JPEG2000": 3461}
    for format, limit in small.items():
        with pytest.raises(MediaError, match=rf"10000 pixels, limit {limit}.*raise PIL\.Image\.MAX_IMAGE_PIXELS"):
            open_image(encoded(picture, format))
    assert open_image(encoded(picture, "JPEG", progressive=True)).size == (100, 100)
    with pytest.raises(MediaError, match="10000 pixels, limit 9000"):
        open_image(encoded(picture, "JPEG", progressive=True, subsampling=0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for format in small:
        assert open_image(encoded(picture, format)).size == (100, 100)


def test_damaged_tiffs_write_nothing_to_stderr(tmp_path: Path) -> None:
    """libtiff would, past Python: therefore a process of its own is looked at."""
    data = encoded(photo().convert("1"), "TIFF", compression="group4")
    place = len(data) // 2
    (tmp_path / "a.tif").write_bytes(data[:place] + bytes(40) + data[place + 40 :])
    script = "import sys; from mlx_mm.processing.image import open_image; open_image(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.tif"], capture_output=True, timeout=100, env=os.environ
    )
    assert b"Fax4Decode" not in run.stderr
