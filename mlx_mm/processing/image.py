"""Open, convert, resize, normalise and cut images: small functions on Pillow images and NumPy arrays.

Arrays are (height, width, channel), sizes are (height, width).
"""

import base64
import binascii
import http.client
import io
import os
import struct
import threading
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from mlx_mm.errors import InputError, MediaError
from mlx_mm.processing.arguments import unpacked
from mlx_mm.processing.batch import as_list
from mlx_mm.processing.settings import PixelSettings

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]
Number = TypeVar("Number", bound=np.generic)
ONE_IMAGE = (str, bytes, bytearray, memoryview, np.ndarray)  # what could be iterated over and is one image

URL_TIMEOUT_SECONDS = 20
URL_MAX_BYTES = 100 * 2**20

# What Pillow's decoders raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
)

# EXIF orientation tag -> what turns the stored picture upright (EXIF 2.32, table 4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_LOCKS = [threading.Lock() for _ in range(61)]  # of Pillow images, which have no place for one of their own


def as_images(images: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """One image or several as a list; InputError for none."""
    return as_list(cast("Iterable[ImageSource]", unpacked(images, batch_axes=4)), "images", ONE_IMAGE)


def open_image(source: ImageSource, *, do_convert_rgb: bool = True) -> Image.Image:
    """Read one picture, whatever it comes in, as an RGB image.

    source: path, http(s) URL, data URI, encoded bytes, Pillow image, or array: (H, W), (H, W, C) or (C, H, W)
    with 1, 3 or 4 channels, of uint8 or of floats in 0..1, which are scaled to 0..255.
    do_convert_rgb=False refuses pictures that are not RGB already instead of converting them.

    Encoded pictures are turned upright by their EXIF orientation; image objects are taken as they are, as
    transformers does. Two deliberate differences from transformers: transparency is laid over white for every
    kind of source (its file loader drops it and shows the hidden colours), and greys of 16 bits or floats are
    scaled to 8 bits (it clips them to white). Of animations the first frame is read.
    Raises MediaError for what cannot be read, including pictures above Pillow's MAX_IMAGE_PIXELS.
    """
    if isinstance(source, Image.Image):
        with _LOCKS[id(source) // 16 % len(_LOCKS)]:  # it may be given twice, and its file can be read by one thread
            return _to_rgb(source, "the Pillow image", do_convert_rgb)
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), f"the array of shape {source.shape}", do_convert_rgb)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return _decode(io.BytesIO(data), f"the {len(data)} bytes given", do_convert_rgb)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _decode(io.BytesIO(read_data_uri(source, "image")), "the data URI", do_convert_rgb)
    if isinstance(source, str) and source[:8].lower().startswith(("http://", "https://")):
        return _decode(io.BytesIO(_download(source)), short_name(source), do_convert_rgb)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), do_convert_rgb)
    raise MediaError(
        f"An image was given as {type(source).__name__}; expected a path, URL, data URI, bytes, Pillow "
        "image or NumPy array. Convert it to one of these."
    )


def resize(image: Image.Image, size: tuple[int, int], resample: int) -> Image.Image:
    """Image of exactly `size` (height, width). Pillow's filters widen when shrinking, which antialiases.

    resample: Pillow's number, which is also Hugging Face's (0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4
    box, 5 hamming). Raises InputError for a size above Pillow's MAX_IMAGE_PIXELS.
    """
    height, width = _check_target(size)
    return image.resize((width, height), Image.Resampling(resample))


