"""Which files of a folder are pictures, sounds and videos, by the endings of their names."""

import functools

# Endings inside a folder. A file that is named itself is tried whatever its ending. Of pictures, those that are taken
# whether or not the Pillow that is installed reads them, so that a run says of each what is the matter; `endings_of`
# adds what it reads.
IMAGE_ENDINGS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg"),
    *(".jpg", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
AUDIO_ENDINGS = (
    *(".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mp3"),
    *(".oga", ".ogg", ".opus", ".w64", ".wav", ".wma"),
)
VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")
# Pictures that are not read here: drawings, and what cameras and editors keep for themselves
OTHER_ENDINGS = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".jxl", ".jxr", ".nef", ".nrw", ".orf", ".pef", ".psb", ".raf"),
    *(".raw", ".rw2", ".srw", ".svg", ".xcf"),
)

# What Pillow knows by name and cannot draw without more: stubs, and what runs another program
_NOT_DRAWN = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
_READ_AS_ANOTHER = {"MPO"}  # is opened as the JPEG that it begins with


@functools.cache
def image_endings() -> frozenset[str]:
    """Those of `IMAGE_ENDINGS`, and all that the installed Pillow registers for formats that it opens."""
    from PIL import Image  # which `--help` does not wait for

    Image.init()
    drawn = (set(Image.OPEN) | _READ_AS_ANOTHER) - _NOT_DRAWN
    known = {ending.lower() for ending, kind in Image.registered_extensions().items() if kind in drawn}
    return frozenset(known.union(IMAGE_ENDINGS))
