"""The vector spaces of an index: each belongs to one model with one setting of it."""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from mlx_mm.checkpoint.bundled import EACH, PICTURES, SOUNDS, Bundled
from mlx_mm.embed import encode_audio, encode_image, encode_text
from mlx_mm.errors import MlxMmError, OtherModelError, StoreError
from mlx_mm.load import OpenCheckpoint, open_checkpoint
from mlx_mm.models.contracts import Modality, Model, Processor
from mlx_mm.processing.audio import AudioSource
from mlx_mm.processing.image import ImageSource
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.canary import HEARD, canary, check_canary
from mlx_mm.search.fingerprint import Fingerprint, fingerprint, in_words
from mlx_mm.search.records import MediaKind
from mlx_mm.search.store import Store

LEAVING = "leaving"  # key in the table `meta`
# What makes vectors where no model is named
DEFAULTS: dict[MediaKind, Bundled] = {"image": PICTURES, "video": PICTURES, "audio": SOUNDS}
TIMED = 4  # pictures or sounds by which the time of making all vectors anew is estimated


class SpaceRow(NamedTuple):
    """What `spaces` holds of a model, but for its id: kinds and about as JSON, canary the float32 of all of them."""

    fingerprint: str
    model: str
    revision: str | None
    dim: int
    kinds: str
    about: str
    canary: bytes

    def canaries(self) -> dict[Modality, Vectors]:
        """By what they are."""
        vectors = np.frombuffer(self.canary, "<f4").reshape(-1, self.dim).astype(np.float32)
        return dict(zip(json.loads(self.about)["canaries"], vectors, strict=True))


def described(checkpoint: OpenCheckpoint, found: Fingerprint) -> SpaceRow:
    """The row of a new space."""
    loaded = checkpoint.load(lazy=True)
    patches = cast("int | None", found.about["max_num_patches"])
    about = found.about | {"canaries": [what for what in HEARD if what in checkpoint.modalities]}
    vectors = np.stack([canary(*loaded, what, patches) for what in cast("list[Modality]", about["canaries"])])
    revision = checkpoint.folder.name if checkpoint.folder.parent.name == "snapshots" else None  # of the hub's cache
    plain = vectors.astype("<f4").tobytes()
    kinds = json.dumps(found.kinds)
    return SpaceRow(found.digest, checkpoint.name, revision, vectors.shape[1], kinds, json.dumps(about), plain)


def add_space(rows: sqlite3.Connection, row: SpaceRow) -> int:
    """Write one; its id."""
    number: int = rows.execute(
        f"INSERT INTO spaces({', '.join(SpaceRow._fields)}) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id", row
    ).fetchone()[0]
    return number


def space_rows(rows: sqlite3.Connection) -> dict[int, SpaceRow]:
    """All of an index, by their ids."""
    found = rows.execute(f"SELECT id, {', '.join(SpaceRow._fields)} FROM spaces ORDER BY id").fetchall()
    return {number: SpaceRow(*row) for number, *row in found}


@dataclass
class Space:
    """A row of `spaces`, and its model once it is needed.

    kinds: what files it holds vectors of. leaving: another model takes its place, and until that has vectors of all, it
    is searched, too. about: see `Fingerprint`. canaries: by what they are. `opened` may be called from any thread;
    weights that a modality does not need are not read.
    """

    id: int
    name: str
    revision: str | None
    dim: int
    kinds: tuple[MediaKind, ...]
    about: dict[str, object]
    digest: str
    canaries: dict[Modality, Vectors]
    store_name: str
    leaving: bool = False
    _loaded: tuple[Model, Processor] | None = None
    _proven: set[Modality] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def of(cls, row: SpaceRow, number: int, store_name: str) -> "Space":
        """Of a row with its id, in an index of that name."""
        kinds, about = tuple(json.loads(row.kinds)), json.loads(row.about)
        return cls(
            *(number, row.model, row.revision, row.dim, kinds, about, row.fingerprint, row.canaries(), store_name)
        )

    @property
    def patches(self) -> int | None:
        """The budget of patches that was asked for."""
        return cast("int | None", self.about.get("max_num_patches"))

    @property
    def model(self) -> Model:
        """As `opened` gives it, not yet held against a canary."""
        return self.opened()[0]

    @property
    def processor(self) -> Processor:
        """See `model`."""
        return self.opened()[1]

    def opened(self, *modalities: Modality) -> tuple[Model, Processor]:
        """The model and its processor, held against the canaries of these modalities.

        Raises OtherModelError where another model has its name now, DamagedError where it gives other vectors.
        """
        with self._lock:
            if self._loaded is None:
                checkpoint = open_checkpoint(self.name, revision=self.revision)
                loaded = checkpoint.load(lazy=True)  # which reads no weights yet
                found = fingerprint(checkpoint, self.patches, self.about, loaded[1])
                if found.digest != self.digest:
                    raise _other(self.store_name, [self], in_words(self.name, found.about), None)
                self._loaded = loaded
            for modality in modalities:
                if modality not in self._proven and modality in self.canaries:
                    now = canary(*self._loaded, modality, self.patches)
                    check_canary(self.name, modality, self.canaries[modality], now)
                    self._proven.add(modality)
            return self._loaded

    def is_usable(self) -> bool:
        """Whether its model is there, and still the same."""
        with contextlib.suppress(MlxMmError):
            return bool(self.opened())
        return False

    def vectors_of_text(self, texts: Sequence[str], *, task: str | None = None) -> Vectors:
        """(N, dim) of length 1."""
        return encode_text(*self.opened("text"), list(texts), task=task)

    def vectors_of_audio(self, sounds: Sequence[AudioSource]) -> Vectors:
        """(N, dim) of length 1, of each sound the mean of its windows."""
        return encode_audio(*self.opened("audio"), list(sounds))

    def vectors_of_images(self, images: Sequence[ImageSource]) -> Vectors:
        """(N, dim) of length 1, as a refresh makes them."""
        return encode_image(*self.opened("image"), list(images), max_num_patches=self.patches, fast_decode=True)


