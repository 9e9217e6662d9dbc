"""What errors of SQLite and of the system mean to whoever uses an index."""

import errno
import sqlite3

from mlx_mm.errors import BusyError, DamagedError, OutputError, StoreError, reason

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Words of SQLite's messages, which all versions of Python tell, -> class and what it means.
_WORDS: tuple[tuple[str, type[StoreError] | type[OutputError], str], ...] = (
    (
        "disk is full",
        OutputError,
        "the disk is full; what was committed before is whole. Make room, and do it again.",
    ),
    ("locked", BusyError, "another process kept it locked for too long; expected a moment. Do it again later."),
    (
        "malformed",
        DamagedError,
        "a part of the file is damaged; expected a whole one. See what is lost and save the rest: mlx_mm index "
        "--check --repair.",
    ),
    (
        "not a database",
        DamagedError,
        "a part of the file is damaged; expected a whole one. See what is lost and save the rest: mlx_mm index "
        "--check --repair.",
    ),
    ("readonly", StoreError, "it cannot be written to by you; expected to. Copy it, or change its mode."),
    ("unable to open", StoreError, "its file cannot be opened; expected one that may be read. Change its mode."),
    ("disk I/O error", StoreError, "the disk did not take or give the bytes of its file; expected it to. Check it."),
)


def meaning(error: sqlite3.Error | OSError) -> tuple[type[StoreError] | type[OutputError] | None, str]:
    """The class of an error and what it says; None for a mistake of ours, and for what is about no file of an index."""
    if isinstance(error, OSError):
        if error.errno in FULL:
            return OutputError, _WORDS[0][2]
        return StoreError, f"{reason(error)}; expected a folder that may be read and written. Change it."
    said = str(error)
    for words, kind, means in _WORDS:
        if words in said:
            return kind, means
    return None, said