def shortest_edge_size(height: int, width: int, edge: int) -> tuple[int, int]:
    """The size at which the shorter side is `edge`; the longer one is cut to a whole number, as in transformers.

    Raises MediaError for a picture so long that this makes more pixels than Pillow's MAX_IMAGE_PIXELS.
    """
    size = (edge, edge * width // height) if height <= width else (edge * height // width, edge)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and edge * edge <= limit < size[0] * size[1]:
        raise MediaError(
            f"A picture of {height}x{width} pixels is too long: with {edge} on the shorter side it has "
            f"{size[0]}x{size[1]}; expected at most {limit} pixels. Give a part of it."
        )
    return size


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle `size` (height, width) of an image, on black where the image is smaller.

    Raises InputError for a size above Pillow's MAX_IMAGE_PIXELS.
    """
    height, width = _check_target(size)
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))


def to_pixels(image: Image.Image, settings: PixelSettings) -> npt.NDArray[np.float32]:
    """The numbers of an RGB image that a model sees, (H, W, 3)."""
    return rescale_and_normalize(
        np.asarray(image),
        rescale_factor=settings.rescale_factor if settings.do_rescale else None,
        mean=settings.image_mean if settings.do_normalize else None,
        std=settings.image_std if settings.do_normalize else None,
    )


def rescale_and_normalize(
    pixels: npt.NDArray[np.uint8],
    *,
    rescale_factor: float | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> npt.NDArray[np.float32]:
    """(x · rescale_factor − mean) / std of uint8 (H, W, C) as float32; None leaves a step out.

    Bit for bit what transformers' Pillow backend computes: the product in float64, the rest in float32. A
    byte has 256 values, so the arithmetic is done on those and looked up.
    """
    channels = pixels.shape[-1]
    values = np.arange(256, dtype=np.float64)
    if rescale_factor is not None:
        values = values * rescale_factor
    table: npt.NDArray[Any] = np.repeat(values.astype(np.float32)[:, None], channels, axis=1)
    if mean is not None and std is not None:
        table = (table - np.array(mean, np.float32)) / np.array(std, np.float32)
    if (table == table[:, :1]).all():
        return np.take(table[:, 0], pixels)
    return np.stack([np.take(table[:, c], pixels[..., c]) for c in range(channels)], axis=-1)


def patchify(pixels: npt.NDArray[Number], patch_size: int) -> npt.NDArray[Number]:
    """(rows·p, cols·p, C) to (rows·cols, p·p·C): patches row by row, in a patch (row, column, channel)."""
    height, width, channels = pixels.shape
    rows, cols = height // patch_size, width // patch_size
    blocks: npt.NDArray[Number] = pixels.reshape(rows, patch_size, cols, patch_size, channels)
    blocks = blocks.transpose(0, 2, 1, 3, 4)
    return blocks.reshape(rows * cols, patch_size * patch_size * channels)


def _check_target(size: tuple[int, int]) -> tuple[int, int]:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise InputError(
            f"Resizing to {size[0]}x{size[1]} makes {size[0] * size[1]} pixels; expected at most {limit}. "
            "Ask for fewer patches or a smaller size; of a very long picture give a part."
        )
    return size


def _open_path(path: str, do_convert_rgb: bool) -> Image.Image:
    name = short_name(path)
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed by the `with` below; only opening may fail here
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(
            f"{name} cannot be opened ({reason}); expected an image file. Check the path and its permissions."
        ) from error
    with file:
        return _decode(file, name, do_convert_rgb)


def _download(url: str) -> bytes:
    name = short_name(url)
    try:
        # Some hosts (Wikimedia for one) refuse urllib's own agent name.
        request = urllib.request.Request(url, headers={"User-Agent": "mlx_mm"})
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT_SECONDS) as response:
            data: bytes = response.read(URL_MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MediaError(
            f"{name} cannot be downloaded ({error}); expected an image. Check the address and the network."
        ) from error
    if len(data) > URL_MAX_BYTES:
        raise MediaError(
            f"{name} is larger than {URL_MAX_BYTES} bytes; expected an image below that. "
            "Download it yourself and give its path."
        )
    return data


def read_data_uri(uri: str, kind: str) -> bytes:
    """What a data URI holds; MediaError for one that cannot be decoded. kind: "image" or "video", for the message."""
    header, comma, body = uri.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        data = urllib.parse.unquote_to_bytes(body)
        if not header.lower().endswith(";base64"):
            return data
        return base64.b64decode(b"".join(data.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise MediaError(
            f"The data URI {short_name(uri)} cannot be decoded ({error}); expected data:{kind}/...;base64,... "
            "Check that it is complete."
        ) from error


def _decode(file: Any, name: str, do_convert_rgb: bool) -> Image.Image:
    """First frame of an open file, upright and RGB."""
    if not file.read(1):
        raise MediaError(f"{name} is empty; expected an image. Replace the file.")
    file.seek(0)
    try:
        with Image.open(file) as image:
            _check_pixel_count(image, name)
            image.load()
            return _to_rgb(_upright(image), name, do_convert_rgb)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error)) from error
    except _DECODE_ERRORS as error:
        reason = "not an image format that Pillow knows" if "cannot identify" in str(error) else error
        raise MediaError(
            f"{name} cannot be read as an image ({reason}); expected a complete PNG, JPEG, WebP, GIF or "
            "TIFF. Open it in a viewer to see whether it is damaged."
        ) from error


def _check_pixel_count(image: Image.Image, name: str) -> None:
    """The header has the size, so a bomb is found before unpacking. Pillow itself stops at twice this."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _too_large(name, f"{image.width * image.height} pixels, limit {limit}")


def _too_large(name: str, found: str) -> MediaError:
    return MediaError(
        f"{name} is too large ({found}); expected no decompression bomb. Shrink the picture, or, if you "
        "trust it, raise PIL.Image.MAX_IMAGE_PIXELS."
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODE_ERRORS:
        # A picture whose EXIF is damaged is shown as stored by every viewer.
        return image
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image, name: str, do_convert_rgb: bool) -> Image.Image:
    if 0 in image.size:
        raise MediaError(f"{name} is {image.height}x{image.width} pixels; expected at least 1x1. Leave it out.")
    if not do_convert_rgb and (image.mode != "RGB" or image.has_transparency_data):
        raise MediaError(
            f"{name} has mode {image.mode}; expected RGB without transparency, as do_convert_rgb is False. "
            "Convert it, or leave do_convert_rgb on."
        )
    try:
        image.load()
        if image.mode.startswith("I"):
            return _from_16_bit(np.asarray(image), name)
        if image.mode == "F":
            return _from_array(np.asarray(image)).convert("RGB")
        if image.has_transparency_data:
            straight = image.convert("LA") if image.mode == "La" else image
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, straight.convert("RGBA")).convert("RGB")
        return image.convert("RGB")
    except _DECODE_ERRORS as error:
        raise MediaError(
            f"{name} of mode {image.mode} cannot be read as RGB ({error}); expected a complete greyscale, "
            "palette, RGB, CMYK, YCbCr or HSV picture. Save it as a PNG in RGB."
        ) from error


