"""Encoded pictures to RGB, within bounds: upright, whatever their mode, and no more of them in memory than must be."""

import contextlib
import ctypes
import functools
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError, _imaging

from mlx_mm.errors import MediaError, foreign
from mlx_mm.processing.fetching import is_page
from mlx_mm.processing.heif import can_read_heif, is_heif
from mlx_mm.processing.mending import ended_jpeg, without_long_texts
from mlx_mm.processing.shrinking import Shrink
from mlx_mm.processing.sources import PICTURE, Source
from mlx_mm.processing.upright import TURNS, orientation

BAND = 1 << 20  # pixels that are converted at once
# Bytes a pixel while a picture is decoded and made RGB, of which Pillow keeps 4: measured, 8 where nothing stands here.
# At Pillow's limit of 89 million pixels that is 0.8 GB; formats whose decoders take more may have fewer pixels.
_USUAL_BYTES = 9
_BYTES = {"WEBP": 17, "AVIF": 21, "JPEG2000": 26}


def decode(source: Source, do_convert_rgb: bool = True, shrink: Shrink | None = None) -> Image.Image:
    """The first frame of an encoded picture, upright and RGB; MediaError for what cannot be read.

    shrink: it comes at that size, but for the last bits, and a JPEG is decoded smaller than it is for that.
    Two kinds of files are read that Pillow refuses and browsers show: a PNG whose texts are long, and a JPEG that lacks
    nothing but its end marker.
    """
    with source.opened(PICTURE) as file, decoding(source.name):
        start = file.read(2048)
        if not start:
            raise MediaError(f"{source.name} is empty; expected an image. Replace the file.")
        file.seek(0)
        try:
            return _first_frame(file, source, do_convert_rgb, shrink)
        except UnidentifiedImageError:
            if is_heif(start):
                if not can_read_heif():
                    raise ValueError("it is HEIC, which needs an extra: pip install 'mlx_mm[heic]'") from None
                file.seek(0)
                return _first_frame(file, source, do_convert_rgb, shrink)
            page = "it is a web page, which was saved in place of the file"
            raise ValueError(page if is_page(start) else "not an image format that Pillow knows") from None
        except (OSError, ValueError) as error:
            found = error.with_traceback(None)  # whose frames hold what was decoded
            mended = without_long_texts(file) if isinstance(error, ValueError) else ended_jpeg(file)
            if mended is None:
                raise found from None
            return _first_frame(mended, source, do_convert_rgb, shrink)


def decoding(name: str) -> contextlib.AbstractContextManager[None]:
    """The net around everything that Pillow does with an encoded picture."""
    return foreign(
        MediaError,
        f"{name} cannot be read as an image",
        "expected a complete PNG, JPEG, WebP, GIF or TIFF. Open it in a viewer to see whether it is damaged.",
    )


def check_pixel_count(image: Image.Image, name: str, bytes_each: int = 0) -> None:
    """MediaError for a decompression bomb, which the header gives away before it is unpacked.

    Pillow itself stops at twice its limit. bytes_each: that its decoding takes for a pixel, by default by its format.
    """
    if Image.MAX_IMAGE_PIXELS is None:
        return
    limit = Image.MAX_IMAGE_PIXELS * _USUAL_BYTES // max(_USUAL_BYTES, bytes_each or _bytes_of(image))
    if image.width * image.height > limit:
        raise too_large(name, f"{image.width * image.height} pixels, limit {limit}")


def too_large(name: str, found: str) -> MediaError:
    """The error for a decompression bomb."""
    return MediaError(
        f"{name} is too large ({found}); expected no decompression bomb. Shrink the picture, or, if you "
        "trust it, raise PIL.Image.MAX_IMAGE_PIXELS."
    )


