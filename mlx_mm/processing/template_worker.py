"""What runs in the process that `template_process` starts: templates come in, texts go out, within hard limits.

It imports Jinja and the sandbox, neither NumPy nor MLX, and so is ready in a tenth of a second.
"""

import gc
import json
import math
import resource
import struct
import sys
import time
from typing import BinaryIO

# What Jinja imports in the middle of its work, when no further file may be opened
import jinja2.constants
import jinja2.debug  # noqa: F401

from mlx_mm.errors import InputError, MlxMmError
from mlx_mm.processing.sandbox import render

MAX_BYTES = 512 << 20  # of memory; with Python and Jinja it begins at 25 MB
MAX_FILES = 16
SECONDS_MORE = 2  # of a processor, before the system ends a template whose parent did not

READY, TEXT, REFUSED, FAILED, FULL = range(5)  # kinds of reply; after FULL there is no memory for another
REQUEST = struct.Struct(">Q")  # bytes of JSON that follow
REPLY = struct.Struct(">BQ")  # kind, and bytes of UTF-8 that follow


def serve() -> None:
    """Answer requests from stdin on stdout until the other end is closed, as it is when the parent ends."""
    _limit()
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    _send(replies, READY, "")
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        (size,) = REQUEST.unpack(head)
        request = json.loads(requests.read(size).decode("utf-8", "surrogatepass"))
        seconds = math.ceil(time.process_time() + request["seconds"]) + SECONDS_MORE
        _set(resource.RLIMIT_CPU, seconds)
        try:
            kind, text = (
                TEXT,
                render(request["source"], request["values"], name=request["name"], seconds=request["seconds"]),
            )
        except MlxMmError as error:
            kind, text = REFUSED if isinstance(error, InputError) else FAILED, str(error)
            kind = FULL if isinstance(error.__cause__, MemoryError) else kind
            gc.collect()  # what the error still held
        _send(replies, kind, text)


def _send(replies: BinaryIO, kind: int, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    replies.write(REPLY.pack(kind, len(data)))
    replies.write(data)
    replies.flush()


def _limit() -> None:
    """Memory, files and processes of this process, from here on. macOS may hold it to neither limit of memory."""
    _set(resource.RLIMIT_AS, MAX_BYTES)
    _set(resource.RLIMIT_DATA, MAX_BYTES)
    _set(resource.RLIMIT_NOFILE, MAX_FILES)
    for none in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        _set(none, 0)


def _set(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    try:
        resource.setrlimit(what, (most, hard if what == resource.RLIMIT_CPU else most))
    except (OSError, ValueError):  # macOS has some that cannot be set below what is in use
        return
