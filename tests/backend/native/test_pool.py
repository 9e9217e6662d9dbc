"""The threads of the kernels: callers at once, more threads than processors, and forks."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mlx_mm.backend.native import calls, library, signatures

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not library.LIBRARY.exists(), reason="the kernels were not compiled here"
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """A copy of the library, whose threads are these tests' own."""
    path = Path(tmp_path_factory.mktemp("native")) / library.LIBRARY.name
    path.write_bytes(library.LIBRARY.read_bytes())
    return library.load(path)


def products(opened: ctypes.CDLL, seed: int) -> list[bytes]:
    """Some results that many threads have a part in."""
    random = np.random.default_rng(seed)
    w = random.standard_normal((130, 96), dtype=np.float32)
    weight = signatures.Weight(signatures.ROWS, signatures.FLOAT32, 0, 0, 130, 96, calls.address(w))
    x = random.standard_normal((50, 96), dtype=np.float32)
    q = random.standard_normal((2, 6, 20, 16), dtype=np.float32)
    results = (
        calls.product(opened, weight, x),
        calls.attention(opened, q, q, q, scale=0.25, mask="causal"),
        calls.activation(opened, signatures.SILU, np.tile(x, (20, 1))),
        calls.layer_norm(opened, np.tile(x, (20, 1)), None, None, 1e-6),
    )
    return [result.tobytes() for result in results]


def test_the_number_of_threads_changes_no_bit(opened: ctypes.CDLL) -> None:
    opened.mm_set_threads(1)
    expected = products(opened, 0)
    for threads in (2, 3, 64, 256):
        opened.mm_set_threads(threads)
        assert opened.mm_threads() == threads
        assert products(opened, 0) == expected


def test_callers_at_once(opened: ctypes.CDLL) -> None:
    opened.mm_set_threads(1)
    expected = [products(opened, seed) for seed in range(4)]
    opened.mm_set_threads(3)
    with ThreadPoolExecutor(4) as callers:
        for _ in range(5):
            assert list(callers.map(products, [opened] * 4, range(4))) == expected


def test_a_forked_process_has_threads_of_its_own() -> None:
    run(f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_pool import library, products
opened = library.load(library.LIBRARY)
opened.mm_set_threads(3)
expected = products(opened, 0)
child = os.fork()
if not child:
    os._exit(0 if products(opened, 0) == expected and opened.mm_threads() == 3 else 1)
assert os.waitpid(child, 0)[1] == 0
assert products(opened, 0) == expected
""")


def test_models_say_after_a_fork_that_they_cannot_compute() -> None:
    run("""
import os
import mlx.core as mx
from mlx_mm.backend import streams
from mlx_mm.backend.native import library
from mlx_mm.errors import InputError
library.open_library()
streams.compute(lambda: mx.eval(mx.ones(3) + 1))
child = os.fork()
if not child:
    try:
        streams.compute(lambda: 1)
    except InputError as error:
        os._exit(0 if "forked" in str(error) else 1)
    os._exit(2)
assert os.waitpid(child, 0)[1] == 0
""")


def run(code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
