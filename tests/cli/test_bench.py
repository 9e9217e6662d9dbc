"""`mlx_mm bench`: what it measures, and how it takes turns with a process without the kernels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Checkpoint, Run, assert_one_error

from mlx_mm import load
from mlx_mm.backend.native import peaks
from mlx_mm.backend.native.library import NativeStatus
from mlx_mm.cli import bench, timing
from mlx_mm.cli.timing import Case
from mlx_mm.errors import InputError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing once, and no measurement of the machine, which keeps all processors busy."""
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0)
    monkeypatch.setattr(timing, "SOUND_SECONDS", 1)
    monkeypatch.setattr(timing, "PROMPT_WORDS", 4)
    monkeypatch.setattr(peaks, "measure_peaks", lambda: peaks.Peaks(234.56, 856.0, 28.0))


def test_a_model_that_gives_vectors(run: Run, model: Path) -> None:
    found = run("bench", "-m", model, "--batch", 1, 3, "--turns", 2, "--no-pure", "--json").json
    assert found["model"] == str(model)
    assert found["peaks"] == {"float_gflops": 234.6, "int8_gops": 856.0, "read_gbytes": 28.0}
    assert found["cpus"] == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert [(one["what"], one["batch"], one["turns"]) for one in found["results"]] == [
        ("image", 1, 2),
        ("image", 3, 2),
        ("text", 1, 2),
        ("text", 3, 2),
    ]
    for one in found["results"]:
        speed = one["per_second"]
        assert 0 < speed["least"] <= speed["median"] <= speed["most"]
        assert one["pure_per_second"] is None


def test_other_kinds_of_models(run: Run, glm: Path, classifier: Path, tiny_checkpoint: Checkpoint) -> None:
    for folder, kinds in (
        (glm, ["prompt", "answer"]),
        (classifier, ["image"]),
        (tiny_checkpoint("clap"), ["text", "audio"]),
    ):
        results = run("bench", "-m", folder, "--batch", 1, "--turns", 1, "--no-pure", "--json").json["results"]
        assert [one["what"] for one in results] == kinds
        assert all(one["per_second"]["least"] > 0 for one in results)


def test_an_answer_that_ends_at_once_has_no_speed(run: Run, glm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "per_second", lambda model, processor, case: float(case.what == "prompt"))
    status, out, err = run("bench", "-m", glm, "--turns", 1)
    assert status == 0
    assert "tokens of a prompt" in out
    assert "tokens of an answer" not in out
    assert "ended its answer at once" in err


def test_the_table(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numbers that are given, both sides in turns."""
    said = {"ours": iter([9.0, 30.0, 10.0, 20.0]), "pure": iter([99.0, 10.0, 10.0, 5.0])}

    class Other:
        def per_second(self, _case: Case) -> float:
            return next(said["pure"])

        def end(self) -> None:
            said.pop("pure")

    monkeypatch.setattr(timing, "cases_of", lambda *_: [Case("image", 8)])
    monkeypatch.setattr(timing, "per_second", lambda *_: next(said["ours"]))
    monkeypatch.setattr(timing, "OtherProcess", lambda *_: Other())
    monkeypatch.setattr("mlx_mm.backend.native.library.native_status", lambda: NativeStatus(True, "instruction set x"))
    out = run("bench", "-m", model, "--turns", 3).out
    assert "pictures 8 20 10 - 30 10 3 1 - 4" in " ".join(out.split())
    assert "int8_gops 856.0" in out
    assert list(said) == ["ours"]  # the other process was ended


def test_turns() -> None:
    """The order changes each time, the first one does not count, and time that is up ends them after the second."""
    calls: list[str] = []
    done: list[int] = []

    def side(name: str) -> Callable[[], float]:
        return lambda: calls.append(name) or float(len(calls))  # type: ignore[func-returns-value]

    assert bench.take_turns([side("a"), side("b")], 3, 60, done.append) == [[3, 4], [6, 5], [7, 8]]
    assert "".join(calls) == "baabbaab"
    assert done == [1, 1, 1, 1]
    assert len(bench.take_turns([side("a")], 5, 0, done.append)) == 1
    assert sum(done[4:]) == 6


def test_the_other_process(model: Path) -> None:
    with timing.other_process(str(model), None, {"MLX_MM_CPU": "off"}) as other:
        assert other.per_second(Case("text", 2)) > 0
        process = other.process
    assert process.poll() is not None


def test_the_other_process_that_ends(tmp_path: Path) -> None:
    with (
        timing.other_process(str(tmp_path), None, {}) as other,
        pytest.raises(InputError, match=r"ended; .* Pass --no-pure"),
    ):
        other.per_second(Case("text", 2))


def test_work_is_repeated_until_it_can_be_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.05)
    times = []
    monkeypatch.setattr(timing, "work_of", lambda *_: lambda: times.append(1))
    assert timing.per_second(*load(model), Case("text", 8)) > 8 * 20
    assert len(times) > 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--batch", "0", "2"), ("--batch is 0", "from 1")),
        (("--turns", "0"), ("--turns is 0", "from 1")),
        (("--seconds", "nan"), ("--seconds is nan",)),
    ],
)
def test_wrong_numbers(run: Run, model: Path, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert_one_error(run("bench", "-m", model, *arguments), *parts)
