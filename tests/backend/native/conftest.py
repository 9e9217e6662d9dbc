"""The library of CPU kernels, with each instruction set that this machine has."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from mlx_mm.backend.native.library import LIBRARY, instruction_sets, load, native_status

LOADED = load(LIBRARY) if LIBRARY.exists() else None
SETS = instruction_sets(LOADED) if LOADED is not None else ["none"]


@pytest.fixture(params=SETS)
def kernels(request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    if LOADED is None:
        pytest.skip("the kernels are not built")
    before, threads = native_status().instruction_set or SETS[0], LOADED.mm_threads()
    LOADED.mm_choose(request.param.encode())  # for the whole process
    yield LOADED
    LOADED.mm_set_threads(threads)
    LOADED.mm_choose(before.encode())