def to_rgb(image: Image.Image, name: str, do_convert_rgb: bool = True, *, copy: bool = True) -> Image.Image:
    """A copy of a Pillow image as RGB: transparency over white, greys of 16 bits and floats scaled to 8 bits.

    copy=False gives the image itself where it is that already, which saves a fifth of the time that a photo takes.

    Raises MediaError for what is no picture, and where do_convert_rgb is False for what is not RGB already.
    """
    if 0 in image.size:
        raise MediaError(f"{name} is {image.height}x{image.width} pixels; expected at least 1x1. Leave it out.")
    if not do_convert_rgb and (image.mode != "RGB" or image.has_transparency_data):
        raise MediaError(
            f"{name} has mode {image.mode}; expected RGB without transparency, as do_convert_rgb is False. "
            "Convert it, or leave do_convert_rgb on."
        )
    with foreign(
        MediaError,
        f"{name} of mode {image.mode} cannot be read as RGB",
        "expected a complete greyscale, palette, RGB, CMYK, YCbCr or HSV picture. Save it as a PNG in RGB.",
    ):
        image.load()
        if image.mode.startswith("I"):
            return _in_bands(image, lambda band: _from_16_bit(np.asarray(band), name))
        if image.mode == "F":
            return _in_bands(image, lambda band: Image.fromarray(floats_to_bytes(np.asarray(band), name)))
        if image.has_transparency_data:
            return _in_bands(image, _over_white)
        return image.convert("RGB") if copy or image.mode != "RGB" else image


def floats_to_bytes(values: npt.NDArray[np.floating], name: str) -> npt.NDArray[np.uint8]:
    """Floats 0..1 to 0..255, rounded; MediaError for others."""
    # Comparisons with NaN are false, so NaN is refused too.
    if not (values.min() >= 0 and values.max() <= 1):
        raise MediaError(
            f"{name} has values from {values.min()} to {values.max()}; expected floats in 0..1. "
            "Scale them, or pass uint8."
        )
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _first_frame(file: BinaryIO, source: Source, do_convert_rgb: bool, shrink: Shrink | None) -> Image.Image:
    name, glance = source.name, source.glance
    try:
        with Image.open(file) as image:
            check_pixel_count(image, name)
            if image.format == "TIFF":
                _silence_libtiff()
            whole = image.size
            drafted = None if shrink is None else shrink.draft(image, 0 if glance is None else glance.least)
            image.load()
            turn = orientation(image)
            result = to_rgb(image, name, do_convert_rgb, copy=False)
            if glance is not None:
                glance.take(result, whole, turn, image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(name, str(error)) from error
    del image  # what was decoded is not needed any more
    if shrink is not None:
        result = shrink.resized(result, drafted, turn)
    return result.transpose(TURNS[turn]) if turn in TURNS else result


@functools.cache
def _silence_libtiff() -> None:
    """Damage is told by Pillow's errors; libtiff's own handlers, of the whole process, write to stderr."""
    with contextlib.suppress(OSError, AttributeError):  # where Pillow was built otherwise
        libraries = ctypes.CDLL(_imaging.__file__)
        libraries.TIFFSetErrorHandler(None)
        libraries.TIFFSetWarningHandler(None)


def _bytes_of(image: Image.Image) -> int:
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):  # of which all coefficients are kept
        parts = [h * v for _, h, v, _ in getattr(image, "layer", [])] or [1] * len(image.getbands())
        return 4 + 2 * -(-sum(parts) // max(*parts, 1))
    return _BYTES.get(image.format or "", 0)


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """A picture whose rows are converted some at a time, so that nothing between is as large as itself."""
    rows = max(1, BAND // image.width)
    if rows >= image.height:
        return convert(image).convert("RGB")
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        result.paste(convert(band).convert("RGB"), (0, top))
    return result


def _over_white(image: Image.Image) -> Image.Image:
    straight = image.convert("LA") if image.mode == "La" else image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), straight.convert("RGBA"))


def _from_16_bit(values: npt.NDArray[Any], name: str) -> Image.Image:
    """Greys 0..65535 to 0..255, rounded: 65535 = 255 · 257."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise MediaError(
            f"{name} has grey values from {low} to {high}; expected 16 bits, 0 to 65535. Scale it to 8 bits first."
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
