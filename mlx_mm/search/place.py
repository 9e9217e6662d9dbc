"""Where an index lies unless somebody says otherwise."""

import os
import sys
from pathlib import Path

from mlx_mm.errors import StoreError

ENDING = ".mmindex"


def default_index() -> Path:
    """The index of this user, by the platform's place for data. Raises StoreError where the user has no home."""
    wanted = Path(os.environ.get("XDG_DATA_HOME") or "")
    if sys.platform != "darwin" and wanted.is_absolute():  # as the XDG base directory specification has it
        data = wanted
    else:
        try:
            home = Path.home()
        except RuntimeError:
            raise StoreError(
                "This user has no home, in which the index would lie; expected a folder for it. Name one: --index PATH."
            ) from None
        data = home / ("Library/Application Support" if sys.platform == "darwin" else ".local/share")
    return data / "mlx_mm" / f"default{ENDING}"
