"""From what a user names on the command line to a list of files."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Endings of pictures and sounds inside a folder. A file that is named itself is tried whatever its ending.
IMAGE_ENDINGS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg"),
    *(".jpg", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
AUDIO_ENDINGS = (
    *(".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mp3"),
    *(".oga", ".ogg", ".opus", ".w64", ".wav", ".wma"),
)
ENDINGS = {"image": IMAGE_ENDINGS, "audio": AUDIO_ENDINGS}
NOUNS = {"image": "pictures", "audio": "sounds"}


@dataclass
class Found:
    """files: paths in the order they were named, each once. problems: one line for each name without files."""

    files: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_files(names: Iterable[str], kind: str = "image") -> Found:
    """Files, folders (searched to the bottom, sorted, hidden ones left out), glob patterns and URLs.

    kind: "image" or "audio", what is taken of a folder.
    """
    found = Found()
    files: dict[str, None] = {}  # a set that keeps the order
    for name in names:
        matches = list(_expand(name, ENDINGS[kind]))
        if not matches:
            reason = f"no {NOUNS[kind]} in the folder" if os.path.isdir(name) else "there is no such file"
            found.problems.append(f"{name}: {reason}")
        files |= dict.fromkeys(matches)
    found.files = list(files)
    return found


def _expand(name: str, endings: tuple[str, ...]) -> Iterator[str]:
    if name.startswith(("http://", "https://", "data:")):
        yield name
        return
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        yield from _walk(path, endings)
    elif os.path.exists(path):
        yield path
    else:
        for match in sorted(glob.glob(path, recursive=True)):
            if not os.path.isdir(match):
                yield match


def _walk(folder: str, endings: tuple[str, ...]) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in endings:
                yield os.path.join(parent, file)
