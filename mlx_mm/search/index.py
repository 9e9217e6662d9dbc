"""`Index`: photos and sounds in folders, found again by words, by example, by date and place."""

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType

from mlx_mm.errors import MlxMmError
from mlx_mm.processing.vectors import Vectors
from mlx_mm.progress import Progress
from mlx_mm.search import duplicates, exporting, inspection, items, listing, merging, refresh, tags, tending, watching
from mlx_mm.search.asking import Example, Query
from mlx_mm.search.items import Item
from mlx_mm.search.listing import Facets, Outline
from mlx_mm.search.place import default_index
from mlx_mm.search.query import Limits, Searcher
from mlx_mm.search.records import (
    CheckReport,
    DuplicateKind,
    Group,
    Hits,
    MediaKind,
    MergeReport,
    RefreshReport,
    SortBy,
    Where,
)
from mlx_mm.search.roots import known_roots
from mlx_mm.search.sharding import Shard
from mlx_mm.search.spaces import Spaces
from mlx_mm.search.store import Store


class Index:
    """Files in folders with the vectors of a model, in one folder NAME.mmindex.

    path: of that folder; the default is one for each user. model: the checkpoint that makes vectors, where the index
    is new, by default the bundled ones of pictures and of sounds, as far as there are some; an existing one knows its
    own, and refuses another with OtherModelError. Any number of processes and threads may search, one at a time
    refreshes. `refresh` makes it where there is none; anything else raises StoreError then.
    """

    def __init__(self, path: str | Path | None = None, model: str | None = None):
        self._store = Store(path if path is not None else default_index())
        self._spaces = Spaces(self._store, model)
        self._searcher = Searcher(self._store, self._spaces)

    def refresh(
        self,
        folders: str | Path | Sequence[str | Path] = (),
        *,
        exclude: Sequence[str] = (),
        videos: bool = False,
        max_num_patches: int | None = None,
        retry: bool = False,
        accept_missing: bool = False,
        add_space: bool = False,
        reembed: bool = False,
        shard: str | None = None,
        servers: Sequence[str] = (),
        wait: float = 0.0,
        on_event: Callable[[str, str], None] | None = None,
        progress: Progress = False,
    ) -> RefreshReport:
        """Bring the index up to date with its folders, and these new ones; an interruption keeps what was committed.

        exclude: patterns as in .gitignore of what is left out; videos: take key frames of videos; both are remembered
        for the folders. max_num_patches: the budget of a NaFlex model, which the index keeps. retry: read files again
        that could not be read. accept_missing: go on where a folder lost more than half of its files. add_space,
        reembed: a model that is not the index's makes a second space, or all vectors anew, until when the old ones are
        searched, too. shard: "1/3" takes the first of three shares of the files, by their names, which the index
        remembers; `merge` makes one index of all. servers: addresses of `mlx_mm serve`, such as
        "http://10.0.0.2:8000", that have the index's model and make vectors of pictures in place of this machine; they
        decode large JPEGs wholly, so these vectors are not ours to the last bit. wait: seconds for another refresh to
        end. on_event: called with what
        became of a file ("new", "changed", "moved", "copied", "missing", "failed") and its path, or with "model" and
        the name of a bundled one that is used since none was named. progress: as of `encode_image`.
        Raises StoreError where a folder that was named, or each one, lost too much and nothing was changed,
        OtherModelError, BusyError, InputError.
        """
        options = refresh.Options(
            exclude=tuple(exclude),
            videos=videos,
            max_num_patches=max_num_patches,
            retry=retry,
            accept_missing=accept_missing,
            add_space=add_space,
            reembed=reembed,
            shard=None if shard is None else Shard.parse(shard),
            servers=(servers,) if isinstance(servers, str) else tuple(servers),
            wait=wait,
        )
        named = [folders] if isinstance(folders, str | Path) else list(folders)
        return refresh.refresh(self._store, self._spaces, [Path(name) for name in named], options, on_event, progress)

    def watch(
        self,
        folders: str | Path | Sequence[str | Path] = (),
        *,
        exclude: Sequence[str] = (),
        videos: bool = False,
        stop: threading.Event | None = None,
        poll: float | None = None,
        every: float = watching.EVERY_SECONDS,
        on_event: Callable[[str, str], None] | None = None,
        on_report: Callable[[RefreshReport], None] | None = None,
        on_error: Callable[[MlxMmError], None] | None = None,
    ) -> None:
        """Refresh, and again whenever something changes in the folders of the index, until `stop` is set.

        poll: look every so many seconds instead of being told by the system (which needs the extra `watch`). Folders on
        network volumes are looked at each minute without it. every: seconds after which they are looked at in any case.
        Other arguments as of `refresh` and `watching.watch`.
        """
        given = [folders] if isinstance(folders, str | Path) else list(folders)
        end = stop or threading.Event()

        def once() -> RefreshReport:
            named, given[:] = list(given), []  # they are folders of the index from then on
            return self.refresh(named, exclude=exclude, videos=videos, on_event=on_event)

        def roots() -> list[bytes]:
            return [root.path for root in known_roots(self._store)]

        hints = watching.changes(roots, self._store.path, end) if poll is None else watching.polled(poll, end)
        watching.watch(once, hints, every=every, on_report=on_report, on_error=on_error)

    def search(
        self,
        words: str | Sequence[str] = (),
        *,
        like: Example | Sequence[Example] = (),
        unlike: Example | Sequence[Example] = (),
        without: str | Sequence[str] = (),
        weights: Sequence[float] | None = None,
        where: Where | None = None,
        top: int = 20,
        min_score: float | None = None,
        strong_only: bool = True,
        sort: SortBy = "score",
    ) -> Hits:
        """The files that fit, best first; of several with the same content one, with its copies.

        words: what is to be seen or heard, also several texts; they are also looked up in names and tags. like:
        examples, as in `encode_image` and `encode_audio`; a path in the index takes no model. unlike, without: what is
        not wanted. weights: of `words` and then of `like`, 1 each. Parts are summed as standard scores over the whole
        index. where: which files count; without words and examples, all that pass, the newest first. top: how many.
        min_score: the least cosine, in addition to the rest. strong_only: leave out what is not held to fit: of words,
        what lies less than 3.4 standard deviations above neutral texts, see docs/index.md. sort: "date" and "name"
        order what fits; without strong_only, the `top` best of it.
        Raises InputError, MediaError and ModalityError for what cannot be asked.
        """
        asked = Query.of(words, like, unlike, without, weights)
        return self._searcher.search(asked, where or Where(), Limits(top, min_score, strong_only, sort))

    def duplicates(self, kind: DuplicateKind = "same", *, threshold: float | None = None) -> list[Group]:
        """Groups of files, the largest first, in each the one that is suggested to be kept first.

        kind: "identical" files have the same bytes; the "same" picture has another size, format or compression;
        "similar" ones have a cosine of `threshold` (0.9) or more. No kind has what another has. Nothing is deleted.
        Raises InputError for another kind, and a threshold that is no cosine.
        """
        return duplicates.duplicates(self._store, kind, threshold)

    def keep_apart(self, first: str, second: str) -> None:
        """Remember that two files are no duplicates; both by their `content`. Raises InputError for unknown ones."""
        duplicates.keep_apart(self._store, first, second)

    def item(self, number: int) -> Item:
        """What is known of a content, by its number in this index. Raises NoItemError for one that is not there."""
        return items.item(self._store, number)

    def ids(self, contents: Collection[str]) -> dict[str, int]:
        """The numbers of contents that are there, by their digests, as `Hit` and `Copy` have them."""
        return items.ids(self._store, contents)

    def original(self, number: int) -> Path:
        """A file of an item that has not changed since it was read. Raises NoItemError where there is none."""
        return items.original(self._store, number)

    def thumbnail(self, content: str) -> bytes:
        """A small JPEG of a content, by its digest. Raises NoItemError where there is none."""
        return items.thumbnail(self._store, content)

    def outline(self, where: Where | None = None, *, top: int | None = None) -> Outline:
        """All contents that pass, or the first so many, the newest first, in columns: what a page needs to lay them
        out. Raises InputError for filters that nothing can pass."""
        return listing.outline(self._store, where or Where(), top)

    def facets(self) -> Facets:
        """What filters can name, and how many contents each has."""
        return listing.facets(self._store)

    def unreadable(self, most: int = 1000) -> list[tuple[str, str]]:
        """Files that could not be read, each with the reason; `refresh(retry=True)` reads them again."""
        return listing.unreadable(self._store, most)

    def tags(self) -> dict[str, int]:
        """The labels that `tag` has given, and how many contents have each, the most frequent first."""
        return items.labels(self._store)

    def tag(
        self,
        labels: Iterable[str],
        *,
        least: float | None = None,
        kind: MediaKind = "image",
        progress: Progress = False,
    ) -> dict[str, int]:
        """Give each file the labels that fit it, in place of where these labels were before; how many files each has.

        least: of the score of `classify`, 0.5 by default. kind: of files. Raises InputError for labels that are none,
        StoreError without files of that kind.
        """
        return tags.tag(self._store, self._spaces, tuple(labels), least, kind, progress)

    def set_tags(self, number: int, labels: Sequence[str]) -> None:
        """Give one item these labels, in place of all that it has; by its number. Raises InputError for labels that are
        none, NoItemError for an item that is not there."""
        tags.set_tags(self._store, items.item(self._store, number).id, labels)

    def export(self, out: str | Path, *, kind: MediaKind | None = None) -> int:
        """Write all files with their vectors to .npz, .jsonl or .parquet, by the ending; how many rows.

        A row is a picture, or a part of a sound or a video, with its path, date, place, size, camera, tags and vector:
        see `exporting.export`. kind: write only these files, where others have vectors of another length.
        Raises OutputError for what cannot be written, InputError for vectors of several lengths.
        """
        return exporting.export(self._store, out, kind)

    def vectors(self, *, kind: MediaKind | None = None) -> tuple[list[str], Vectors]:
        """The rows of `export` in memory: the path of each, and its vector, float32 (N, D) of length 1."""
        return exporting.vectors(self._store, kind)

    def merge(
        self, parts: str | Path | Sequence[str | Path], *, wait: float = 0.0, progress: Progress = False
    ) -> MergeReport:
        """Take in what other indexes hold, such as those of shards, and Parquet files of `search.embedder`, or folders
        of them; no model runs, and what is known stays as it is, so that a part may be merged again.

        All of it is taken in, or nothing. wait: seconds for who writes to a part, or to this index, to end. progress:
        as of `encode_image`.
        Raises OtherModelError for vectors of another model, StoreError and InputError for what is no part, BusyError.
        """
        named = [parts] if isinstance(parts, str | Path) else list(parts)
        return merging.merge(self._store, [Path(name) for name in named], wait, progress)

    def check(self, *, repair: bool = False) -> CheckReport:
        """Whether the store and what is derived from it are whole.

        repair: make right what can be, see `inspection.check`. Raises BusyError where that must wait.
        """
        return inspection.check(self._store, repair=repair)

    def compact(self, *, wait: float = 0.0) -> None:
        """Give the room of what was taken away back to the disk. wait: seconds for somebody else who writes to end.
        Raises BusyError, OutputError where the disk is full."""
        tending.compact(self._store, wait)

    def stats(self) -> dict[str, object]:
        """How much is in it, and how large it is."""
        return tending.stats(self._store)

    def forget(self, *, missing: bool = True, folders: Sequence[str | Path] = (), wait: float = 0.0) -> int:
        """Take away what is known of files that are gone (missing), and of all files in these folders of the index; how
        many files. The files themselves stay. wait: as of `compact`. Raises InputError for a folder of which the index
        has nothing, BusyError."""
        return tending.forget(self._store, missing=missing, folders=[Path(name) for name in folders], wait=wait)

    def moved(self, old: str | Path, new: str | Path, *, wait: float = 0.0) -> int:
        """A folder that was added has another place now, and no file is read; how many files it has.

        wait: as of `compact`. Raises StoreError where the index has no such folder, InputError where there is none at
        its new place, BusyError.
        """
        return refresh.moved(self._store, Path(old), Path(new), wait)

    def close(self) -> None:
        """Give everything back; a second time does nothing."""
        self._store.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
