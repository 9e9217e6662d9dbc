"""What pictures say of themselves, right or wrong."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_mm.processing.exif import Taken, read_exif


def opened(fill: Any) -> Image.Image:
    exif, file = Image.Exif(), io.BytesIO()
    fill(exif)
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif)
    return Image.open(file)


def test_when_where_and_with_what() -> None:
    def fill(exif: Image.Exif) -> None:
        exif[0x010F], exif[0x0110], exif[0x0132] = "Apple\0 ", "iPhone 15 Pro", "2024:01:01 00:00:00"
        exif.get_ifd(0x8769)[0x9003] = "1969:07:20 20:17:40"
        exif.get_ifd(0x8825).update({1: "N", 2: (54.0, 18.0, 36.0), 3: "E", 4: (13.0, 6.0, 0.0)})

    found = read_exif(opened(fill))
    assert found.taken_at == -14182940
    assert found.camera == "Apple iPhone 15 Pro"
    assert (found.latitude, found.longitude) == (pytest.approx(54.31), pytest.approx(13.1))


@pytest.mark.parametrize("text", ["0000:00:00 00:00:00", "    :  :     :  :  ", "2023:02:30 00:00:00", "", "yesterday"])
def test_impossible_times(text: str) -> None:
    assert read_exif(opened(lambda exif: exif.get_ifd(0x8769).update({0x9003: text}))).taken_at is None


@pytest.mark.parametrize(
    "gps",
    [
        {1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
        {1: "N", 2: (1.0, 0.0, 0.0)},
        {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)},
        {1: "N", 2: "somewhere", 3: "E", 4: "else"},
        {1: "N", 2: (float("nan"), 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
    ],
)
def test_impossible_places(gps: dict[int, Any]) -> None:
    class Said(Image.Image):
        def getexif(self) -> Any:
            return Found()

    class Found(dict[int, Any]):
        def __bool__(self) -> bool:
            return True

        def get_ifd(self, tag: int) -> dict[int, Any]:
            return gps if tag == 0x8825 else {}

    assert read_exif(Said()) == Taken()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # which Pillow says of the second
def test_damaged_and_absent() -> None:
    assert read_exif(Image.new("RGB", (8, 8))) == Taken()
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\1")
    assert read_exif(Image.open(file)) == Taken()
