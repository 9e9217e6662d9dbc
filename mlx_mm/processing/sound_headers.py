"""Headers of sound files: what recorders left unfinished, and where the frames of an MP3 begin."""

import io
import re
import struct
from typing import BinaryIO, NamedTuple

_UNTIL_THE_END = b"\xff\xff\xff\xff"  # what libsndfile takes so, as the size of a chunk in most formats

# kbit/s of layer I, II and III by the index in a header (ISO 11172-3), then those of MPEG 2 and 2.5.
_RATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = (44_100, 48_000, 32_000)
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]")
# A first frame without sound: after its header and nothing but zeros, flags of what follows. 2 is the size of all.
_TABLE = re.compile(rb"....(?:..)?\0{9,32}(Xing|Info)(....)", re.DOTALL)
_FRAMES = 3  # that follow each other, where one alone may be chance
_SEARCHED = 1 << 18  # bytes in which the first frame has to begin


class Mended(NamedTuple):
    """How a file is to be given to libsndfile: from `start` on, and with other bytes at some places after it."""

    start: int
    changes: dict[int, bytes]


def unfinished(file: BinaryIO) -> dict[int, bytes]:
    """Places -> bytes there, with which an unfinished header says that the samples go on until the end of the file.

    A recorder that is interrupted leaves the sizes of WAV, RF64, AIFF, AU and CAF at 0 or unknown. {} for files whose
    sizes are known, and for those of other kinds.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(36)
    if head[:4] == b".snd" and head[8:12] == bytes(4):
        return {8: _UNTIL_THE_END}
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        place, size = _chunk(file, b"data", 12, end, "<4sI")
        if head[:4] != b"RIFF" and head[28:36] in (bytes(8), _UNTIL_THE_END * 2):  # where it has the size
            size = 0
        return {} if size else {0: b"RIFF", place + 4: _UNTIL_THE_END}
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        place, size = _chunk(file, b"SSND", 12, end, ">4sI")
        return {} if size > 8 else {place + 4: _UNTIL_THE_END}
    if head[:4] == b"caff":
        place, size = _chunk(file, b"data", 8, end, ">4sQ")
        return {} if 4 < size < 2**64 - 1 else {place + 4: struct.pack(">Q", end - place - 12)}
    return {}


def _chunk(file: BinaryIO, wanted: bytes, place: int, end: int, layout: str) -> tuple[int, int]:
    """Where a chunk begins and the size that it says; a size other than 0 where there is no such chunk."""
    header = struct.calcsize(layout)
    while place + header < end:
        file.seek(place)
        kind, size = struct.unpack(layout, file.read(header))
        if kind == wanted:
            following = file.read(header)
            if size == 0 and len(following) == header:
                kind, after = struct.unpack(layout, following)
                if place + 2 * header + after in (end, end - 1) and kind.isascii():
                    break  # it is empty, and another chunk comes after it
            return place, size
        place += header + size + (size & 1 if header == 8 else 0)
    return end, 9


def mended_mpeg(file: BinaryIO) -> Mended | None:
    """An MP3, before whose frames a tag, silence or half a frame may stand; None where no frames follow each other.

    What its first frame says of the size of the file is put right, of which libmpg123 would write to stderr.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    tag = file.read(10)
    size = 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        size = 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])
    file.seek(size)
    data = file.read(_SEARCHED)
    first = next((found.start() for found in _SYNC.finditer(data) if _follow(data, found.start())), None)
    if first is None:
        return None
    start = 0 if first == 0 else size + first
    table = _TABLE.match(data, first)
    if table is None or not table[2][3] & 2:
        return Mended(start, {})
    place = table.end() + 4 * (table[2][3] & 1)
    right = struct.pack(">I", min(end - size - first, 2**32 - 1))
    said = data[place : place + 4]
    return Mended(start, {} if said == right else {size + place - start: right})


def starts_as_mpeg(start: bytes) -> bool:
    """Whether a file begins with what could be the header of an MP3's frame."""
    return _frame_size(start[:4]) is not None


def _follow(data: bytes, first: int) -> bool:
    """Whether frames of one kind follow each other from a place on, or up to the end."""
    place = first
    for count in range(_FRAMES):
        if place >= len(data) and count > (first > 0):
            return True
        size = _frame_size(data[place : place + 4])
        if size is None or data[place + 1] != data[first + 1] or (data[place + 2] ^ data[first + 2]) & 0x0C:
            return False
        place += size
    return True


def _frame_size(header: bytes) -> int | None:
    """In bytes; None for what is no header."""
    if len(header) < 4 or not _SYNC.match(header):
        return None
    layer, index, rate = 4 - (header[1] >> 1 & 3), header[2] >> 4, header[2] >> 2 & 3
    slower = {3: 1, 2: 2, 0: 4}.get(header[1] >> 3 & 3)  # MPEG 1, 2 and 2.5
    if slower is None or not 0 < index < 15 or rate == 3:
        return None
    hertz, padding, version = _HERTZ[rate] // slower, header[2] >> 1 & 1, min(slower, 2)
    bits = 1000 * _RATES[version, min(layer, 2) if version == 2 else layer][index - 1]
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    return (72 if layer == 3 and version == 2 else 144) * bits // hertz + padding
