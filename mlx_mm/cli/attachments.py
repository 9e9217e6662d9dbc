"""Images and videos that are named in a line of a chat."""

import contextlib
import os
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlx_mm.cli.files import ending_of
from mlx_mm.cli.notes import note
from mlx_mm.processing.endings import VIDEO_ENDINGS, image_endings

# A word, a quoted text, or a word with escaped spaces, as terminals write a file that is dropped on them
_WORD = re.compile(r"""(?<!\S)("[^"]*"|'[^']*'|(?:\\.|[^\s\\])+)""")
_PUNCTUATION = "?!.,:;)"


@dataclass(frozen=True)
class Attachments:
    """What goes with a question: names of files, of images also URLs."""

    images: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)

    def __add__(self, other: "Attachments") -> "Attachments":
        return Attachments(self.images + other.images, self.videos + other.videos)


def find_attachments(line: str) -> tuple[str, Attachments]:
    """A line without the files and URLs in it that are images or videos, and these."""
    found = Attachments()

    def take(match: re.Match[str]) -> str:
        word = match.group()
        name = unquote(word)
        for plain, rest in _readings(name, quoted=name != word):
            ending = ending_of(plain)
            if ending in image_endings() and is_there(plain, url=True):
                found.images.append(local_name(plain))
                return rest
            if ending in VIDEO_ENDINGS and is_there(plain, url=False):
                found.videos.append(local_name(plain))
                return rest
            if (ending in VIDEO_ENDINGS or ending in image_endings()) and "/" in plain and "://" not in plain:
                note(f"warning: there is no file {plain}; it is taken as text")
                break
        return word

    text = _WORD.sub(take, line)
    if found.images or found.videos:
        text = re.sub(r"[ \t]+(?=[?!.,:;)]|$)", "", re.sub(r"[ \t]{2,}", " ", text)).strip()
    return text, found


def is_there(name: str, *, url: bool) -> bool:
    """Whether a file of that name exists; of an http address, `url`."""
    if name.lower().startswith(("http://", "https://")):
        return url
    with contextlib.suppress(OSError, ValueError):  # a name can be too long for any file
        return Path(local_name(name)).is_file()
    return False


def local_name(name: str) -> str:
    """The path of a file: address, or of a name that begins with ~."""
    if name.lower().startswith("file://"):
        return urllib.parse.unquote(urllib.parse.urlsplit(name).path)
    return os.path.expanduser(name) if name.startswith("~") else name


def unquote(word: str) -> str:
    """Without the quotes around it."""
    return word[1:-1] if len(word) > 1 and word[0] in "\"'" and word[-1] == word[0] else word


def _readings(name: str, quoted: bool) -> Iterator[tuple[str, str]]:
    """A word as the name of a file, and what of it is not: first as it is, then without punctuation at its end."""
    plain = name if quoted else re.sub(r"\\(.)", r"\1", name)
    bare = plain.rstrip(_PUNCTUATION)
    if bare != plain and not quoted:
        if Path(plain).suffix.lower() in {*image_endings(), *VIDEO_ENDINGS}:
            yield plain, ""
        yield bare, plain[len(bare) :]
    else:
        yield plain, ""
