"""Bringing an index up to date: what is new, changed, moved or gone in its folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_mm.progress import Progress
from mlx_mm.search.records import RefreshReport
from mlx_mm.search.spaces import Spaces
from mlx_mm.search.store import Store


@dataclass(frozen=True)
class Options:
    """How folders are read."""

    exclude: tuple[str, ...] = ()
    videos: bool = False
    max_num_patches: int | None = None
    retry: bool = False
    accept_missing: bool = False
    add_space: bool = False
    reembed: bool = False
    wait: float = 0.0


def refresh(
    store: Store,
    spaces: Spaces,
    folders: Sequence[Path],
    options: Options,
    on_event: Callable[[str, str], None] | None = None,
    progress: Progress = False,
) -> RefreshReport:
    """All folders of the index, and these new ones."""
    raise NotImplementedError


def moved(store: Store, old: Path, new: Path) -> int:
    """A root has another place now."""
    raise NotImplementedError
