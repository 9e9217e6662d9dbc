"""64 bits of a picture: near for the same one, far for another."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mlx_mm.processing.perceptual_hash import difference_hash
from mlx_mm.processing.thumbnails import LONGEST, as_jpeg, thumbnail


def soft(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def distance(first: Image.Image, second: Image.Image) -> int:
    return bin((difference_hash(first) ^ difference_hash(second)) & (1 << 64) - 1).count("1")


def test_the_bits_of_a_known_picture() -> None:
    falling = Image.fromarray(np.tile(np.arange(90, 0, -10, dtype=np.uint8), (8, 1)))
    assert difference_hash(falling) == -1  # each field is brighter than that to its right
    assert difference_hash(falling.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    grey = np.full((8, 9), 100, np.uint8)
    grey[0, 0] = 200  # the first bit is the sign
    assert difference_hash(Image.fromarray(grey)) == -(1 << 63)


def test_the_same_picture_in_other_forms() -> None:
    picture, file = soft(1), io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    assert distance(picture, Image.open(file)) <= 3
    assert distance(picture, picture.resize((133, 100))) <= 3
    assert distance(picture, soft(2)) > 15
    assert distance(picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 15


def test_thumbnails() -> None:
    assert thumbnail(soft(1, (4000, 1000))).size == (LONGEST, 80)
    assert thumbnail(soft(1, (10, 5000))).size == (1, LONGEST)
    assert thumbnail(soft(1, (100, 50))).size == (100, 50)
    with Image.open(io.BytesIO(as_jpeg(soft(1, (320, 240))))) as small:
        assert small.format == "JPEG"
        assert np.abs(np.asarray(small, int) - np.asarray(soft(1, (320, 240)), int)).mean() < 3
