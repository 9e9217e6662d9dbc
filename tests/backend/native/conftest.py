"""The library of CPU kernels, with each instruction set that this machine has."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from mlx_mm.backend.native.library import LIBRARY, instruction_sets, load, native_status

SETS = instruction_sets(load(LIBRARY)) if LIBRARY.exists() else ["none"]


@pytest.fixture(params=SETS)
def kernels(request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    if not LIBRARY.exists():
        pytest.skip("the kernels are not built")
    before = native_status().instruction_set or SETS[0]  # a process has one choice
    library = load(LIBRARY, request.param)
    threads = library.mm_threads()
    yield library
    library.mm_set_threads(threads)
    library.mm_choose(before.encode())
