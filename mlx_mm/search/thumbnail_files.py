"""Where thumbnails lie in the folder of an index, and how they get there. They are derived: any may be absent."""

import contextlib
import os
import threading
from pathlib import Path

from mlx_mm.errors import OutputError, reason
from mlx_mm.search.store import THUMBNAILS


def thumbnail_path(index: Path, digest: bytes) -> Path:
    """Of a content, by its digest."""
    name = digest.hex()
    return index / THUMBNAILS / name[:2] / f"{name}.jpg"


def keep_thumbnail(index: Path, digest: bytes, jpeg: bytes) -> None:
    """Write one beside its place and move it there, so that no reader meets a part of it. OutputError where that
    fails."""
    target = thumbnail_path(index, digest)
    new = target.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as failed:
            failed.callback(new.unlink, missing_ok=True)
            new.write_bytes(jpeg)
            os.replace(new, target)
    except OSError as error:
        raise OutputError(
            f"Writing {target} failed ({reason(error)}); expected room for a thumbnail. Make room, or move the index."
        ) from error


def remove_thumbnail(index: Path, digest: bytes) -> None:
    """Nothing where there is none."""
    with contextlib.suppress(OSError):  # what cannot be removed takes a little room, and is never shown
        thumbnail_path(index, digest).unlink(missing_ok=True)
