"""A little of `benchmarks/kill.py`: a signal for each kind of run that writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from comparing import LONG

pytestmark = [*LONG]
REPOSITORY = Path(__file__).parents[1]


def test_signals_at_random_moments(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/kill.py", "--signals", "6", "--jobs", "1", "--json", str(tmp_path / "found")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY, env=environment, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "found").read_text())
    assert (found["signals"], found["wrong"]) == (6, [])
    assert len({row["job"] for row in found["rows"]}) == 6
