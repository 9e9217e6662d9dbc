"""The benchmark that compares engines: its processes, and the arithmetic of its tables."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ENGINE = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from workers import OUT, MissingError, Timed, serve
def prepare(case):
    if case["do"] == "miss":
        raise MissingError("it is not installed")
    if case["do"] == "die":
        sys.stderr.write("out of luck")
        os._exit(3)
    print("what a library prints is no answer", flush=True)
    return lambda: Timed(np.arange(3), 0.25, memory=7) if case["do"] == "time" else np.ones(case["count"])
serve(prepare, Path(os.environ[OUT]))
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """workers.py, works.py, compare.py, … as `python benchmarks/compare.py` has them."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = {name: runpy.run_path(str(BENCHMARKS / f"{name}.py")) for name in ("workers", "compare", "reports")}
    for name in set(sys.modules) - before:
        monkeypatch.delitem(sys.modules, name)
    return found


def test_an_engine_in_its_process(modules: dict[str, Any], tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENGINE, str(BENCHMARKS)]
    worker = modules["workers"]["Worker"]("one", command, tmp_path / "one.npy", {})
    taken = worker.run({"do": "ones", "count": 4})
    assert 0 < taken.seconds < 60
    assert taken.memory > 1e6
    assert worker.result().tolist() == [1, 1, 1, 1]
    taken = worker.run({"do": "time"})
    assert (taken.seconds, taken.memory) == (0.25, 7)
    assert worker.result().tolist() == [0, 1, 2]
    assert worker.run({"do": "miss"}) is None
    assert worker.why_not == "it is not installed"
    worker.why_not = ""
    assert worker.run({"do": "die"}) is None
    assert worker.why_not.startswith("the process ended: ")
    assert worker.why_not.endswith("out of luck")
    worker.stop()


def test_a_row(modules: dict[str, Any]) -> None:
    """Ratios are of turns; a share is of the peak of its turn."""
    taken_of, works = modules["workers"]["Taken"], modules["compare"]["WORKS"]
    taken = {
        "torch": [taken_of(2.0, 4.0, 10**9), taken_of(3.0, 4.0, 10**9), taken_of(4.0, 4.0, 10**9)],
        "mlx_mm": [taken_of(1.0, 1.0, 10**8), taken_of(2.0, 1.0, 3 * 10**8), taken_of(1.0, 1.0, 10**8)],
    }
    peaks = [{"float32": 1e12, "int8": 0, "read": 0}] * 3
    results = {"torch": np.array([[1.0, 0.0], [0.0, 2.0]]), "mlx_mm": np.array([[3.0, 0.0], [0.0, 1.0]])}
    case = {"batch": 8}
    row = modules["compare"]["row"](works["vit"], case, "mlx_mm", taken, peaks, results)
    assert row["milliseconds"] == [125, 125, 250]
    assert row["ratio"] == [2, 1.5, 4]
    assert row["ratio_of_processor_time"] == 4
    assert row["memory_gb"] == 0.3
    assert row["distance"] == pytest.approx(0)
    operations = works["vit"].operations(case)
    assert 8 * 34e9 < operations < 8 * 36e9  # 17.5 billion multiply-adds a picture
    assert row["share"] == pytest.approx([operations / 1e12, operations / 2e12, operations / 1e12])


def test_a_document_takes_a_table(modules: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("a\n<!-- vit -->\nold\n<!-- /vit -->\nb\n")
    modules["reports"]["insert"](path, "vit", "new\n")
    assert path.read_text() == "a\n<!-- vit -->\nnew\n<!-- /vit -->\nb\n"
    with pytest.raises(SystemExit, match="no marks"):
        modules["reports"]["insert"](path, "clap", "new")


def test_every_work_has_its_place(modules: dict[str, Any]) -> None:
    text = (BENCHMARKS.parent / "docs" / "performance.md").read_text("utf-8")
    for name in (*modules["compare"]["WORKS"], "growth"):
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1
