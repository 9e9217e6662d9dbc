"""How a stored picture is turned upright: the orientation in its EXIF data."""

from PIL import ExifTags, Image

from mlx_mm.errors import MediaError, foreign

# EXIF orientation tag -> what turns the stored picture upright (EXIF 2.32, table 4).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = (5, 6, 7, 8)  # the orientations that exchange height and width


def orientation(image: Image.Image) -> int:
    """Of an open picture, 1 where it says none.

    Of most formats it is known once the pixels are decoded, of a JPEG before.
    """
    try:
        with foreign(MediaError, "EXIF", "expected none"):
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
            return found if found in TURNS else 1
    except MediaError:
        # A picture whose EXIF is damaged is shown as stored by every viewer.
        return 1
