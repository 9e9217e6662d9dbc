"""The models of a server: what each can do, from its config alone; weights are read on first use and given back."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlx_mm.backend.ranks import Group
from mlx_mm.checkpoint.card import read_licence
from mlx_mm.errors import InputError
from mlx_mm.load import OpenCheckpoint, open_checkpoint
from mlx_mm.models.contracts import Kind, Modality, Model, Processor
from mlx_mm.search.fingerprint import fingerprint
from mlx_mm.server.tickets import UnknownModel


@dataclass(frozen=True)
class Served:
    """What a model is. dimensions: of its vectors, None where it gives none or where that is known once it is loaded;
    context_length: of a prompt and its answer together, None of an encoder. fingerprint: as an index has it, None of a
    generator and before the first use. created: when its files were made, in seconds since 1970."""

    name: str
    kind: Kind
    modalities: tuple[Modality, ...]
    dimensions: int | None
    context_length: int | None
    licence: str | None
    fingerprint: str | None
    loaded: bool
    created: int


@dataclass
class Loaded:
    """A model with its weights, and its processor."""

    model: Model
    processor: Processor


class Slot:
    """A checkpoint, and its weights while somebody uses them or has just done so. Any thread may use it.

    users: requests that are not complete.
    """

    def __init__(self, source: str | Path) -> None:
        self.checkpoint: OpenCheckpoint = open_checkpoint(source)
        self.name = Path(str(source)).name if Path(str(source)).is_dir() else str(source)
        self.users = 0
        self.dimensions: int | None = None
        self._fingerprint: str | None = None
        self._loaded: Loaded | None = None
        self._stays = False
        self._lock = threading.Lock()
        self._last_use = time.monotonic()

    def load(self, group: Group | None = None) -> Loaded:
        """The model and its processor, read now where they are not there. Raises what `mlx_mm.load` does.

        group: of ranks that each read a part of it, at the same time, and therefore once.
        """
        with self._lock:
            if self._loaded is None:
                self._stays = group is not None
                model, processor = self.checkpoint.load(group=group)
                if model.kind == "encoder" and set(model.modalities) & {"image", "audio"}:
                    self._fingerprint = fingerprint(self.checkpoint, processor=processor).digest
                self._loaded = Loaded(model, processor)
            return self._loaded

    @property
    def loaded(self) -> Loaded | None:
        """What is in memory."""
        return self._loaded

    def enter(self) -> None:
        """A request more."""
        self.users += 1

    def leave(self) -> None:
        """A request less."""
        self.users -= 1
        self._last_use = time.monotonic()

    def idle_seconds(self) -> float:
        """Since the last request ended; 0 while there is one, or nothing to give back."""
        return 0.0 if self.users or self._loaded is None or self._stays else time.monotonic() - self._last_use

    def unload(self) -> None:
        """Hold the weights no more; the next request reads them again."""
        with self._lock:
            self._loaded = None

    def about(self) -> Served:
        """What it is now."""
        checkpoint = self.checkpoint
        return Served(
            name=self.name,
            kind=checkpoint.kind,
            modalities=checkpoint.modalities,
            dimensions=self.dimensions,
            context_length=self._context_length,
            licence=self._licence,
            fingerprint=self._fingerprint,
            loaded=self._loaded is not None,
            created=int((checkpoint.folder / "config.json").stat().st_mtime),
        )

    @cached_property
    def _context_length(self) -> int | None:
        if self.checkpoint.kind != "generator":
            return None
        processor = self.checkpoint.processor()
        return processor.defaults.context_length if processor.kind == "chat" else None

    @cached_property
    def _licence(self) -> str | None:
        return read_licence(self.checkpoint.folder)


class Models:
    """Those that are served, by name."""

    def __init__(self, sources: Sequence[str | Path]) -> None:
        slots = [Slot(source) for source in sources]
        self._slots = {slot.name: slot for slot in slots}
        if len(self._slots) < len(slots):
            names = sorted(slot.name for slot in slots)
            raise InputError(
                f"Two models are called the same ({', '.join(names)}); expected names that differ. Rename a folder."
            )

    def __getitem__(self, name: str) -> Slot:
        """UnknownModel for a name that is none of them."""
        if name not in self._slots:
            raise UnknownModel(
                f"There is no model {name!r}; expected one of {', '.join(self._slots) or 'none, as none is served'}. "
                "Start the server with --model for another."
            )
        return self._slots[name]

    def slots(self) -> list[Slot]:
        """All, in the order they were named."""
        return list(self._slots.values())
