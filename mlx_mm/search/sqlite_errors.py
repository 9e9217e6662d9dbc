"""What errors of SQLite and of the system mean to whoever uses an index."""

import errno
import sqlite3
from typing import TypeAlias

from mlx_mm.errors import BusyError, DamagedError, OutputError, StoreError, reason

Kind: TypeAlias = type[StoreError] | type[OutputError]

FULL = "the disk is full; what was committed before is whole. Make room, and do it again."
DAMAGED = (
    "a part of the file is damaged; expected a whole one. See what is lost and save the rest: mlx_mm index --check "
    "--repair."
)
_FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Words of SQLite's messages, which all versions of Python tell -> class, and what it means.
_WORDS: dict[str, tuple[Kind, str]] = {
    "disk is full": (OutputError, FULL),
    "locked": (BusyError, "another process kept it locked for too long; expected a moment. Do it again later."),
    "malformed": (DamagedError, DAMAGED),
    "not a database": (DamagedError, DAMAGED),
    "readonly": (StoreError, "it cannot be written to by you; expected to. Copy it, or change its mode."),
    "unable to open": (
        StoreError,
        "its file cannot be opened; expected one that may be read, and written where its writer was killed. Change its "
        "mode, or copy it.",
    ),
    "disk I/O error": (
        StoreError,
        "the disk did not take or give what is in its file; expected it to. Make room, or see whether it is sound.",
    ),
}


def meaning(error: sqlite3.Error | OSError) -> tuple[Kind | None, str]:
    """The class of an error and what it says; None for a mistake of ours."""
    if isinstance(error, OSError):
        if error.errno in _FULL_CODES:
            return OutputError, FULL
        return StoreError, f"{reason(error)}; expected a folder that may be read and written. Change it."
    found = next((found for words, found in _WORDS.items() if words in str(error)), None)
    return found or (None, str(error))
