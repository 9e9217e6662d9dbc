"""All files with their vectors, as other programs read them."""

from pathlib import Path

from mlx_mm.search.store import Store


def export(store: Store, out: Path) -> int:
    """Write .npz, .jsonl or .parquet."""
    raise NotImplementedError
