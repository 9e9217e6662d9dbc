"""Pictures that Pillow refuses and every browser shows, in a form that it reads; their pixels stay what they are."""

import hashlib
import io
import re
import struct
import zlib
from typing import BinaryIO

from PIL import Image

from mlx_mm.processing.fetching import MOST_BYTES

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # none changes a pixel; short ones are kept, as one may hold the EXIF
_MOST_TEXT = 1 << 19  # bytes of one, unpacked: half of what Pillow takes
_MOST_TEXTS = 16 << 20  # of all together: a quarter of what Pillow takes

_JPEG, _END = b"\xff\xd8\xff", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what ends a scan: neither stuffing nor a restart
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive: those of libjpeg
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
# Two continuations of a scan. If the pixels depend on which one follows, something of the scan is missing.
_GUESSES = (bytes(range(1, 65)), bytes(range(160, 96, -1)))


def without_long_texts(file: BinaryIO) -> BinaryIO | None:
    """A PNG without texts (and colour profiles) longer than Pillow takes; None for other files, and without such.

    None also where more than MOST_BYTES would have to be held for it.
    """
    file.seek(0)
    if file.read(8) != _PNG:
        return None
    kept, dropped, left = io.BytesIO(), False, _MOST_TEXTS
    kept.write(_PNG)
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kept.tell() + size > MOST_BYTES:
            return None
        body = file.read(size + 4)  # never more than there is
        cost = _unpacked(kind, body) if kind in _TEXTS else 0
        if cost > min(_MOST_TEXT, left):
            dropped = True
            continue
        left -= cost
        kept.write(head)
        kept.write(body)
    kept.seek(0)
    return kept if dropped else None


def _unpacked(kind: bytes, body: bytes) -> int:
    """The bytes of a text at most, of which no more are unpacked than needed to see that they are too many."""
    if kind == b"tEXt":
        return len(body)
    start = body.find(b"\0") + 2
    if kind == b"iTXt":
        start += 1
        for _ in range(2):  # the language and the translated keyword
            start = body.find(b"\0", start) + 1
    try:
        packed = zlib.decompressobj().decompress(body[start:], _MOST_TEXT + 1)
    except zlib.error:
        packed = b""
    return len(body) + len(packed)


def ended_jpeg(file: BinaryIO) -> BinaryIO | None:
    """A JPEG with the end marker that it lacks; None for other files, and where more is missing than that.

    Nothing more is missing where all scans are there that its header calls for, and what would follow the last one
    has no effect on any pixel.
    """
    file.seek(0)
    if file.read(3) != _JPEG:
        return None
    file.seek(0)
    data = file.read(MOST_BYTES + 1).rstrip(b"\xff")
    if len(data) > MOST_BYTES or not _has_all_scans(data):
        return None
    restarts = _RESTART.findall(data)
    restart = bytes([0xFF, 0xD0 + (restarts[-1][0] + 1) % 8]) if restarts else b""
    right = _digest(data + _END)
    if any(_digest(data + guess + restart + guess + _END) != right for guess in _GUESSES):
        return None
    return io.BytesIO(data + _END)


def _digest(data: bytes) -> bytes:
    """Of all pixels, some rows at a time."""
    found = hashlib.blake2b()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        for top in range(0, image.height, 64):
            found.update(image.crop((0, top, image.width, min(top + 64, image.height))).tobytes())
    return found.digest()


def _has_all_scans(data: bytes) -> bool:
    """Whether a JPEG without an end stops in a scan after which every coefficient has all its bits."""
    place, wanted, there = 2, set[tuple[int, int]](), set[tuple[int, int]]()
    while place + 4 <= len(data):
        if data[place : place + 2] == b"\xff\xff":  # padding
            place += 1
            continue
        marker = data[place + 1]
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : place + 2 + size]
        if data[place] != 0xFF or not body or len(body) != size - 2:
            return False
        place += 2 + size
        if marker in _FRAMES:
            wanted = {(component, k) for component in body[6::3] for k in range(64)}
        elif marker == 0xDA:
            count = body[0]
            if len(body) != 4 + 2 * count:
                return False
            first, last, bits = body[-3:]
            if bits & 15 == 0:  # down to the lowest bit
                there |= {(component, k) for component in body[1 : 1 + 2 * count : 2] for k in range(first, last + 1)}
            following = _MARKER.search(data, place)
            if following is None:
                return bool(wanted) and wanted <= there
            place = following.start()
    return False
