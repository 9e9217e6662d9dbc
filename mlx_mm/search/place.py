"""Where an index lies unless somebody says otherwise."""

import os
import sys
from pathlib import Path

ENDING = ".mmindex"


def default_index() -> Path:
    """The index of this user, by the platform's place for data."""
    if sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "mlx_mm" / f"default{ENDING}"
