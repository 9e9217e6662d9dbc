"""What is learned of a picture while it is decoded for a model: its size, hash, thumbnail, and what it says itself."""

from dataclasses import dataclass, field

from PIL import Image

from mlx_mm.processing.exif import Taken, read_exif
from mlx_mm.processing.perceptual_hash import difference_hash
from mlx_mm.processing.thumbnails import LONGEST, as_jpeg, thumbnail
from mlx_mm.processing.upright import TURNED, TURNS


@dataclass
class Glance:
    """Given with a `Source`, it is filled when that is decoded; None is what was not decoded yet.

    least: pixels that the longer side must keep where a JPEG is decoded smaller than it is. width, height: of the whole
    picture, upright. small: its thumbnail as a JPEG. dhash: see `difference_hash`.
    """

    least: int = LONGEST
    width: int | None = None
    height: int | None = None
    dhash: int | None = None
    small: bytes | None = None
    taken: Taken = field(default_factory=Taken)

    def take(self, image: Image.Image, whole: tuple[int, int], turn: int, opened: Image.Image) -> None:
        """image: RGB as stored, perhaps smaller than the whole (width, height). turn: its EXIF orientation. opened:
        what Pillow opened."""
        self.width, self.height = reversed(whole) if turn in TURNED else whole
        small = thumbnail(image)
        small = small.transpose(TURNS[turn]) if turn in TURNS else small
        self.dhash, self.small, self.taken = difference_hash(small), as_jpeg(small), read_exif(opened)
