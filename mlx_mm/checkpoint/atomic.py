"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlx_mm.errors import OutputError


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` that takes its place when the block succeeds, and vanishes when it fails.

    Raises OutputError for an OSError, also one of the block.
    """
    new = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.resolve().parent)
        os.close(handle)
        new = Path(name)
        yield new
        new.chmod(0o644)
        new.replace(path)
    except OSError as error:
        raise OutputError(f"Writing {path} failed: {error.strerror or error}. Nothing was kept.") from error
    finally:
        if new is not None:
            new.unlink(missing_ok=True)
