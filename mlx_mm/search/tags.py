"""Labels that a model holds to fit, kept in the index."""

from mlx_mm.progress import Progress
from mlx_mm.search.records import MediaKind
from mlx_mm.search.spaces import Spaces
from mlx_mm.search.store import Store


def tag(
    store: Store, spaces: Spaces, labels: tuple[str, ...], least: float | None, kind: MediaKind, progress: Progress
) -> dict[str, int]:
    """Give each content the labels that fit it."""
    raise NotImplementedError
