"""Folders with small pictures and sounds, an index of them, and a count of what its model runs for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from mlx_mm import RefreshReport
from mlx_mm.search.refresh import Options, refresh
from mlx_mm.search.spaces import Spaces
from mlx_mm.search.store import Store

LONG_AGO = 1_600_000_000  # seconds since 1970: of files that nobody is writing


def age(path: Path, seconds: float = LONG_AGO) -> Path:
    """Has a file changed at that time."""
    os.utime(path, (seconds, seconds))
    return path


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 16), **options: Any) -> Path:
    """A picture that no other seed has, nor its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(path, **options)
    return age(path, LONG_AGO + 10 * seed)


def pictures(folder: Path, count: int, first: int = 0) -> Path:
    """So many of them: 0.png, 1.png, …"""
    for number in range(first, first + count):
        picture(folder / f"{number}.png", number)
    return folder


def sound(path: Path, seconds: float, rate: int = 8_000, seed: int = 0) -> Path:
    """Noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate)).astype(np.float32)
    soundfile.write(path, samples, rate)
    return age(path)


class Spy:
    """rows: what the model of a refresh was given, in all."""

    def __init__(self, run: Callable[..., Any]):
        self.rows = 0
        self.run = run

    def __call__(self, function: Any, batch: Any, weights: Any) -> Any:
        self.rows += len(next(iter(batch.values())))
        return self.run(function, batch, weights)

    def taken(self) -> int:
        """How many since it was asked last."""
        rows, self.rows = self.rows, 0
        return rows


class Library:
    """An index in a folder with what it is an index of. model: by default a tiny one."""

    def __init__(self, place: Path, model: Path | str | None):
        self.place = place
        self.photos = place / "photos"
        self.photos.mkdir(exist_ok=True)
        self.store = Store(place / "x.mmindex")
        self.model = model
        self.report = RefreshReport()

    def refresh(self, *folders: Path, on_event: Any = None, model: Path | str | None = None, **options: Any) -> Any:
        """What changed, without zeros; all of it is in `report`."""
        spaces = Spaces(self.store, None if (model or self.model) is None else str(model or self.model))
        self.report = refresh(self.store, spaces, list(folders), Options(**options), on_event)
        names = ("new", "changed", "moved", "copied", "missing", "encoded")
        found = {name: getattr(self.report, name) for name in names} | {"failed": len(self.report.failed)}
        return {name: value for name, value in found.items() if value}

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the store."""
        with self.store.reading() as rows:
            return rows.execute(sql, values).fetchall()

    def files(self, state: str = "here") -> set[str]:
        """Paths below `place` of the files in that state."""
        found = self.query(
            "SELECT roots.path, files.path FROM files JOIN roots ON roots.id = files.root WHERE state = ?", state
        )
        return {os.path.relpath(os.fsdecode(os.path.join(*row)), self.place) for row in found}

    def vectors(self) -> dict[bytes, list[bytes]]:
        """Of each content by its digest, with the parts in order."""
        found: dict[bytes, list[bytes]] = {}
        for digest, vector in self.query(
            "SELECT digest, vector FROM vectors JOIN contents ON contents.id = content ORDER BY space, part"
        ):
            found.setdefault(digest, []).append(vector)
        return found
