"""Open, convert, resize, normalise and cut images: small functions on Pillow images and NumPy arrays.

Arrays are (height, width, channel), sizes are (height, width).
"""

import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from mlx_mm.errors import InputError, MediaError
from mlx_mm.processing.arguments import unpacked
from mlx_mm.processing.batch import as_list
from mlx_mm.processing.decoding import decode, floats_to_bytes, to_rgb
from mlx_mm.processing.settings import PixelSettings
from mlx_mm.processing.shrinking import Shrink
from mlx_mm.processing.sources import PICTURE, EncodedSource, lock_of, source_of

ImageSource: TypeAlias = EncodedSource | Image.Image | npt.NDArray[Any]
Number = TypeVar("Number", bound=np.generic)
ONE_IMAGE = (str, bytes, bytearray, memoryview, np.ndarray)  # what could be iterated over and is one image

_LOCKS = [Lock() for _ in range(61)]  # of Pillow images, which have no place for one of their own


def as_images(images: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """One image or several as a list; InputError for none."""
    return as_list(cast("Iterable[ImageSource]", unpacked(images, batch_axes=4)), "images", ONE_IMAGE)


def open_resized(
    source: ImageSource,
    size: Callable[[int, int], tuple[int, int]] | None,
    resample: int,
    *,
    do_convert_rgb: bool = True,
    fast: bool = False,
) -> Image.Image:
    """What `resize` makes of what `open_image` reads. size: (height, width) of it -> the wanted ones; None leaves them.

    fast: not to the last bit. Photos are decoded at a part of their size, and large pictures shrunk in two steps.
    """
    if size is None:
        return open_image(source, do_convert_rgb=do_convert_rgb)
    if fast and resample != Image.Resampling.NEAREST:  # which would take another pixel of a smaller picture
        shrink = Shrink(lambda height, width: _check_target(size(height, width)), resample)
        return open_image(source, do_convert_rgb=do_convert_rgb, shrink=shrink)
    image = open_image(source, do_convert_rgb=do_convert_rgb)
    return resize(image, size(image.height, image.width), resample)


def open_image(source: ImageSource, *, do_convert_rgb: bool = True, shrink: Shrink | None = None) -> Image.Image:
    """Read one picture, whatever it comes in, as an RGB image.

    source: path, http(s) URL, data URI, encoded bytes, open file, Pillow image, or array: (H, W), (H, W, C) or
    (C, H, W) with 1, 3 or 4 channels, of uint8 or of floats in 0..1, which are scaled to 0..255. A file is read from
    its start and left where it was; one that cannot be seeked is read to its end.
    do_convert_rgb=False refuses pictures that are not RGB already instead of converting them. shrink: what it is to
    become, see `open_resized`.

    Encoded pictures are turned upright by their EXIF orientation; image objects are taken as they are, as
    transformers does. Two deliberate differences from transformers: transparency is laid over white for every
    kind of source (its file loader drops it and shows the hidden colours), and greys of 16 bits or floats are
    scaled to 8 bits (it clips them to white). Of animations the first frame is read.
    Raises MediaError for what cannot be read, including pictures above Pillow's MAX_IMAGE_PIXELS.
    """
    image = _decoded(source, do_convert_rgb)
    if image is None:
        found = source_of(source, PICTURE)
        if found is None:
            raise MediaError(
                f"An image was given as {type(source).__name__}; expected a path, URL, data URI, bytes, open file, "
                "Pillow image or NumPy array. Convert it to one of these."
            )
        return decode(found, do_convert_rgb, shrink)
    return image if shrink is None else shrink.resized(image)


def file_of(source: ImageSource) -> bytes:
    """A picture as a file: an encoded one as it is, another one without loss, as a PNG."""
    found = source_of(source, PICTURE)
    if found is not None:
        with found.open() as file:
            return file.read()
    data = io.BytesIO()
    open_image(source).save(data, "PNG")
    return data.getvalue()


def _decoded(source: ImageSource, do_convert_rgb: bool) -> Image.Image | None:
    """What is a picture already, as RGB; None for what is encoded."""
    if isinstance(source, Image.Image):
        # It may be given twice, as may the file that it is still to be read from, and one thread can read it.
        file = getattr(source, "fp", None)
        with _LOCKS[id(source) // 16 % len(_LOCKS)], nullcontext() if file is None else lock_of(file):
            return to_rgb(source, "the Pillow image", do_convert_rgb)
    if isinstance(source, np.ndarray):
        return to_rgb(_from_array(source), f"the array of shape {source.shape}", do_convert_rgb, copy=False)
    return None


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
            f"{size[0]}x{size[1]}; expected at most {limit} pixels. Give a part of it, whose sides differ less than "
            f"{max(height, width) / min(height, width):g} times."
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
        array = floats_to_bytes(array, found)
    if array.dtype != np.uint8:
        raise MediaError(f"{found} was given; expected uint8 in 0..255 or floats in 0..1. Convert it with astype.")
    return Image.fromarray(np.ascontiguousarray(array))
