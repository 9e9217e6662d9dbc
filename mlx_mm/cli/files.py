"""From what a user names on the command line, or in lines on stdin, to files and their contents."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.errors import InputError, MediaError

if TYPE_CHECKING:
    from mlx_mm.models.contracts import Modality

# Endings of images and sounds inside a folder. A file that is named itself is tried whatever its ending.
IMAGE_ENDINGS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg"),
    *(".jpg", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
AUDIO_ENDINGS = (
    *(".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mp3"),
    *(".oga", ".ogg", ".opus", ".w64", ".wav", ".wma"),
)
VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")
ENDINGS: "dict[Modality, tuple[str, ...]]" = {"image": IMAGE_ENDINGS, "audio": AUDIO_ENDINGS}
NOUNS: "dict[Modality, str]" = {"image": "pictures", "audio": "sounds"}


@dataclass
class Found:
    """files: paths in the order they were named, each once. problems: one line for each name without files."""

    files: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_files(names: Iterable[str], modality: "Modality" = "image") -> Found:
    """Files, folders (searched to the bottom, sorted, hidden ones left out), glob patterns and URLs.

    modality: "image" or "audio", what is taken of a folder.
    """
    found = Found()
    files: dict[str, None] = {}  # a set that keeps the order
    for name in names:
        matches = list(_expand(name, ENDINGS[modality]))
        if not matches:
            reason = f"no {NOUNS[modality]} in the folder" if os.path.isdir(name) else "there is no such file"
            found.problems.append(f"{name}: {reason}")
        files |= dict.fromkeys(matches)
    found.files = list(files)
    return found


def modality_of(names: Iterable[str]) -> "Modality | None":
    """What the endings of all names say, "image" or "audio"; None where one says nothing, or they differ."""
    found = {_modality_of(name) for name in names}
    return found.pop() if len(found) == 1 else None


def ending_of(name: str) -> str:
    """The ending of a file or URL, in lower case and with its dot."""
    return Path(name.partition("?")[0] if "://" in name else name).suffix.lower()


def input_lines(inputs: Iterable[str]) -> list[str]:
    """The inputs, with - replaced by the lines of stdin; empty lines are left out."""
    result: list[str] = []
    for item in inputs:
        result += [line for line in sys.stdin.read().splitlines() if line.strip()] if item == "-" else [item]
    return result


def require_some(items: list[str]) -> list[str]:
    """The items; MediaError where there are none."""
    if not items:
        raise MediaError("Nothing could be read, so there is no result. Name pictures or sounds, or texts with --text.")
    return items


def read_text(path: Path) -> str:
    """The contents of a text file; InputError where it cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}. Expected a UTF-8 text file.") from error


def _modality_of(name: str) -> "Modality | None":
    if os.path.isdir(os.path.expanduser(name)):
        return None
    return next((modality for modality, endings in ENDINGS.items() if ending_of(name) in endings), None)


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
