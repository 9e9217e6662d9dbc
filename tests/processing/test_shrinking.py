"""Pictures that are brought to a model's size the fast way: what differs, and what does not."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from comparing import LONG
from PIL import Image, ImageDraw

from mlx_mm import encode_image, load
from mlx_mm.errors import MediaError
from mlx_mm.processing import shrinking
from mlx_mm.processing.glance import Glance
from mlx_mm.processing.image import open_resized, shortest_edge_size
from mlx_mm.processing.sources import Source

BICUBIC = Image.Resampling.BICUBIC


@functools.cache
def photo(width: int = 1203, height: int = 901, seed: int = 0) -> Image.Image:
    """Soft colours, fine grain and hard edges, without any symmetry; not to be changed."""
    random = np.random.default_rng(seed)
    soft = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), BICUBIC)
    grain = random.integers(-12, 13, (height, width, 3))
    image = Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for left, top, size in zip(*random.integers(0, width, (2, 9)), random.integers(30, width // 4, 9), strict=True):
        draw.ellipse([left, top, left + size, top + size // 2], tuple(random.integers(0, 256, 3).tolist()))
    return image


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def square(_height: int, _width: int) -> tuple[int, int]:
    return 96, 96


def difference(source: object, size: Callable[[int, int], tuple[int, int]] = square, resample: int = BICUBIC) -> float:
    """How far both ways lie apart on average, of 255."""
    exact, fast = (np.asarray(open_resized(source, size, resample, fast=fast), np.float64) for fast in (False, True))  # type: ignore[arg-type]
    assert exact.shape == fast.shape
    return float(np.abs(exact - fast).mean())


@pytest.fixture
def drafts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes at which pictures are decoded."""
    found = []
    resized = shrinking.Shrink.resized

    def watched(self: shrinking.Shrink, image: Image.Image, *others: object) -> Image.Image:
        found.append(image.size)
        return resized(self, image, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(shrinking.Shrink, "resized", watched)
    return found


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}])
def test_jpegs_are_decoded_at_a_part_of_their_size(
    mode: str, options: dict[str, object], drafts: list[tuple[int, int]]
) -> None:
    assert 0 < difference(jpeg(photo().convert(mode), **options)) < 0.6
    assert drafts == [(301, 226)]  # a quarter, of 1203 x 901; an eighth would be less than 2 x 96


@pytest.mark.parametrize("size", [(96, 96), (48, 130), (400, 56), (225, 300)])
def test_at_least_twice_the_wanted_size(size: tuple[int, int], drafts: list[tuple[int, int]]) -> None:
    difference(jpeg(photo()), lambda *_: size)
    [(width, height)] = drafts
    assert width >= 2 * size[1]
    assert height >= 2 * size[0]
    assert width // 2 < 2 * size[1] or height // 2 < 2 * size[0] or width == 151  # an eighth is the smallest


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("edge", [40, 96])
def test_turned_pictures(turn: int, edge: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    source = jpeg(photo(803, 605), exif=exif)
    seen = []

    def shortest(height: int, width: int) -> tuple[int, int]:
        seen.append((height, width))
        return shortest_edge_size(height, width, edge)

    assert difference(source, shortest) < 0.6
    assert set(seen) == {(803, 605) if turn >= 5 else (605, 803)}  # upright, and the whole picture


def test_the_last_column_counts_for_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 801 pixels an eighth is 101, of which the last one stands for one pixel."""
    image = Image.new("RGB", (801, 801), "white")
    image.paste("black", (0, 0, 400, 801))
    size = 48, 48
    right = difference(jpeg(image), lambda *_: size)
    draft = shrinking.Shrink.draft

    def without_box(self: shrinking.Shrink, image: Image.Image, least: int) -> object:
        draft(self, image, least)
        return image.size, None

    monkeypatch.setattr(shrinking.Shrink, "draft", without_box)
    wrong = difference(jpeg(image), lambda *_: size)
    assert right < 0.5 < 1 < wrong


@LONG[0]
@LONG[1]
def test_what_cannot_be_decoded_smaller_is_decoded_as_ever(tmp_path: Path) -> None:
    small = jpeg(photo(150, 130))
    assert difference(small) == 0
    assert difference(small, lambda *_: (300, 200)) == 0
    photo().save(tmp_path / "a.png")
    assert 0 < difference(tmp_path / "a.png") < 0.6  # in two steps
    assert 0 < difference(photo()) < 0.6
    assert 0 < difference(np.asarray(photo())) < 0.6
    assert difference(jpeg(photo()), resample=Image.Resampling.NEAREST) == 0


def test_multi_picture_files() -> None:
    file = io.BytesIO()
    photo().save(file, "MPO", save_all=True, append_images=[photo(seed=1)], quality=90)
    assert 0 < difference(file.getvalue()) < 0.6


def test_an_image_object_is_left_alone() -> None:
    image = Image.open(io.BytesIO(jpeg(photo())))
    assert difference(image) < 0.6
    assert image.size == (1203, 901)


@LONG[0]
@LONG[1]
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_the_same_errors(options: dict[str, object]) -> None:
    data = jpeg(photo(), **options)
    for part in (data[: len(data) // 3], data[:-9000], data[:300], data[:2], b"", b"<html>"):
        messages = []
        for fast in (False, True):
            with pytest.raises(MediaError) as error:
                open_resized(part, square, BICUBIC, fast=fast)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
    assert difference(data[:-2]) < 0.6  # without its end marker


def test_too_long_for_the_wanted_size() -> None:
    messages = []
    for fast in (False, True):
        with pytest.raises(MediaError, match="is too long") as error:
            open_resized(
                jpeg(Image.new("RGB", (30_000, 1))), lambda h, w: shortest_edge_size(h, w, 3000), BICUBIC, fast=fast
            )
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_vectors_stay_where_they_are(tmp_path: Path) -> None:
    model, processor = load("emoji-siglip2")
    paths = []
    for seed, size in enumerate([(1203, 901), (700, 1100), (1600, 640)]):
        paths.append(tmp_path / f"{seed}.jpg")
        paths[-1].write_bytes(jpeg(photo(*size, seed)))
    exact, fast = (encode_image(model, processor, paths, fast_decode=fast) for fast in (False, True))
    cosines = (exact * fast).sum(axis=1)
    assert (cosines >= 0.9999).all()
    assert (cosines < 1).any()


def test_a_glance_has_enough_for_a_thumbnail() -> None:
    data, glance = jpeg(photo(1600, 1200)), Glance()
    source = Source("photo", lambda: io.BytesIO(data), glance=glance)
    small = open_resized(source, lambda *_: (32, 32), 2, fast=True)
    assert small.size == (32, 32)
    assert glance.small is not None
    with Image.open(io.BytesIO(glance.small)) as thumbnail:
        assert max(thumbnail.size) == 320
        with Image.open(io.BytesIO(data)) as whole:
            exact = whole.resize(thumbnail.size, Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(exact, int) - np.asarray(thumbnail, int)).mean() < 4
    assert sorted((glance.width or 0, glance.height or 0)) == [1200, 1600]
