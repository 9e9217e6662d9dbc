"""From what a user names on the command line, or in lines on stdin, to files."""

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.cli.reading import stdin_items
from mlx_mm.cli.tables import plural
from mlx_mm.errors import MediaError, reason
from mlx_mm.processing.endings import AUDIO_ENDINGS, OTHER_ENDINGS, VIDEO_ENDINGS, image_endings

if TYPE_CHECKING:
    from mlx_mm.models.contracts import Modality

NOUNS: "dict[Modality, str]" = {"image": "pictures", "audio": "sounds"}


@dataclass
class Found:
    """What lies behind the names of a user.

    files: paths in the order they were named, each once. problems: one line for each name without files, and each
    folder that could not be searched. passed_over: how many pictures, sounds and videos of other kinds were left out
    of the folders, by ending. special: how many pipes and devices.
    """

    files: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    special: int = 0


def find_files(names: Iterable[str], modality: "Modality" = "image") -> Found:
    """Files, folders (searched to the bottom, sorted, hidden ones left out), glob patterns and URLs.

    Each real folder is searched once, wherever links lead; those that are links come after the others.
    modality: "image" or "audio", what is taken of a folder.
    """
    found = Found()
    files: dict[str, None] = {}  # a set that keeps the order
    searched: set[tuple[int, int]] = set()
    for name in names:
        path = os.path.expanduser(name)
        if name.startswith(("http://", "https://", "data:")):
            files[name] = None
        elif os.path.isdir(path):
            _add_folder(name, path, modality, files, searched, found)
        elif os.path.exists(path):
            files[path] = None
        elif matches := [match for match in sorted(glob.glob(path, recursive=True)) if os.path.isfile(match)]:
            files |= dict.fromkeys(matches)
        else:
            found.problems.append(f"{name}: there is no such file")
    found.files = list(files)
    return found


def endings_of(modality: "Modality") -> frozenset[str]:
    """The endings of pictures or sounds, in lower case."""
    return frozenset(AUDIO_ENDINGS) if modality == "audio" else image_endings()


def modality_of(names: Iterable[str]) -> "Modality | None":
    """What the endings of all names say, "image" or "audio"; None where one says nothing, or they differ."""
    found = {_modality_of(name) for name in names}
    return found.pop() if len(found) == 1 else None


def ending_of(name: str) -> str:
    """The ending of a file or URL, in lower case and with its dot."""
    return Path(name.partition("?")[0] if "://" in name else name).suffix.lower()


def input_lines(inputs: Iterable[str], *, names: bool = True, null: bool = False) -> list[str]:
    """The inputs, with - replaced by the lines of stdin; empty lines are left out. names, null: of `stdin_items`."""
    result: list[str] = []
    for item in inputs:
        result += stdin_items(names=names, null=null) if item == "-" else [item]
    return result


def require_some(items: list[str]) -> list[str]:
    """The items; MediaError where there are none."""
    if not items:
        raise MediaError("Nothing could be read, so there is no result. Name pictures or sounds, or texts with --text.")
    return items


def _modality_of(name: str) -> "Modality | None":
    if os.path.isdir(os.path.expanduser(name)):
        return None
    both: tuple[Modality, ...] = ("image", "audio")
    return next((modality for modality in both if ending_of(name) in endings_of(modality)), None)


def _add_folder(
    name: str, path: str, modality: "Modality", files: dict[str, None], searched: set[tuple[int, int]], found: Found
) -> None:
    problems, others, before = len(found.problems), Counter[str](), len(searched)
    kept = list(_walk(path, endings_of(modality), searched, others, found))
    files |= dict.fromkeys(kept)
    found.passed_over += Counter({ending: others[ending] for ending in others if _is_media(ending)})
    if not kept and len(found.problems) == problems and len(searched) > before:
        left = f" ({plural(others.total(), 'file')} of other kinds: {_listed(others)})" if others else ""
        found.problems.append(f"{name}: no {NOUNS[modality]} in the folder{left}")


def _walk(
    folder: str, endings: frozenset[str], searched: set[tuple[int, int]], others: Counter[str], found: Found
) -> Iterator[str]:
    """Files with these endings, of a folder and those below; `searched`, `others` and `found` learn of the rest."""
    folders, links = [folder], list[str]()
    while folders or links:
        parent = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(parent)
            place = (status.st_dev, status.st_ino)
            if place in searched:
                continue
            searched.add(place)
            with os.scandir(parent) as scanned:
                entries = sorted((entry for entry in scanned if entry.name[:1] != "."), key=lambda entry: entry.name)
        except OSError as error:
            found.problems.append(f"{parent}: the folder cannot be searched ({reason(error)})")
            continue
        below: list[str] = []
        for entry in entries:
            kind = _kind(entry)
            if stat.S_ISDIR(kind):
                (links if entry.is_symlink() else below).append(entry.path)
            elif not stat.S_ISREG(kind):
                found.special += 1
            elif ending_of(entry.name) in endings:
                yield entry.path
            else:
                others[ending_of(entry.name)] += 1
        folders += reversed(below)


def _kind(entry: "os.DirEntry[str]") -> int:
    """Of file; a link that leads nowhere counts as a regular one, and whoever opens it says what is the matter."""
    try:
        if entry.is_file():  # mostly known without asking the disk
            return stat.S_IFREG
        return stat.S_IFDIR if entry.is_dir() else entry.stat().st_mode
    except OSError:
        return stat.S_IFREG


def _is_media(ending: str) -> bool:
    return ending in {*image_endings(), *AUDIO_ENDINGS, *VIDEO_ENDINGS, *OTHER_ENDINGS}


def _listed(endings: Counter[str]) -> str:
    return ", ".join(sorted(ending or "none" for ending in endings))


def passed_over_line(found: Found) -> str:
    """What of the folders was left out, in words; "" for nothing that somebody would miss."""
    parts = []
    if found.passed_over:
        count = plural(found.passed_over.total(), "file")
        parts.append(f"{count} of other kinds ({_listed(found.passed_over)})")
    if found.special:
        parts.append(plural(found.special, "pipe or device", "pipes and devices"))
    return f"left out of the folders: {', '.join(parts)}" if parts else ""
