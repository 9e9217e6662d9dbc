"""The redirected matrix products agree with NumPy, and everything unexpected leaves MLX as it was."""

import dataclasses
import importlib.util
import os
import platform
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from comparing import LONG

from mlx_mm.backend import blas, call_table

redirects = pytest.mark.skipif(
    sys.platform != "linux"
    or platform.machine() not in call_table.MACHINES
    or importlib.util.find_spec("scipy_openblas32") is None
    or bool(os.environ.get("MLX_MM_BLAS")),
    reason="only where MLX's wheel carries the reference BLAS and OpenBLAS is installed",
)


def run(code: str, **environment: str) -> str:
    """What `code` prints in a new process."""
    values = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    result = subprocess.run([sys.executable, "-c", code], env=values, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def left_alone(mode: str = "auto") -> blas.LeftAloneError:
    with pytest.raises(blas.LeftAloneError) as caught:
        blas.redirect(mode)
    return caught.value


@redirects
def test_active_with_name_and_threads():
    status = blas.use_fast_blas()
    assert status.active, status.reason
    assert status.name.startswith("OpenBLAS 0.")
    assert status.name.endswith("(scipy-openblas32)")
    assert status.threads >= 1
    assert blas.use_fast_blas() is status


def test_numpy_has_one_thread_inside_and_as_many_as_before_afterwards():
    code = """if True:
        import ctypes, sys
        from pathlib import Path
        import numpy as np
        from mlx_mm.backend.blas import numpy_on_one_thread
        from mlx_mm.quantize.inputs import inputs_of
        (file,) = [*Path(np.__file__).parent.with_name("numpy.libs").glob("*openblas*")] or [sys.exit(print("none"))]
        library = ctypes.CDLL(str(file))
        name = "openblas_{}_num_threads64_" if hasattr(library, "openblas_get_num_threads64_") else None
        get, put = (library[(name or "scipy_openblas_{}_num_threads64_").format(what)] for what in ("get", "set"))
        put(3)
        seen = []
        class Seen(np.ndarray):
            def __array_ufunc__(self, ufunc, method, *inputs, **rest):
                seen.append(get())
                return getattr(ufunc, method)(*map(np.asarray, inputs), **rest)
        inputs_of(np.ones((4, 64), np.float32).view(Seen), 64)
        try:
            with numpy_on_one_thread():
                seen.append(get())
                raise KeyError
        except KeyError:
            print({*seen}, get())
    """
    said = run(code)
    if said == "none":
        pytest.skip("NumPy's products are not OpenBLAS's here")
    assert said == "{1} 3"


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 300, 7), (64, 33, 129), (1, 70, 50), (50, 70, 1)])
def testproducts_agree_with_numpy(dtype, shape):
    blas.use_fast_blas()
    rows, inner, columns = shape
    random = np.random.default_rng(1)
    a, b = random.standard_normal((2, 3, rows, inner)), random.standard_normal((2, 3, inner, columns))
    a, b = ((x[0] + 1j * x[1] if dtype == "complex64" else x[0]).astype(dtype) for x in (a, b))
    with mx.stream(mx.cpu):
        kind = getattr(mx, dtype)
        x, y, yt = (mx.array(part, dtype=kind) for part in (a, b, b.swapaxes(1, 2).copy()))
        products = x @ y, x @ yt.swapaxes(1, 2), (yt @ x.swapaxes(1, 2)).swapaxes(1, 2), x[1] @ y[1]
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    for product, expected in zip(products, (a @ b, a @ b, a @ b, a[1] @ b[1]), strict=True):
        np.testing.assert_allclose(np.array(product), expected, rtol=0, atol=tolerance)


def test_bias_is_added_to_the_product():
    blas.use_fast_blas()
    x, w, b = (np.random.default_rng(2).standard_normal(s).astype(np.float32) for s in ((9, 40), (17, 40), (17,)))
    product = mx.addmm(mx.array(b), mx.array(x), mx.array(w).T)
    np.testing.assert_allclose(np.array(product), x @ w.T + b, rtol=0, atol=1e-4)


STATUS = "from mlx_mm.backend.blas import use_fast_blas; s = use_fast_blas(); print(s.active, s.threads, s.reason)"


READ = """
import platform
from mlx_mm.backend import blas, call_table as table
path, maps = table.find_library("libmlx.so")
read = lambda: [table.pointer(at).value for at in
                table.find_slots(path, maps, blas.FUNCTIONS, *table.MACHINES[platform.machine()]).values()]
before = read()
"""


