"""Every way a picture can arrive, and every way it can be broken."""

import base64
import http.server
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_mm.errors import InputError, MediaError
from mlx_mm.processing.fetching import FetchPolicy, fetch
from mlx_mm.processing.image import open_image, patchify, rescale_and_normalize, resize

RGB = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3) * 2


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(source: object, **options: bool) -> np.ndarray:
    image = open_image(source, **options)  # type: ignore[arg-type]
    assert image.mode == "RGB"
    return np.asarray(image)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# --- sources


def test_path_bytes_and_data_uri_give_the_same_picture(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(RGB))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (path, str(path), data, bytearray(data), memoryview(data), uri, uri.replace("data:", "DATA:")):
        np.testing.assert_array_equal(pixels(source), RGB)


def test_data_uri_without_base64_and_with_line_breaks() -> None:
    data = encoded(Image.fromarray(RGB))
    escaped = "".join(f"%{byte:02x}" for byte in data)
    np.testing.assert_array_equal(pixels(f"data:image/png,{escaped}"), RGB)
    text = base64.encodebytes(data).decode()
    np.testing.assert_array_equal(pixels(f"data:image/png;base64,{text}"), RGB)


@pytest.mark.parametrize("uri", ["data:image/png;base64", "data:image/png;base64,@@@@", "data:image/png;base64,QUJD"])
def test_bad_data_uri(uri: str) -> None:
    with pytest.raises(MediaError, match=r"data URI.*expected"):
        open_image(uri)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (RGB.transpose(2, 0, 1), RGB),
        (RGB[..., 0], np.repeat(RGB[..., :1], 3, -1)),
        (RGB[..., :1], np.repeat(RGB[..., :1], 3, -1)),
        (RGB[None, ..., 0], np.repeat(RGB[..., :1], 3, -1)),
        (RGB[::-1, ::2], RGB[::-1, ::2]),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        ((RGB / 255).astype(np.float16), RGB),
        (np.dstack([RGB, np.full((5, 6), 255, np.uint8)]), RGB),
        (np.dstack([RGB, np.zeros((5, 6), np.uint8)]), np.full_like(RGB, 255)),
        (np.dstack([RGB / 255, np.zeros((5, 6))]).transpose(2, 0, 1), np.full_like(RGB, 255)),
    ],
)
def test_arrays(array: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(pixels(array), expected)


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_pictures_of_few_rows_are_still_channels_last(rows: int) -> None:
    """np.asarray of a Pillow image must survive; transformers takes such a row count for the channels."""
    array = np.arange(rows * 5 * 3, dtype=np.uint8).reshape(rows, 5, 3)
    np.testing.assert_array_equal(pixels(array), array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RGB.astype(np.float32), "0..1"),
        (np.full((4, 6, 3), np.nan), "nan"),
        (np.full((4, 6, 3), -0.1), "-0.1"),
        (RGB.astype(np.int64), "int64.*astype"),
        (RGB.astype(np.uint16), "uint16"),
        (RGB > 5, "bool"),
        (RGB[..., :2], r"\(5, 6, 2\)"),
        (RGB[None], "as a list"),
        (RGB[0, 0], r"\(3,\)"),
        (RGB[:0], r"\(0, 6, 3\)"),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        open_image(array)


@pytest.mark.parametrize("source", [None, 3, 2.5, ["a.png"], {"url": "a.png"}])
def test_other_types(source: object) -> None:
    with pytest.raises(MediaError, match=f"{type(source).__name__}; expected a path"):
        open_image(source)  # type: ignore[arg-type]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/a.png"
        self.send_response(200 if found else 404)
        self.end_headers()
        if found:
            self.wfile.write(encoded(Image.fromarray(RGB)))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_url(host: str) -> None:
    np.testing.assert_array_equal(pixels(f"{host}/a.png"), RGB)
    with pytest.raises(MediaError, match=r"missing\.png cannot be downloaded.*404"):
        open_image(f"{host}/missing.png")
    with pytest.raises(MediaError, match="larger than 20 bytes"):
        fetch(f"{host}/a.png", policy=FetchPolicy(most_bytes=20))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "http://", "https://[broken/a.png", "http://a b/c"])
def test_url_that_answers_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(MediaError, match="cannot be downloaded"):
        open_image(url)


# --- colours


@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr", "HSV", "1"])
def test_modes_are_converted_by_pillow(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))


