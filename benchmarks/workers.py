"""Engines that are compared, each in a long-lived process of its own, so that their thread pools do not meet.

A process is told a case as JSON on one line, runs it, and answers with one line: what it took, or why it could not.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

OUT = "MLX_MM_BENCHMARK_OUT"  # where a process finds the path for its results
Case = dict[str, Any]
Run = Callable[[], "np.ndarray | Timed | None"]  # its result, with which those of the other engines are compared


class Timed(NamedTuple):
    """The result of a run that has measured itself: seconds, and what another process took for it."""

    result: np.ndarray | None
    seconds: float
    processor: float | None = None
    memory: int | None = None


class MissingError(Exception):
    """An engine, or a package that it needs, is not here."""


@dataclass(frozen=True)
class Taken:
    """What a run took: seconds, seconds of all processors, and the most memory (bytes) the process has had in it."""

    seconds: float
    processor: float
    memory: int


def cpus() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def serve(prepare: Callable[[Case], Run], out: Path) -> None:
    """The process of an engine. prepare: what makes a case ready; it is made ready once."""
    ready: dict[str, Run] = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            if line not in ready:
                ready[line] = prepare(json.loads(line))
            answer = {"taken": _timed(ready[line], out)}
        except MissingError as error:
            answer = {"error": str(error)}
        except Exception as error:  # whatever it is, the other engines go on
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(json.dumps(answer), file=answers, flush=True)


def _timed(run: Run, out: Path) -> list[float]:
    _forget_most_memory()
    start = time.perf_counter(), time.process_time()
    result = run()
    taken = [time.perf_counter() - start[0], time.process_time() - start[1], _most_memory()]
    if isinstance(result, Timed):
        measured = (result.seconds, result.processor, result.memory)
        taken = [own if given is None else given for own, given in zip(taken, measured, strict=True)]
        result = result.result
    if result is not None:
        np.save(out, result)
    return taken


def _forget_most_memory() -> None:
    """Where Linux lets it: else the most is that since the beginning."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _most_memory() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Worker:
    """The other end of `serve`. why_not: set once the engine has failed."""

    def __init__(self, name: str, command: Sequence[str], out: Path, environment: dict[str, str]) -> None:
        self.name, self.out, self.why_not = name, out, ""
        self.log = out.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    "HF_HUB_OFFLINE": "1",
                    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                    OUT: str(out),
                    **environment,
                },
            )
        if self._answer() != "ready":
            self._fail("the process did not start", log=True)

    def run(self, case: Case) -> Taken | None:
        """None where it failed, now or before."""
        if self.why_not:
            return None
        try:
            print(json.dumps(case), file=self.process.stdin, flush=True)
        except OSError:
            return self._fail("the process ended", log=True)
        line = self._answer()
        if not line.startswith("{"):
            return self._fail("the process ended", log=True)
        answer = json.loads(line)
        return self._fail(answer["error"]) if "error" in answer else Taken(*answer["taken"])

    def result(self) -> np.ndarray | None:
        """That of the last run."""
        return np.load(self.out) if self.out.exists() else None

    def stop(self) -> None:
        """End it, at the latest after a minute."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.stdout.close()

    def _answer(self) -> str:
        return self.process.stdout.readline().strip()

    def _fail(self, why: str, *, log: bool = False) -> None:
        """log: with the last line that it wrote there."""
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:] if log else []
        self.why_not = ": ".join([why, *last])
