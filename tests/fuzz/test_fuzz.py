"""A few hundred hostile inputs of all kinds, and proof that a fault among them would be seen."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from pathlib import Path

import pytest
from comparing import LONG

from fuzz import broken, kinds, outcome, workers

pytestmark = [*LONG, pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")]

# Of a kind that loads a checkpoint or runs a command for each, and of the others
SLOW = {"process": 1, "template": 5, "command line": 6, "text files": 5, "tokenizer": 5, "processor files": 5}
SLOW |= dict.fromkeys(("safetensors", "numbers", "index", "config", "pickle", "quantization"), 6)
QUICK = 15
SEED = 12


def test_hostile_inputs_end_in_a_clear_error_or_in_a_result(tmp_path: Path) -> None:
    jobs = [workers.Job(kind, index) for kind in kinds.KINDS for index in range(SLOW.get(kind, QUICK))]
    prepare = functools.partial(workers.prepare, tmp_path, SEED)
    results = list(workers.run_many(jobs, tmp_path, prepare, 1))
    faults = [
        f"python benchmarks/fuzz.py --seed {SEED} --kind '{job.kind}' --index {job.index}: {found.what}, {found.error}"
        for job, found in results
        if found.what not in outcome.GOOD
    ]
    assert not faults, "\n".join(faults)
    assert len(results) == len(jobs)
    counts = Counter(found.what for _, found in results)
    assert min(counts[outcome.CLEAN], counts[outcome.ACCEPTED]) > len(jobs) / 10, (
        counts
    )  # neither all wrong nor all right


def test_every_class_of_fault_is_seen(tmp_path: Path) -> None:
    jobs = [workers.Job(name, 0, 0.5 if name == "loop" else workers.HANG_SECONDS) for name in broken.TRIALS]
    results = workers.run_many(jobs, tmp_path, functools.partial(broken.prepare, tmp_path), 1)
    found = {job.kind: result for job, result in results}
    assert {name: result.what for name, result in found.items()} == {
        name: due for name, (_, due) in broken.TRIALS.items()
    }
    assert "KeyError: 'nothing'" in found["key error"].error
    assert "_compute" in found["loop"].trace
    assert "Fatal Python error: Aborted" in found["abort"].trace


def test_an_input_depends_on_its_number_alone(tmp_path: Path) -> None:
    values = [workers.random_of(0, kind, index).random() for kind in kinds.KINDS for index in range(50)]
    assert len(set(values)) == len(values)
    again = workers.random_of(0, "picture", 3)
    assert again.random() == values[list(kinds.KINDS).index("picture") * 50 + 3]
