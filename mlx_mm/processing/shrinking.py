"""Encoded pictures to a smaller size at once, where the last bits do not count: several times as fast as one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from PIL import Image

from mlx_mm.processing.upright import TURNED, orientation

Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[float, float, float, float]

JPEG = ("JPEG", "MPO")  # the second holds several, of which the first is read
# A JPEG is decoded at an eighth, a quarter or a half of its size, so long as that is so many times the wanted one. With
# 2 pixels differ by 0.16 of 255 on average, with 1 by 0.3 (photos of 12 megapixels to 224).
LEAST_SCALE = 2
# Whole pixels are averaged down to so many times the wanted size, of which Pillow says that it is hard to see.
REDUCING_GAP = 3.0


@dataclass(frozen=True)
class Shrink:
    """What a picture is to become. size: (height, width) of it, upright -> the wanted ones. resample: Pillow's."""

    size: Callable[[int, int], Size]
    resample: int

    def draft(self, image: Image.Image, least: int = 0) -> tuple[Size, Box] | None:
        """Has a JPEG decoded smaller than it is; before it is loaded. What it was, and what it fills of the image.

        least: pixels that its longer side keeps.
        """
        if image.format not in JPEG:
            return None
        whole = image.size
        width, height = self._stored(whole, orientation(image))
        scale = least / max(whole)
        wanted = (max(LEAST_SCALE * width, int(whole[0] * scale)), max(LEAST_SCALE * height, int(whole[1] * scale)))
        drafted = image.draft(None, wanted)
        return None if drafted is None else (whole, cast(Box, drafted[1]))

    def resized(self, image: Image.Image, drafted: tuple[Size, Box] | None = None, turn: int = 1) -> Image.Image:
        """An image at the wanted size, both as they are stored. turn: its EXIF orientation."""
        whole, box = drafted or (image.size, None)
        wanted = self._stored(whole, turn)
        return image.resize(wanted, Image.Resampling(self.resample), box, REDUCING_GAP)

    def _stored(self, size: Size, turn: int) -> Size:
        """Of (width, height) as stored the wanted ones, as stored."""
        width, height = size
        if turn in TURNED:
            return self.size(width, height)
        height, width = self.size(height, width)
        return width, height
