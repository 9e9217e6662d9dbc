"""What lies in a folder and those below: pictures, sounds and videos, with one `stat` each."""

import functools
import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mlx_mm.processing.endings import AUDIO_ENDINGS, OTHER_ENDINGS, VIDEO_ENDINGS, image_endings
from mlx_mm.search.ignoring import FILE, MOST_BYTES, Rule, left_out, read_rules
from mlx_mm.search.place import ENDING
from mlx_mm.search.records import MediaKind

# Folders that systems and programs keep for themselves
SYSTEM_FOLDERS = frozenset((b"@eaDir", b"System Volume Information", b"$RECYCLE.BIN", b"node_modules"))
LIBRARY, DERIVED = b".photoslibrary", b"resources"  # of Apple's Photos, and its own thumbnails and face crops in it
SF_DATALESS = 0x40000000  # sys/stat.h of macOS: the file is in the cloud alone, and reading it would download it
INODE_LIMIT = 1 << 63  # above it SQLite would not hold it

# What `skipped` of a report counts
CLOUD = "files that are in the cloud alone"
LINKS = "links that lead nowhere"
SPECIAL = "pipes and devices"
RAW = "raw pictures and drawings, which are not read"
RAW_BESIDE = "raw pictures beside a JPEG or HEIC of the same name"
VIDEOS = "videos (--videos takes them)"
UNREADABLE = "folders that cannot be read"
EXCLUDED = "files and folders that a pattern leaves out"


class Entry(NamedTuple):
    """A file that was found."""

    kind: MediaKind
    size: int
    mtime_ns: int
    device: int
    inode: int

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """What a move or a new name leaves as it is."""
        return self.size, self.mtime_ns, self.device, self.inode


@dataclass
class Found:
    """files: by path, relative to the root. unread: folders whose files are not known, with a slash at their end.
    skipped: what was left out, and how often."""

    files: dict[bytes, Entry] = field(default_factory=dict)
    unread: list[bytes] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def scan(root: bytes, rules: tuple[Rule, ...], *, videos: bool, seen: set[tuple[int, int]]) -> Found:
    """All that is below a folder, sorted by name; hidden files and folders are left out, and those of systems.

    seen: (device, inode) of folders that were searched already; each real folder is searched once, wherever links lead.
    """
    found = Found()
    with_links: list[tuple[bytes, tuple[Rule, ...]]] = []
    folders: list[tuple[bytes, tuple[Rule, ...]]] = [(b"", rules)]
    while folders or with_links:
        below, rules = folders.pop() if folders else with_links.pop(0)
        path = os.path.join(root, below)
        try:
            status = os.stat(path)
            place = (status.st_dev, status.st_ino)
            if place in seen:
                continue
            seen.add(place)
            with os.scandir(path) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):  # of the root, or of a folder that goes away meanwhile
            continue
        except OSError:
            found.unread.append(below)
            found.skipped[UNREADABLE] += 1
            continue
        if any(entry.name == FILE for entry in entries):
            rules = (*rules, *_read(os.path.join(path, FILE), below))
        inner = _search(entries, below, rules, videos, found)
        with_links += [(name, rules) for name, linked in inner if linked]
        folders += [(name, rules) for name, linked in reversed(inner) if not linked]
    return found


def identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """Size, time, device and inode as the store keeps them."""
    inode = status.st_ino - 2 * INODE_LIMIT if status.st_ino >= INODE_LIMIT else status.st_ino
    return status.st_size, status.st_mtime_ns, status.st_dev, inode


def is_dataless(status: os.stat_result) -> bool:
    """Whether reading a file would download it."""
    return bool(getattr(status, "st_flags", 0) & SF_DATALESS)


def ending_of(name: bytes) -> bytes:
    """In lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


@functools.cache
def kinds_by_ending() -> Mapping[bytes, MediaKind]:
    """What a file is by the ending of its name."""
    named: dict[MediaKind, frozenset[str]] = {
        "video": frozenset(VIDEO_ENDINGS),
        "audio": frozenset(AUDIO_ENDINGS),
        "image": image_endings(),
    }
    return {os.fsencode(ending): kind for kind, endings in named.items() for ending in endings}


_OTHERS = frozenset(map(os.fsencode, OTHER_ENDINGS))
_DEVELOPED = (b".jpg", b".jpeg", b".heic", b".heif")


def _search(
    entries: "list[os.DirEntry[bytes]]", below: bytes, rules: tuple[Rule, ...], videos: bool, found: Found
) -> list[tuple[bytes, bool]]:
    """The files of one folder go to `found`; its folders, each with whether it is a link."""
    inner = []
    kinds = kinds_by_ending()
    developed = {os.path.splitext(entry.name)[0] for entry in entries if ending_of(entry.name) in _DEVELOPED}
    for entry in entries:
        name = entry.name
        if name.startswith(b".") or name in SYSTEM_FOLDERS:
            continue
        path = below + name
        ending = ending_of(name)
        try:
            if entry.is_dir():
                if not _is_derived(name, below, ending):
                    if rules and left_out(path, True, rules):
                        found.skipped[EXCLUDED] += 1
                    else:
                        inner.append((path + b"/", entry.is_symlink()))
                continue
            kind = kinds.get(ending)
            if kind is None:
                if ending in _OTHERS:
                    found.skipped[RAW_BESIDE if os.path.splitext(name)[0] in developed else RAW] += 1
                continue
            status = entry.stat()
        except OSError:
            found.skipped[LINKS] += 1
            continue
        if not stat.S_ISREG(status.st_mode):
            found.skipped[SPECIAL] += 1
        elif rules and left_out(path, False, rules):
            found.skipped[EXCLUDED] += 1
        elif kind == "video" and not videos:
            found.skipped[VIDEOS] += 1
        elif is_dataless(status):
            found.skipped[CLOUD] += 1
            found.unread.append(path)
        else:
            found.files[path] = Entry(kind, *identity(status))
    return inner


def _is_derived(name: bytes, below: bytes, ending: bytes) -> bool:
    """Whether a folder holds what a program has made of other files: an index, or Apple's Photos."""
    return ending == os.fsencode(ENDING) or (name == DERIVED and below.rstrip(b"/").endswith(LIBRARY))


def _read(path: bytes, below: bytes) -> tuple[Rule, ...]:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return read_rules(file.read(MOST_BYTES), below)
    except OSError:  # then nothing is left out, which is seen in the index
        return ()
