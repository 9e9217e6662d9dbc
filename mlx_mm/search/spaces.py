"""The vector spaces of an index: each belongs to one model with one setting of it."""

import json
from dataclasses import dataclass

from mlx_mm.errors import StoreError
from mlx_mm.load import load
from mlx_mm.models.contracts import Model, Processor
from mlx_mm.search.records import MediaKind
from mlx_mm.search.store import Store

DEFAULT_MODEL = "emoji-siglip2"


@dataclass(frozen=True)
class Space:
    """A row of `spaces` with its model. kinds: what files it holds vectors of. about: the settings of its processor
    that are not the checkpoint's, such as max_num_patches, and those with which queries are made."""

    id: int
    name: str
    dim: int
    kinds: tuple[MediaKind, ...]
    about: dict[str, object]
    model: Model
    processor: Processor


class Spaces:
    """Opens the models of an index when they are needed, each once, and holds them against what the index has."""

    def __init__(self, store: Store, model: str | None = None):
        self.store = store
        self.name = model
        self._open: dict[int, Space] = {}

    def all(self) -> list[Space]:
        """Those that the named model, or else the index itself, has."""
        with self.store.reading() as rows:
            found = rows.execute("SELECT id, model, dim, kinds, about FROM spaces").fetchall()
        for number, name, dim, kinds, about in found:
            if number not in self._open:
                self._open[number] = Space(number, name, dim, tuple(json.loads(kinds)), json.loads(about), *load(name))
        return list(self._open.values())

    def of(self, kind: MediaKind) -> Space:
        """That of a kind of file; StoreError where there is none."""
        for space in self.all():
            if kind in space.kinds:
                return space
        raise StoreError(f"{self.store.path} has no vectors of kind {kind}; expected some. Refresh it with such files.")
