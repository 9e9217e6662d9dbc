"""Files that are identical, the same picture, or similar: three kinds, which are never mixed."""

from mlx_mm.search.records import DuplicateKind, Group
from mlx_mm.search.store import Store


def duplicates(store: Store, kind: DuplicateKind, threshold: float | None = None) -> list[Group]:
    """Groups of one kind."""
    raise NotImplementedError


def keep_apart(store: Store, first: str, second: str) -> None:
    """Remember that two contents are no duplicates."""
    raise NotImplementedError
