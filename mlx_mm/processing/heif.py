"""HEIC, which phones write: read with pi-heif, an extra, since Pillow has no decoder for it."""

import functools
import re

_START = re.compile(rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)  # ISO/IEC 23008-12, brands
ENDINGS = (".heic", ".heif")


def is_heif(start: bytes) -> bool:
    """By the first bytes of a file."""
    return _START.match(start) is not None


@functools.cache
def can_read_heif() -> bool:
    """Whether pi-heif is there; Pillow opens HEIC from then on."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener()
    return True
