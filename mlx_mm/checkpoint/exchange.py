"""Two files or folders of one file system change names in one step, where the system has one."""

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

AT_FDCWD = -100  # linux/fcntl.h: names are as the process sees them
RENAME_EXCHANGE = 2  # linux/fs.h
RENAMEAT2 = {"x86_64": 316, "aarch64": 276}  # numbers of the call, for a C library older than it (glibc 2.28)
RENAME_SWAP = 2  # sys/stdio.h of macOS
# The file system, the kernel or a container's filter does not have it.
LACKING = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Give each the name of the other; False, with nothing changed, where that is not one step here.

    Raises OSError where it fails for another reason.
    """
    call = find_call()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    code = ctypes.get_errno()
    if code in LACKING:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def find_call() -> Callable[[bytes, bytes], int] | None:
    """The system's own exchange of two names, which gives 0 or sets ctypes' errno; None where there is none."""
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        return lambda one, other: int(library.renamex_np(one, other, RENAME_SWAP))
    if hasattr(library, "renameat2"):
        return lambda one, other: int(library.renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE))
    number = RENAMEAT2.get(platform.machine()) if sys.platform == "linux" else None
    if number is None or not hasattr(library, "syscall"):
        return None
    return lambda one, other: int(
        library.syscall(ctypes.c_long(number), AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)
    )
