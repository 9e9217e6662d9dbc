"""Fixtures for all tests: tiny checkpoints, written afresh for each test."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has one processor. OpenBLAS, which reads this once, waits for others by spinning: with threads for
    # every processor in every worker, small products took four times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch
    os.environ.setdefault("MLX_MM_THREADS", "1")  # of the CPU kernels

if sys.dont_write_bytecode:
    # Hundreds of tests start a Python of their own, which would compile this package anew each time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False

from recipes import RECIPES

from mlx_mm import convert
from mlx_mm.backend import device
from mlx_mm.backend.cpus import usable_cpus
from mlx_mm.backend.native import library, signatures


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: a sixth of the time tests wait, for processes, sockets and disks."""
    return usable_cpus() + 1


@pytest.fixture(autouse=True)
def signals_that_act() -> Iterator[None]:
    """Shells start what runs in the background with SIGINT ignored, and `nohup` ignores SIGHUP; that is inherited."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    ignored = [number for number in usual if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, usual[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def plain_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    """To round by the inputs of layers, and to measure what was lost, takes longer than the rest of most tests: a
    conversion does it where method= or check= say so."""
    monkeypatch.setitem(convert.__kwdefaults__, "method", "plain")
    monkeypatch.setitem(convert.__kwdefaults__, "check", False)


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_checkpoint(name)` writes the folder of one of `RECIPES` and returns its path.

    `shards=3` writes three files and an index. name: of the folder.
    """

    def write(recipe: str, *, shards: int = 1, name: str = "") -> Path:
        return RECIPES[recipe].write(tmp_path / (name or f"tiny-{recipe}"), shards=shards)

    return write


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is computed by MLX itself, as where no kernels were built."""
    monkeypatch.setattr(device, "has_kernels", lambda: False)


@pytest.fixture
def exact_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with quantised weights take float32, as with MLX_MM_CPU=exact."""
    monkeypatch.setattr(library, "inputs_of", lambda usual: signatures.INPUTS_EXACT)
