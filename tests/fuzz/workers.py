"""Many inputs in a few processes, each of which may hang, die or take too much without harm to the others."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from fuzz.outcome import CRASH, HANG, Outcome, judge

if TYPE_CHECKING:
    from fuzz.place import Place

Runner = Callable[[str, int], Outcome]
HANG_SECONDS = 20.0  # on an idle machine
MOST_SLOWNESS = 4.0
MOST_ADDRESSES = 4 << 30  # bytes of address space of a worker, so that the machine survives
MOST_INPUTS = 1000  # of one process, whose memory grows with what libraries keep
FRAME = re.compile(r'File ".*/(mlx_mm/[^"]+)", line (\d+) in (\w+)')


@dataclass(frozen=True)
class Job:
    """The input `index` of a kind. limit: seconds after which it hangs."""

    kind: str
    index: int
    limit: float = HANG_SECONDS


def random_of(seed: int, kind: str, index: int) -> Random:
    """The source of one input: always the same one."""
    return Random(f"{seed}/{kind}/{index}")


def run_one(kind: str, index: int, *, seed: int, place: Place) -> Outcome:
    """Make one input in a new folder, and try it."""
    from fuzz.kinds import KINDS

    with place.entered():
        trial = KINDS[kind](random_of(seed, kind, index), place)
        return judge(trial, place.root)


def prepare(folder: Path, seed: int) -> Runner:
    """What a worker does before its first input; gives what it does with each."""
    from fuzz.place import Place, Seeds

    root = folder / f"worker-{os.getpid()}"
    place = Place(Seeds(folder / "seeds"), root)
    return lambda kind, index: run_one(kind, index, seed=seed, place=place)


def limit_process() -> None:
    """What inputs do to the machine has an end, whatever they are: memory, and files of dead processes."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(connection: Connection, prepare: Callable[[], Runner], log: Path) -> None:
    """In the worker: answer (kind, index, limit) with an outcome until the connection ends."""
    sys.dont_write_bytecode = True
    os.environ |= {"HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1"}
    limit_process()
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)  # what libraries print
        os.dup2(file.fileno(), 1)
        faulthandler.enable(file)
        run = prepare()
        connection.send(None)
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, index, limit = connection.recv()
                file.seek(0)
                file.truncate()
                faulthandler.dump_traceback_later(limit, file=file)
                outcome = run(kind, index)
                faulthandler.cancel_dump_traceback_later()
                connection.send(outcome)


class _Worker:
    """A process and what it is doing."""

    def __init__(self, number: int, folder: Path, prepare: Callable[[], Runner]) -> None:
        context = multiprocessing.get_context("spawn")
        self.log = folder / f"log-{number}-{time.monotonic_ns()}"
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, prepare, self.log), daemon=False)
        self.process.start()
        other.close()
        self.job: Job | None = None
        self.begun, self.done = 0.0, 0
        self.connection.recv()  # it is ready

    def begin(self, job: Job) -> None:
        """Give it an input."""
        self.job, self.begun = job, time.monotonic()
        self.connection.send((job.kind, job.index, job.limit * slowness()))

    def late(self) -> bool:
        """Whether its input takes longer than it may; a little more lets it write down where it is."""
        return self.job is not None and time.monotonic() - self.begun > self.job.limit * slowness() + 1

    def end(self, *, kill: bool = False) -> None:
        """End the process."""
        self.connection.close()
        if kill and self.process.pid is not None:
            self.process.kill()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def last_words(self) -> tuple[str, str]:
        """The innermost line in mlx_mm of what it wrote when it hung or died, and all of that."""
        text = self.log.read_text("utf-8", "replace")
        threads = text.split("hread 0x")
        found = FRAME.search(next((part for part in threads if " in judge" in part), text)) or FRAME.search(text)
        return ("" if found is None else f"{found.group(1)}:{found.group(2)} {found.group(3)}"), text


def slowness() -> float:
    """How many times longer everything takes because others use the machine too."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 1.0
    return min(max(1.0, load), MOST_SLOWNESS)


def run_many(
    jobs: Iterable[Job], folder: Path, prepare: Callable[[], Runner], processes: int
) -> Iterator[tuple[Job, Outcome]]:
    """The outcome of every input, in the order in which they end. prepare: can be pickled."""
    waiting = iter(jobs)
    workers = [_Worker(number, folder, prepare) for number in range(processes)]
    try:
        while True:
            for number, worker in enumerate(workers):
                if worker.job is None and (job := next(waiting, None)) is not None:
                    if worker.done >= MOST_INPUTS:
                        worker.end()
                        workers[number] = worker = _Worker(number, folder, prepare)
                    worker.begin(job)
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            wait([worker.connection for worker in busy], timeout=0.5)
            for worker in busy:
                ended = _outcome(worker)
                if ended is not None:
                    job, outcome = ended
                    if outcome.what in (HANG, CRASH) and not worker.process.is_alive():
                        workers[workers.index(worker)] = _Worker(workers.index(worker), folder, prepare)
                    yield job, outcome
    finally:
        for worker in workers:
            worker.end(kill=True)


def _outcome(worker: _Worker) -> tuple[Job, Outcome] | None:
    """Of a worker's input, if it has ended or has to be ended."""
    assert worker.job is not None
    job, seconds = worker.job, time.monotonic() - worker.begun
    if worker.connection.poll():
        try:
            outcome: Any = worker.connection.recv()
        except (EOFError, OSError):
            outcome = None
        if outcome is not None:
            worker.job = None
            worker.done += 1
            return job, replace(outcome, seconds=seconds)
        worker.end()
        frame, text = worker.last_words()
        status = worker.process.exitcode
        return job, Outcome(CRASH, f"exit status {status}", frame, text[-4000:], seconds)
    if worker.late():
        worker.end(kill=True)
        frame, text = worker.last_words()
        return job, Outcome(HANG, f"more than {job.limit:.0f} s", frame, text[-4000:], seconds)
    return None