def test_palette_and_cmyk_files(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(8)
    np.testing.assert_array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))
    cmyk = encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG")
    assert np.abs(pixels(cmyk).astype(int) - [255, 0, 0]).max() <= 2


TRANSPARENT = {
    "RGBA": Image.fromarray(np.dstack([RGB, np.zeros((5, 6), np.uint8)])),
    "LA": Image.fromarray(np.dstack([RGB[..., 0], np.zeros((5, 6), np.uint8)])),
    "RGBa": Image.fromarray(np.dstack([RGB, np.zeros((5, 6), np.uint8)])).convert("RGBa"),
    "La": Image.fromarray(np.dstack([RGB[..., 0], np.zeros((5, 6), np.uint8)])).convert("La"),
}


@pytest.mark.parametrize("mode", TRANSPARENT)
def test_a_transparent_picture_is_white_whatever_colours_it_hides(mode: str) -> None:
    image = TRANSPARENT[mode]
    assert image.mode == mode
    assert (pixels(image) == 255).all()
    if mode in ("RGBA", "LA"):
        assert (pixels(encoded(image)) == 255).all()
        # The reference's file loader drops alpha; that must not pass.
        assert not (np.asarray(image.convert("RGB")) == 255).all()


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 8, 9)), ("P", 1)])
def test_one_transparent_colour(mode: str, colour: object) -> None:
    image = Image.new(mode, (5, 5), colour)  # type: ignore[arg-type]
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9])
    assert (pixels(encoded(image, transparency=colour)) == 255).all()
    assert (pixels(encoded(image)) < 10).all()


def test_palette_with_an_alpha_for_each_entry() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(pixels(encoded(image, transparency=b"\xff\x00"))[0], [[10, 20, 30], [255, 255, 255]])


def test_half_transparent_black_is_grey() -> None:
    assert (pixels(Image.new("RGBA", (2, 2), (0, 0, 0, 128))) == 127).all()


def test_16_bit_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    expected = np.array([0, 0, 1, 1, 128, 255])
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    for source in (image, encoded(image), encoded(image, "TIFF"), Image.fromarray(values.astype(np.int32))):
        np.testing.assert_array_equal(pixels(source)[0, :, 0], expected)
    assert np.asarray(image.convert("L")).tolist() != [expected.tolist()]


def test_16_bit_big_endian_file() -> None:
    header = struct.pack(">2sHIH", b"MM", 42, 8, 8)
    entries = [
        (256, 3, 2),
        (257, 3, 1),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 110),
        (278, 3, 1),
        (279, 4, 4),
    ]
    tags = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, value in entries
    )
    data = header + tags + struct.pack(">I", 0)
    tiff = data + struct.pack(">HH", 65535, 256)
    assert len(data) == 110
    np.testing.assert_array_equal(pixels(tiff)[0, :, 0], [255, 1])


def test_floating_greys() -> None:
    image = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    assert image.mode == "F"
    np.testing.assert_array_equal(pixels(image)[0, :, 0], [0, 128, 255])
    with pytest.raises(MediaError, match="0 to 65535"):
        open_image(Image.new("I", (2, 2), 70000))
    with pytest.raises(MediaError, match=r"0\.\.1"):
        open_image(Image.new("F", (2, 2), 200.0))


def test_an_image_object_whose_file_is_cut() -> None:
    """Pillow reads the pixels only when they are asked for."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    image = Image.open(io.BytesIO(encoded(Image.fromarray(noise))[:2000]))
    with pytest.raises(MediaError, match=r"the Pillow image of mode RGB cannot be read.*truncated"):
        open_image(image)


def test_without_conversion_only_rgb_passes() -> None:
    np.testing.assert_array_equal(pixels(Image.fromarray(RGB), do_convert_rgb=False), RGB)
    for image in (Image.new("L", (2, 2)), Image.new("RGBA", (2, 2))):
        with pytest.raises(MediaError, match=f"{image.mode}.*do_convert_rgb"):
            open_image(image, do_convert_rgb=False)


def test_the_given_image_is_left_alone() -> None:
    image = Image.fromarray(RGB)
    open_image(image).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(image), RGB)


# --- orientation and frames


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(format: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255
    # How a camera stores the upright picture under each orientation.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    result = pixels(encoded(image, format, exif=exif))
    assert result.shape == upright.shape
    assert np.abs(result.astype(int) - upright).max() <= 8


def test_image_objects_are_not_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(RGB), exif=exif)
    assert pixels(data).shape == (6, 5, 3)
    assert pixels(Image.open(io.BytesIO(data))).shape == (5, 6, 3)


def test_damaged_exif_is_ignored() -> None:
    data = encoded(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0no TIFF header")
    assert pixels(data).shape == RGB.shape


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.abs(pixels(data).astype(int) - [255, 0, 0]).max() <= 3


# --- extreme sizes and damage


@pytest.mark.parametrize("size", [(1, 1), (20000, 2), (2, 20000)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    assert open_image(encoded(Image.new("RGB", size))).size == size


@pytest.mark.parametrize("side", [10_000, 30_000, 60_000])
def test_decompression_bombs(side: int, tmp_path: Path) -> None:
    """10,000² is where Pillow warns, 30,000² where it raises."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    with pytest.raises(MediaError, match=rf"bomb\.png is too large.*{side * side} pixels.*limit.*\d{{8}}"):
        open_image(path)