@redirects
def test_off_leaves_mlx_alone():
    code = READ + "status = blas.use_fast_blas(); print(before == read(), status.active, status.reason)"
    assert run(code, MLX_MM_BLAS="off") == "True False turned off by MLX_MM_BLAS=off"


@redirects
def test_active_after_mlx_has_already_multiplied():
    code = "import mlx.core as mx; x = mx.ones((9, 9)); mx.eval(x @ x); " + STATUS
    assert run(code, OPENBLAS_NUM_THREADS="1").startswith("True 1 replaces reference BLAS")


@redirects
def test_threads_are_the_usable_cpus():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + STATUS
    assert run(code, OPENBLAS_NUM_THREADS="", OMP_NUM_THREADS="").startswith("True 1 ")


@LONG[0]
@LONG[1]
@redirects
def test_a_forked_child_can_still_multiply():
    code = (
        # MLX itself does not survive a fork once it has computed, so the parent's test product is left out.
        "import os; from mlx_mm.backend import blas; blas.products_agree = lambda: True; blas.use_fast_blas()\n"
        "pid = os.fork()\n"
        "import mlx.core as mx, numpy as np\n"
        "x = np.ones((64, 64), np.float32); good = bool((np.array(mx.array(x) @ mx.array(x)) == 64).all())\n"
        "if pid == 0: os._exit(0 if good and blas.use_fast_blas().active else 1)\n"
        "print(good, os.waitpid(pid, 0)[1])"
    )
    assert run(code) == "True 0"


def test_unknown_setting_lists_the_known_ones():
    code = (
        "from mlx_mm.backend.blas import use_fast_blas; from mlx_mm.errors import InputError\n"
        "try: use_fast_blas()\n"
        "except InputError as error: print(error)"
    )
    assert run(code, MLX_MM_BLAS="fast") == "MLX_MM_BLAS is 'fast'; it takes one of auto, on, off."


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy_openblas32", None)
    with pytest.raises(blas.LeftAloneError, match="not installed"):
        blas.load_openblas.__wrapped__()


@redirects
def test_a_wrong_product_is_put_back():
    code = READ + (
        "blas.products_agree = lambda: False; status = blas.use_fast_blas()\n"
        "print(before == read(), status.active, status.name, status.reason)"
    )
    assert run(code).startswith("True False reference BLAS (mlx wheel) a test product")


@pytest.mark.parametrize(
    ("system", "machine", "reason", "name"),
    [
        ("darwin", "arm64", "Accelerate", "Accelerate"),
        ("win32", "AMD64", "only Linux", blas.UNKNOWN),
        ("linux", "riscv64", "riscv64", blas.UNKNOWN),
    ],
)
def test_other_platforms(monkeypatch, system, machine, reason, name):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    stop = left_alone()
    assert reason in str(stop)
    assert stop.name == name


@redirects
def test_library_not_loaded(monkeypatch):
    monkeypatch.setattr(os.path, "basename", lambda path: "other.so")
    assert "0 files named libmlx.so" in str(left_alone())


@redirects
def test_an_optimised_blas_is_kept(monkeypatch):
    monkeypatch.setattr(blas, "current_name", lambda path: "OpenBLAS")
    stop = left_alone()
    assert stop.name == "OpenBLAS"
    assert "already linked" in str(stop)


@redirects
def test_read_only_table_is_left_alone(monkeypatch):
    path, ranges = call_table.find_library("libmlx.so")
    frozen = [dataclasses.replace(part, perms="r--p") for part in ranges]
    monkeypatch.setattr(blas, "find_library", lambda _name: (path, frozen))
    assert "not writable" in str(left_alone())


@redirects
def test_missing_entry_is_left_alone(monkeypatch):
    monkeypatch.setattr(call_table, "jump_slots", lambda *_: {"cblas_sgemm": 8})
    assert "no lazily bound entry for cblas_dgemm, cblas_cgemm" in str(left_alone())


@redirects
@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01" + bytes(12), b"text" * 100])
def test_damaged_library_file_is_left_alone(tmp_path, content):
    file = tmp_path / "libmlx.so"
    file.write_bytes(content)
    _, ranges = call_table.find_library("libmlx.so")
    with pytest.raises(call_table.TableError, match=r"libmlx\.so cannot be read as expected"):
        call_table.find_slots(str(file), ranges, blas.FUNCTIONS, *call_table.MACHINES[platform.machine()])


def test_speed_is_a_positive_number():
    assert blas.measure_gflops(32) > 0
