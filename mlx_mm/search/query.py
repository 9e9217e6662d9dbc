"""Finding what fits: words and examples, for and against, within filters; and saying when nothing does."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_mm.processing.image import ImageSource
from mlx_mm.search.records import Hits, SortBy, Where
from mlx_mm.search.spaces import Spaces
from mlx_mm.search.store import Store


@dataclass(frozen=True)
class Query:
    """The parts of a query."""

    words: tuple[str, ...] = ()
    like: tuple[ImageSource, ...] = ()
    unlike: tuple[ImageSource, ...] = ()
    without: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls,
        words: str | Sequence[str],
        like: ImageSource | Sequence[ImageSource],
        unlike: ImageSource | Sequence[ImageSource],
        without: str | Sequence[str],
        weights: Sequence[float] | None,
    ) -> "Query":
        """From what users give."""
        raise NotImplementedError


def search(
    store: Store,
    spaces: Spaces,
    query: Query,
    where: Where,
    top: int,
    min_score: float | None,
    strong_only: bool,
    sort: SortBy,
) -> Hits:
    """The hits of a query."""
    raise NotImplementedError
