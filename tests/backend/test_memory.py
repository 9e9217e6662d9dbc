"""Memory that is asked for before it is used."""

import subprocess
import sys

import pytest

CODE = """
import ctypes, sys
import mlx.core as mx, numpy as np
from mlx_mm.backend import memory

memory.keep_freed_memory()
sizes = [3 << 20, 9 << 20, 2 << 20]
memory.expect(sum(sizes))
arrays = [mx.zeros((size,), mx.uint8) for size in sizes]
mx.eval(arrays)
places = [np.asarray(array).ctypes.data for array in arrays]
print([memory.in_huge_pages(place, size) for place, size in zip(places, sizes)])
with open("/proc/self/smaps") as file:
    lines = file.readlines()
flags, span = {}, None
for line in lines:
    first = line.split()[0]
    if "-" in first and ":" not in first:
        span = tuple(int(end, 16) for end in first.split("-"))
    elif first == "VmFlags:":
        flags[span] = line.split()[1:]
print([any(start <= place < end and "hg" in found for (start, end), found in flags.items()) for place in places])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's madvise and glibc's malloc")
def test_what_is_expected_lies_in_huge_pages():
    """The kernel marks the memory of the arrays that come next ("hg" in smaps; proc(5))."""
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines() == ["[True, True, True]"] * 2
