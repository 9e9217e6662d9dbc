"""The size of a picture from its header, which costs milliseconds where decoding costs seconds."""

from collections.abc import Callable

from PIL import ExifTags, Image

from mlx_mm.errors import MediaError, foreign
from mlx_mm.processing.image import ImageSource, open_image
from mlx_mm.processing.sources import PICTURE, Source, source_of
from mlx_mm.processing.upright import TURNED


def measured(source: ImageSource, *, do_convert_rgb: bool = True) -> tuple[int, int, Callable[[], Image.Image]]:
    """Height and width of a picture as `open_image` gives it, and what opens it.

    What can be read only once (a URL, a pipe, a file that cannot be seeked) is read once, here.

    Raises MediaError for what cannot be read; damage after the header shows when it is opened.
    """
    picture = source if isinstance(source, Image.Image) else source_of(source, PICTURE)
    size = None if picture is None else _from_header(picture)
    if picture is None or size is None:
        image = open_image(picture or source, do_convert_rgb=do_convert_rgb)
        return image.height, image.width, lambda: image

    def opener() -> Image.Image:
        image = open_image(picture, do_convert_rgb=do_convert_rgb)
        if (image.height, image.width) != size:
            raise MediaError(
                f"A picture is {image.height}x{image.width} and {size[0]}x{size[1]} by its header; expected the same, "
                "with its orientation before its pixels. Save it again."
            )
        return image

    return *size, opener


def _from_header(source: Image.Image | Source) -> tuple[int, int] | None:
    """None where there is no header, or none that Pillow can read; `open_image` then says what is wrong."""
    if isinstance(source, Image.Image):
        return (source.height, source.width) if 0 not in source.size else None
    try:
        with (
            foreign(MediaError, source.name, "expected a header"),
            source.opened(PICTURE) as file,
            Image.open(file) as image,
        ):
            # Not image.getexif(): of a PNG it decodes the pixels to see what follows them.
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except MediaError:
        return None
