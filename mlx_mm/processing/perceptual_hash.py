"""64 bits that a picture keeps in other sizes, formats and compressions."""

import numpy as np
from PIL import Image

SIDE = 8  # of the grid of brightness; each bit says whether a field is brighter than its neighbour to the right
SIGN = 1 << 63


def difference_hash(image: Image.Image) -> int:
    """dHash (Krawetz 2013, "Kind of Like That") of an upright picture, as the signed 64-bit number of SQLite.

    Bits go row by row from the highest; a distance is the number of bits in which two differ.
    """
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    bits = np.packbits(grey[:, :-1] > grey[:, 1:])
    value = int.from_bytes(bits.tobytes(), "big")
    return value - 2 * SIGN if value >= SIGN else value
