"""The size of a picture from its header, which costs milliseconds where decoding costs seconds."""

import io
import os
from collections.abc import Callable
from typing import Any

from PIL import ExifTags, Image

from mlx_mm.errors import MediaError
from mlx_mm.processing.image import ImageSource, open_image

_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


def measured(source: ImageSource, *, do_convert_rgb: bool = True) -> tuple[int, int, Callable[[], Image.Image]]:
    """Height and width of a picture as `open_image` gives it, and what opens it; a URL is downloaded once, here.

    Raises MediaError for what cannot be read; damage after the header shows when it is opened.
    """
    size = _from_header(source)
    if size is None:
        image = open_image(source, do_convert_rgb=do_convert_rgb)
        return image.height, image.width, lambda: image

    def opener() -> Image.Image:
        image = open_image(source, do_convert_rgb=do_convert_rgb)
        if (image.height, image.width) != size:
            raise MediaError(
                f"A picture is {image.height}x{image.width} and {size[0]}x{size[1]} by its header; expected the same, "
                "with its orientation before its pixels. Save it again."
            )
        return image

    return *size, opener


def _from_header(source: ImageSource) -> tuple[int, int] | None:
    """None where there is no header, or none that Pillow can read; `open_image` then says what is wrong."""
    if isinstance(source, Image.Image):
        return (source.height, source.width) if 0 not in source.size else None
    if isinstance(source, str) and source[:5].lower() in ("data:", "http:", "https"):
        return None
    file: Any = source
    if isinstance(source, (bytes, bytearray, memoryview)):
        file = io.BytesIO(source)
    elif not isinstance(source, (str, os.PathLike)):
        return None
    try:
        with Image.open(file) as image:
            # Not image.getexif(): of a PNG it decodes the pixels to see what follows them.
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, ArithmeticError):
        return None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
