"""What an index takes and gives: filters, hits, groups of duplicates, reports."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

MediaKind: TypeAlias = Literal["image", "audio", "video"]
SortBy: TypeAlias = Literal["score", "date", "name"]
DuplicateKind: TypeAlias = Literal["identical", "same", "similar"]


@dataclass(frozen=True)
class Where:
    """Which files a search considers; what is None does not matter.

    since, until: dates in ISO 8601 or parts of them ("2023", "2023-07", "2023-07-14", with a time after "T"), both
    inclusive, of when a picture was taken by its camera's clock, or else of the file. near: (degrees north, degrees
    east, metres). camera, name: parts of what the file says, in any case. kind: "image", "audio" or "video". folder:
    files below it. tag: a label that `Index.tag` has given.
    """

    since: str | None = None
    until: str | None = None
    near: tuple[float, float, float] | None = None
    camera: str | None = None
    kind: MediaKind | None = None
    folder: str | Path | None = None
    tag: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Hit:
    """A picture, a sound or a video that was found.

    path: of one file that has this content, one that passes the filters; copies: the other ones. score: the cosine of
    the part that fits best, of several wanted parts of a query the mean by their weights; None where nothing but
    filters was asked, or only a name fits. z: how many standard deviations all parts of the query together lie above
    the mean of the whole index. strong: whether it is held to fit, see docs/index.md. start, stop: seconds of the part
    that fits best, in sounds and videos. taken_at: by the camera's clock, ISO 8601, or else when the file was changed.
    content: the digest of the file's bytes.
    """

    path: str
    score: float | None
    z: float | None
    strong: bool
    kind: MediaKind
    content: str
    copies: tuple[str, ...] = ()
    start: float | None = None
    stop: float | None = None
    taken_at: str | None = None
    width: int | None = None
    height: int | None = None
    tags: tuple[str, ...] = ()


class Hits(list[Hit]):
    """What a search found, best first, and how much there is beside it.

    strong: how many contents are held to fit, also those that `top` cuts off. weaker: how many others passed the
    filters.
    """

    def __init__(self, hits: Iterable[Hit] = (), *, strong: int = 0, weaker: int = 0):
        super().__init__(hits)
        self.strong = strong
        self.weaker = weaker


@dataclass(frozen=True)
class Copy:
    """One file of a group of duplicates."""

    path: str
    content: str
    size: int
    width: int | None
    height: int | None


@dataclass(frozen=True)
class Group:
    """Files that are duplicates of each other, best first: `keeper` is the suggested one. score: the least cosine
    between two of them."""

    kind: DuplicateKind
    files: tuple[Copy, ...]
    score: float

    @property
    def keeper(self) -> Copy:
        """The file that is suggested to be kept."""
        return self.files[0]


@dataclass
class RefreshReport:
    """What a refresh found and did.

    files: that are in the index and there. failed: path -> why it cannot be read. encoded: contents that the model
    ran for. skipped: kind of thing that was left out -> how many. left_alone: folders that are not there, or lost most
    of their files, and of which nothing was changed.
    """

    files: int = 0
    new: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    missing: int = 0
    encoded: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    left_alone: list[str] = field(default_factory=list)


@dataclass
class MergeReport:
    """What a merge found and did.

    files: that are new in the index, or newer than what it had. contents, vectors: new ones. known: contents that it
    had. absent: shards that none of the parts is, where the parts are shards.
    """

    parts: int = 0
    files: int = 0
    contents: int = 0
    vectors: int = 0
    known: int = 0
    absent: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class CheckReport:
    """What is the matter with an index. problems: that were found, one line each. repaired: what was made right. left:
    problems that are still there."""

    problems: tuple[str, ...]
    repaired: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    left: tuple[str, ...] = ()
