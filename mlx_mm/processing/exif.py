"""What a picture says of itself: when and where it was taken, and with what."""

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import ExifTags, Image

from mlx_mm.errors import MediaError, foreign

_TAKEN = (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized)
_FORMAT = "%Y:%m:%d %H:%M:%S"  # EXIF 2.32, DateTime
_CAMERA_CHARACTERS = 200


@dataclass(frozen=True)
class Taken:
    """taken_at: seconds since 1970 of the camera's clock, taken as UTC. latitude, longitude: degrees north and east.
    camera: maker and model. None is what the picture does not say."""

    taken_at: float | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None


def read_exif(image: Image.Image) -> Taken:
    """Of an open picture. What is damaged counts as not said."""
    try:
        with foreign(MediaError, "EXIF", "expected none"):
            exif = image.getexif()
            if not exif:
                return Taken()
            inner, place = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
            return Taken(_time(inner, exif), *_place(place), _camera(exif))
    except MediaError:
        return Taken()


def _time(inner: Mapping[int, object], exif: Mapping[int, object]) -> float | None:
    for found in (*(inner.get(tag) for tag in _TAKEN), exif.get(ExifTags.Base.DateTime)):
        text = _text(found)
        try:
            moment = datetime.datetime.strptime(text[:19], _FORMAT)
        except ValueError:  # absent, blank, or 0000:00:00 00:00:00
            continue
        return moment.replace(tzinfo=datetime.timezone.utc).timestamp()
    return None


def _place(gps: Mapping[int, object]) -> tuple[float | None, float | None]:
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "S", 90)
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "W", 180)
    if latitude is None or longitude is None or (latitude, longitude) == (0, 0):  # what cameras without a fix write
        return None, None
    return latitude, longitude


def _degrees(parts: object, side: object, negative: str, most: float) -> float | None:
    """Degrees, minutes and seconds as one number."""
    if not isinstance(parts, tuple) or not 1 <= len(parts) <= 3:
        return None
    try:
        value = sum(float(part) / 60**place for place, part in enumerate(parts))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not math.isfinite(value) or not 0 <= value <= most:
        return None
    return -value if _text(side).upper().startswith(negative) else value


def _camera(exif: Mapping[int, object]) -> str | None:
    maker, model = _text(exif.get(ExifTags.Base.Make)), _text(exif.get(ExifTags.Base.Model))
    whole = model if model.lower().startswith(maker.lower()) else f"{maker} {model}"  # "Canon" and "Canon EOS R5"
    return whole.strip()[:_CAMERA_CHARACTERS] or None


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    return " ".join(value.replace("\0", " ").encode("utf-8", "replace").decode().split())