class Spaces:
    """Opens the models of an index when they are needed, each once, and holds them against what the index has."""

    def __init__(self, store: Store, model: str | None = None):
        self.store = store
        self.name = None if model is None else _as_given(model)
        self._known: dict[int, Space] = {}
        self._lock = threading.RLock()

    def all(self) -> list[Space]:
        """Those that the named model has, or else the index itself; their models are not opened.

        Raises OtherModelError where the index has none of the named model.
        """
        spaces = self._rows()
        if self.name is None or not spaces:
            return spaces
        checkpoint, found = self._candidate(spaces, None)
        if fitting := [space for space in spaces if space.digest == found.digest]:
            return fitting
        raise _other(self.store.path.name, spaces, in_words(checkpoint.name, found.about), None)

    def of(self, kind: MediaKind) -> Space:
        """That of a kind of file; StoreError where there is none."""
        for space in self.all():
            if kind in space.kinds:
                return space
        raise StoreError(f"{self.store.path} has no vectors of kind {kind}; expected some. Refresh it with such files.")

    def prepared(
        self,
        patches: int | None,
        *,
        add: bool,
        anew: bool,
        kinds: Collection[MediaKind] = (),
        on_bundled: Callable[[str], None] = lambda name: None,
    ) -> list[Space]:
        """All of the index, with that of the named model, which is made where it may be; the caller is the writer.

        patches: see `fingerprint`. add, anew: a model of a kind that the index has already becomes another space, or
        takes the place of those. Raises OtherModelError without them. kinds: of files that are to be read; each
        gets its bundled model, whose name on_bundled is called with, in an index that has no others.
        """
        if self.name is None:
            staying = self._staying()
            if all(space.name in EACH for space in staying):
                staying = self._with_bundled(staying, kinds, patches, on_bundled)
            if patches is None:
                return staying
        spaces = sorted(self._rows(), key=lambda space: space.leaving)
        staying = [space for space in spaces if not space.leaving]
        checkpoint, found = self._candidate(spaces, patches)
        same = next((space for space in spaces if space.digest == found.digest), None)
        rivals = [space for space in staying if space is not same and set(space.kinds) & set(found.kinds)]
        if same is not None and not same.leaving and not (anew and rivals):
            return staying
        if rivals and not (add or anew):
            raise _other(
                self.store.path.name,
                rivals,
                in_words(checkpoint.name, found.about),
                self._minutes(checkpoint, cast("int | None", found.about["max_num_patches"]), rivals),
            )
        self._write(checkpoint, found, same, rivals if anew else [])
        return self._staying()

    @property
    def replaced(self) -> bool:
        """Whether another model takes the place of a space."""
        return any(space.leaving for space in self._rows())

    def drop_replaced(self) -> None:
        """Take away those spaces; the caller is the writer."""
        with self.store.writing() as rows:
            rows.executemany("DELETE FROM spaces WHERE id = ?", [(number,) for number in leaving_of(rows)])
            rows.execute("DELETE FROM meta WHERE key = ?", (LEAVING,))

    def _with_bundled(
        self,
        spaces: list[Space],
        kinds: Collection[MediaKind],
        patches: int | None,
        on_bundled: Callable[[str], None],
    ) -> list[Space]:
        """These, and the bundled models of kinds that none of them takes; pictures' for an index without any files."""
        held = {kind for space in spaces for kind in space.kinds}
        lacking = [DEFAULTS[kind] for kind in sorted(kinds, reverse=True) if kind not in held]
        new = dict.fromkeys(lacking if spaces or lacking else [PICTURES])
        for one in new:
            on_bundled(one.name)
            checkpoint = open_checkpoint(one.name)
            self._write(checkpoint, fingerprint(checkpoint, patches if one is PICTURES else None), None, [])
        return self._staying()

    def _candidate(self, spaces: Sequence[Space], patches: int | None) -> tuple[OpenCheckpoint, Fingerprint]:
        """The named model, or else that of the first space of pictures; with the settings that the index has of it."""
        pictures = [space for space in spaces if "image" in space.kinds]
        name = self.name or (pictures[0].name if pictures else PICTURES.name)
        same = next((space for space in spaces if space.name == name), None)
        checkpoint = open_checkpoint(name, revision=same.revision if same else None)
        patches = same.patches if same is not None and patches is None else patches
        return checkpoint, fingerprint(checkpoint, patches, same.about if same else None)

    def _write(
        self, checkpoint: OpenCheckpoint, found: Fingerprint, same: Space | None, replaced: Sequence[Space]
    ) -> None:
        """Make a space of it, unless there is the same one. Those that it takes the place of stay until it has vectors
        of all, but where their own model cannot be opened any more, so that nobody could search them."""
        new = described(checkpoint, found) if same is None else None
        usable = [space.id for space in replaced if space.is_usable()]
        with self.store.writing() as rows:
            leaving = {*leaving_of(rows), *usable} - {None if same is None else same.id}
            rows.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (LEAVING, json.dumps(sorted(leaving))))
            rows.executemany(
                "DELETE FROM spaces WHERE id = ?", [(space.id,) for space in replaced if space.id not in usable]
            )
            if new is not None:
                add_space(rows, new)

    def _minutes(self, checkpoint: OpenCheckpoint, patches: int | None, rivals: Sequence[Space]) -> float:
        """How long it would take to make the vectors of these spaces anew, by the time that canaries take."""
        with self.store.reading() as rows:
            counts = [rows.execute("SELECT count(*) FROM vectors WHERE space = ?", (space.id,)) for space in rivals]
            count = sum(found.fetchone()[0] for found in counts)
        loaded = checkpoint.load(lazy=True)
        modality: Modality = "audio" if "audio" in checkpoint.modalities else "image"
        canary(*loaded, modality, patches)  # which reads the weights
        start = time.monotonic()
        for _ in range(TIMED):
            canary(*loaded, modality, patches)
        return float((time.monotonic() - start) / TIMED * count / 60)

    def _staying(self) -> list[Space]:
        """Those whose place no other model takes."""
        return [space for space in self._rows() if not space.leaving]

    def _rows(self) -> list[Space]:
        with self.store.reading() as rows:
            found = space_rows(rows)
            leaving = leaving_of(rows)
        with self._lock:
            for number, row in found.items():
                if number not in self._known or self._known[number].digest != row.fingerprint:
                    self._known[number] = Space.of(row, number, self.store.path.name)
                self._known[number].leaving = number in leaving
            return [self._known[number] for number in found]


def leaving_of(rows: sqlite3.Connection) -> list[int]:
    """Ids of spaces that another model takes the place of."""
    found = rows.execute("SELECT value FROM meta WHERE key = ?", (LEAVING,)).fetchone()
    return [] if found is None else [int(number) for number in json.loads(found[0])]


def _other(index: str, rivals: Sequence[Space], found: str, minutes: float | None) -> OtherModelError:
    held = " and ".join(in_words(space.name, space.about) for space in rivals)
    about = "" if minutes is None else f", about {_duration(minutes)}"
    return OtherModelError(
        f"{index} holds vectors of {held}; this is {found}. Search with that model (leave --model out), add a second "
        f"space (--add-space), or make all vectors anew (--reembed{about})."
    )


def _duration(minutes: float) -> str:
    return f"{max(1, round(minutes * 60))} s" if minutes < 1 else f"{round(minutes)} min"


def _as_given(name: str) -> str:
    """A folder by its whole path, since others may refresh from elsewhere."""
    path = Path(name).expanduser()
    return os.path.abspath(path) if path.is_dir() else str(name)
