"""The lock of the one process that writes to an index; the system gives it back when that process ends."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mlx_mm.errors import BusyError

LOCK = "writer.lock"
SECONDS_BETWEEN_TRIES = 0.05

# Locks of the system belong to a process, and all of them are given up when any handle of the file is closed. So those
# of this process are told here: (device, inode) -> when it was taken.
_OWN: dict[tuple[int, int], str] = {}
_OWN_LOCK = threading.Lock()


@contextlib.contextmanager
def writer_lock(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of an index. wait: seconds for another to end; BusyError after them. Raises OSError."""
    deadline = time.monotonic() + wait
    with contextlib.ExitStack() as stack:
        while (holder := _taken(folder / LOCK, stack)) is not None:
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"{folder} is being refreshed by {holder}; expected nobody else to. Searches work meanwhile; wait "
                    "for it with wait=SECONDS."
                )
            time.sleep(min(SECONDS_BETWEEN_TRIES, max(0.0, deadline - time.monotonic())))
        yield


def _taken(path: Path, stack: contextlib.ExitStack) -> str | None:
    """Take the lock, which the stack gives back; or say who has it."""
    with _OWN_LOCK:
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            if (found.st_dev, found.st_ino) in _OWN:  # without a handle of it
                return f"this process ({os.getpid()}) since {_OWN[found.st_dev, found.st_ino]}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return _holder(path)
            raise
        state, since = os.fstat(handle), time.strftime("%H:%M:%S")
        stack.callback(_give_back, handle, (state.st_dev, state.st_ino))
        if not state.st_nlink:  # its holder took it away, with an index whose making failed
            return "another process"
        _OWN[state.st_dev, state.st_ino] = since
    with contextlib.suppress(OSError):  # such as a full disk: the lock holds, and only its holder is not told
        about = {"pid": os.getpid(), "since": since, "host": socket.gethostname()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(about).encode(), 0)
    return None


def _give_back(handle: int, key: tuple[int, int]) -> None:
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
    with _OWN_LOCK:
        os.close(handle)
        _OWN.pop(key, None)


def _holder(path: Path) -> str:
    try:
        about = json.loads(path.read_bytes())
        host = f" on {about['host']}" if about["host"] != socket.gethostname() else ""
        return f"process {int(about['pid'])}{host} since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written yet
        return "another process"