def _from_16_bit(values: npt.NDArray[Any], name: str) -> Image.Image:
    """Greys 0..65535 to 0..255, rounded: 65535 = 255 · 257."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise MediaError(
            f"{name} has grey values from {low} to {high}; expected 16 bits, 0 to 65535. Scale it to 8 bits first."
        )
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    """uint8 or float 0..1; channels are last where both ends could be (transformers takes the first)."""
    found = f"An image array of shape {array.shape} and dtype {array.dtype}"
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise MediaError(
            f"{found} was given; expected (height, width), or with 1, 3 or 4 channels at either end. "
            "Give several images as a list."
        )
    if np.issubdtype(array.dtype, np.floating):
        # Comparisons with NaN are false, so NaN is refused too.
        if not (array.min() >= 0 and array.max() <= 1):
            raise MediaError(
                f"{found} has values from {array.min()} to {array.max()}; expected floats in 0..1. "
                "Scale them, or pass uint8."
            )
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise MediaError(f"{found} was given; expected uint8 in 0..255 or floats in 0..1. Convert it with astype.")
    return Image.fromarray(np.ascontiguousarray(array))


def short_name(name: str) -> str:
    """The name of a file or its URI, as a message shows it."""
    return name if len(name) <= 200 else f"{name[:150]}...({len(name)} characters)"