def test_the_limit_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    open_image(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    open_image(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(MediaError, match=r"30 pixels.*limit"):
        open_image(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_files(format: str, part: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    path = tmp_path / "cut.file"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(MediaError, match=r"cut\.file cannot be read as an image.*expected"):
        open_image(path)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_random_damage_never_escapes_as_another_error(format: str) -> None:
    random = np.random.default_rng(1)
    data = encoded(Image.fromarray(RGB), format)
    errors = 0
    for _ in range(100):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 4):
            damaged[position] = random.integers(0, 256)
        try:
            open_image(bytes(damaged))
        except MediaError:
            errors += 1
        except UserWarning:
            pass  # Pillow's remark about a damaged EXIF block or palette, an error only under pytest
    assert errors > 0


def test_files_that_are_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    for name, message in {
        "empty.png": r"empty\.png is empty; expected an image",
        "text.png": r"text\.png cannot be read as an image \(not an image format",
        "missing.png": r"missing\.png cannot be opened \(No such file",
        ".": "cannot be opened .*directory",
        "a\0b": "cannot be opened .*null",
        "x" * 5000: r"5\d\d\d characters\) cannot be opened",
    }.items():
        with pytest.raises(MediaError, match=message):
            open_image(f"{tmp_path}/{name}")
    with pytest.raises(MediaError, match="the 0 bytes given is empty"):
        open_image(b"")


def test_an_image_of_no_pixels() -> None:
    with pytest.raises(MediaError, match="0x5"):
        open_image(Image.new("RGB", (5, 0)))


# --- arithmetic


def test_resize_takes_height_first_and_refuses_monsters() -> None:
    image = Image.fromarray(RGB)
    assert resize(image, (7, 5), 2).size == (5, 7)
    assert np.asarray(resize(image, (7, 5), 2)).tolist() != np.asarray(resize(image, (7, 5), 3)).tolist()
    with pytest.raises(InputError, match="10000000000 pixels"):
        resize(image, (100_000, 100_000), 2)


def test_lookup_equals_the_arithmetic_bit_for_bit() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
    for mean, std in (((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.481, 0.457, 0.408), (0.268, 0.261, 0.275))):
        got = rescale_and_normalize(values, rescale_factor=1 / 255, mean=mean, std=std)
        scaled = (values.astype(np.float64) * (1 / 255)).astype(np.float32)
        expected = (scaled - np.float32(mean)) / np.float32(std)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
    # The same formula in float32 throughout is another number.
    wrong = (values.astype(np.float32) * np.float32(1 / 255) - np.float32(mean)) / np.float32(std)
    assert not np.array_equal(got, wrong)


def test_steps_can_be_left_out() -> None:
    np.testing.assert_array_equal(rescale_and_normalize(RGB, rescale_factor=None, mean=None, std=None), RGB)
    got = rescale_and_normalize(RGB, rescale_factor=None, mean=(1, 2, 3), std=(2, 2, 2))
    np.testing.assert_array_equal(got, (RGB - np.float32([1, 2, 3])) / np.float32(2))


def test_patch_order() -> None:
    pixels_of = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    patches = patchify(pixels_of, 2)
    assert patches.shape == (6, 12)
    np.testing.assert_array_equal(patches[1], pixels_of[0:2, 2:4].ravel())
    np.testing.assert_array_equal(patches[3], pixels_of[2:4, 0:2].ravel())
