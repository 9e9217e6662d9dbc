"""Whether an index is whole, how large it is, and making it smaller."""

from collections.abc import Sequence
from pathlib import Path

from mlx_mm.search.records import CheckReport
from mlx_mm.search.store import Store


def check(store: Store, *, repair: bool = False) -> CheckReport:
    """Hold the store against itself, and what is derived against the store."""
    raise NotImplementedError


def compact(store: Store) -> None:
    """Give back room."""
    raise NotImplementedError


def stats(store: Store) -> dict[str, object]:
    """Counts and sizes."""
    raise NotImplementedError


def forget(store: Store, *, missing: bool, folders: Sequence[Path]) -> int:
    """Take away files."""
    raise NotImplementedError
