"""Shares of the work under `mlx.launch`: that of a process is its rank."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run, environment
from comparing import LONG
from sharing import rows_of, write_photos

pytestmark = [*LONG]
_PORTS = itertools.count(0, 10_001)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with pictures, in the current one."""
    write_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return "photos"


def launched(*words: str) -> subprocess.CompletedProcess[str]:
    """Three ranks of a command."""
    port = 20_000 + next(_PORTS) + os.getpid() % 1000 * 10  # three, which no earlier run has left in use
    command = ["mlx.launch", "-n", "3", "--starting-port", str(port), "--", sys.executable, "-m", "mlx_mm", *words]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        env={**environment(), "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_shard_is_the_rank(photos: str, run: Run) -> None:
    assert run("embed", photos, "-o", "all.npz").status == 0
    launched("embed", photos, "-o", "some.npz")
    parts = [rows_of(f"some-{number}-of-3.npz") for number in (1, 2, 3)]
    assert {name: row for part in parts for name, row in part.items()} == rows_of("all.npz")
    assert run("index", photos, "--index", "all.mmindex").status == 0
    launched("index", photos, "--index", "some.mmindex")
    names = [f"some-{number}-of-3.mmindex" for number in (1, 2, 3)]
    assert run("index", "--index", "merged.mmindex", "--merge", *names).status == 0
    for path in ("all", "merged"):
        assert run("export", "--index", f"{path}.mmindex", "-o", f"{path}.jsonl").status == 0
    found = [
        sorted(map(json.dumps, map(json.loads, Path(f"{path}.jsonl").read_text().splitlines())))
        for path in ("all", "merged")
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("index", "--stats"), "--stats is for one process"),
        (("embed", "photos"), "expected names and -o FILE"),
    ],
)
def test_what_ranks_cannot_do(photos: str, words: tuple[str, ...], said: str) -> None:
    assert said in launched(*words).stderr
