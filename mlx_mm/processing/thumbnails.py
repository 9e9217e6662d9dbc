"""Small upright JPEGs of pictures, without what the pictures say of themselves."""

import io

from PIL import Image

from mlx_mm.processing.shrinking import REDUCING_GAP

LONGEST = 320  # pixels of the longer side
QUALITY = 80  # 22 kB and 0.4 ms for 320 x 240; WebP and AVIF take 9 to 120 times as long


def thumbnail(image: Image.Image) -> Image.Image:
    """An upright RGB picture with LONGEST pixels on its longer side; a smaller one as it is."""
    scale = LONGEST / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)


def as_jpeg(image: Image.Image) -> bytes:
    """An RGB picture, encoded."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
