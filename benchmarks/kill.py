"""Signals at random moments of runs that write: what do they leave?

    python benchmarks/kill.py [--signals 1000] [--seed 0] [--jobs 3] [--json FILE]

Each run is a process that gets SIGINT, SIGTERM, SIGHUP or SIGKILL, converts (anew, or over an older conversion) or
embeds into a .npz or .jsonl file (anew, or over an older one). Then the target is compared, byte for byte, with the
states that it may have: the old one and the new one. Then the same command runs undisturbed, and must leave the new one
and nothing beside it.

Nine in ten runs are forked from a process that has imported the package and computed nothing; they call the command
line's own `main` and end as any process does. Their signals are drawn from the time in which an undisturbed run writes,
and embeddings come from a stub at once, so that most meet the writing. Every tenth is a new `python -m mlx_mm`, whose
signal comes at any time from its first instruction on. Signals that come when the process has ended are drawn again.
Linux and macOS; exit status 1 where anything is wrong.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import mlx_mm
from mlx_mm.cli import embeddings, main

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
TEXTS = 400
MODEL = "emoji-siglip2"
CONVERT = ["convert", MODEL, "out", "--overwrite"]
JOBS = {
    "convert": (CONVERT, False),
    "convert --overwrite": (CONVERT, True),
    "embed .npz": (["embed", "--text", "-", "-m", MODEL, "-o", "v.npz"], False),
    "embed .npz again": (["embed", "--text", "-", "-m", MODEL, "-o", "v.npz"], True),
    "embed .jsonl": (["embed", "--text", "-", "-m", MODEL, "-o", "v.jsonl"], False),
    "embed .jsonl again": (["embed", "--text", "-", "-m", MODEL, "-o", "v.jsonl"], True),
}
WRONG = ("partial", "lost", "left at once", "left after next", "next failed", "status", "stderr", "hang", "traceback")
PATIENCE = 120.0  # seconds after which a process hangs
FRESH = 10  # every so many runs one is a process from its start
SAID = {
    signal.SIGINT: "interrupted; nothing half-written was kept",
    signal.SIGTERM: "terminated; nothing half-written was kept",
    signal.SIGHUP: "terminated; nothing half-written was kept",
}


# --- a run ----------------------------------------------------------------------------------------------------------


class Run:
    """One process on its way. `began` returns when it begins to write, or has ended."""

    def __init__(self, command: list[str], folder: Path, texts: Path, *, fresh: bool):
        self.start = time.monotonic()
        self._errors = folder.with_suffix(".stderr")
        self._told, tell = os.pipe()
        self._status: int | None = None
        if fresh:
            words = [sys.executable, "-m", "mlx_mm", *command]
            with texts.open("rb") as given, self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    words, cwd=folder, stdin=given, stdout=subprocess.DEVNULL, stderr=errors
                )
            self.pid = self._process.pid
        else:
            self.pid = os.fork()
            if self.pid == 0:
                os.close(self._told)
                _become(command, folder, texts, self._errors, tell)  # and end as a process does
        os.close(tell)

    def began(self) -> None:
        os.read(self._told, 1)

    def ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)  # it is not reaped yet, so that the number is its own

    def wait(self) -> int | None:
        """Its exit status, None where it hangs."""
        while not self.ended():
            if time.monotonic() - self.start > PATIENCE:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self._status = 0
                os.close(self._told)
                return None
            time.sleep(0.002)
        os.close(self._told)
        return self._status

    def stderr(self) -> list[str]:
        return self._errors.read_text("utf-8", "replace").splitlines()


def _become(command: list[str], folder: Path, texts: Path, errors: Path, tell: int) -> None:
    """Be a process of that command; raises SystemExit, which nothing above may catch."""
    os.chdir(folder)
    for path, flags, number in (
        (texts, os.O_RDONLY, 0),
        (os.devnull, os.O_WRONLY, 1),
        (errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 2),
    ):
        handle = os.open(path, flags, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    convert = sys.modules["mlx_mm.convert"]
    opened = convert.open_checkpoint

    def open_checkpoint(*given: object, **options: object) -> object:
        result = opened(*given, **options)
        os.write(tell, b".")
        return result

    def encode_text(_model: object, _processor: object, lines: list[str], **_options: object) -> np.ndarray:
        vectors = np.random.RandomState(len(lines)).standard_normal((len(lines), 128)).astype(np.float32)
        os.write(tell, b".")
        return vectors

    convert.open_checkpoint = open_checkpoint
    mlx_mm.encode_text = encode_text
    sys.argv = ["mlx_mm", *command]
    main()


# --- what a run leaves ----------------------------------------------------------------------------------------------


SECONDS = re.compile(rb'"seconds": [0-9.e-]+')


def contents(path: Path) -> dict[str, bytes] | bytes | None:
    """All that stands at a path, but for how long it took to measure; None for nothing."""
    if path.is_dir():
        return {inner.name: SECONDS.sub(b"", inner.read_bytes()) for inner in path.iterdir()}
    return path.read_bytes() if path.exists() else None


class Case:
    """A job with the states that its target may have."""

    def __init__(self, name: str, folder: Path, texts: Path, *, fresh: bool, trials: int):
        self.command, self.again = JOBS[name]
        self.fresh = fresh
        self.folder, self._texts = folder, texts
        self._target = folder / self.command[-1 if self.command[0] == "embed" else 2]
        folder.mkdir()
        self._old: Path | None = None
        if self.again:
            other = folder.with_suffix(".old")
            other.mkdir()
            if self.command[0] == "embed":
                embeddings.write_embeddings(other / "old.npz", ["old"], np.ones((1, 2), np.float32), "old")
                self._old = other / "old.npz"
            else:
                status = Run([*CONVERT, "--bits", "8"], other, texts, fresh=False).wait()
                assert status == 0, "the older conversion failed"
                self._old = other / "out"
        self.old = None if self._old is None else contents(self._old)
        self._seconds = sorted(self._undisturbed() for _ in range(trials))[
            trials // 2
        ]  # in which the signal is to come
        self.new = contents(self._target)
        assert self.new != self.old

    def _undisturbed(self) -> float:
        """The seconds from the start, or from the begin of the writing, until the target has its new state."""
        self.prepare()
        before, run = _number(self._target), self.run()
        if not self.fresh:
            run.began()
        start = time.monotonic() if not self.fresh else run.start
        while _number(self._target) == before and not run.ended():
            time.sleep(0.001)
        seconds = time.monotonic() - start
        assert run.wait() == 0, run.stderr()
        return seconds

    def prepare(self) -> None:
        """An empty folder, or one with the old state."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        if self._old is not None:
            (shutil.copytree if self._old.is_dir() else shutil.copyfile)(self._old, self._target)

    def run(self) -> Run:
        return Run(self.command, self.folder, self._texts, fresh=self.fresh)

    def strike(self, number: signal.Signals, where: float) -> Counter[str] | None:
        """What was wrong after a signal at a moment, given as a part of the time; None where it came too late."""
        self.prepare()
        run = self.run()
        if not self.fresh:
            run.began()
        start = run.start if self.fresh else time.monotonic()
        time.sleep(max(0.0, start + where * self._seconds - time.monotonic()))
        if run.ended():
            run.wait()
            return None
        run.send(number)
        status = run.wait()
        if number == signal.SIGKILL and status == 0:
            return None  # it had ended and waited to be reaped
        self.said = run.stderr()
        found = Counter(self.judge(number, status, self.said))
        found["while writing" if _staged(self.folder) or contents(self._target) == self.old else "at the end"] += 1
        after = self.run()
        ended = after.wait()
        found["next failed"] += ended != 0
        found["left after next"] += contents(self._target) != self.new or len(os.listdir(self.folder)) != 1
        found["removed by next"] += any("Removed what" in line for line in after.stderr())
        return found

    def judge(self, number: signal.Signals, status: int | None, said: list[str]) -> list[str]:
        """The names of all that is wrong."""
        state, wrong = contents(self._target), []
        if status is None:
            wrong.append("hang")
        if self.old is not None and state is None:
            wrong.append("lost")
        elif state not in (self.old, self.new) or (status == 0 and state != self.new):
            wrong.append("partial")
        if number != signal.SIGKILL and _staged(self.folder):
            wrong.append("left at once")
        early = self.fresh and state == self.old  # the system's answer, before `main` has begun
        caught = number != signal.SIGKILL
        if early and any("Traceback" in line for line in said) and "mlx_mm/cli/program" not in "".join(said):
            return [*wrong, "traceback before main"]  # Python's own words for Ctrl-C while it imports
        if status != -number and not (caught and status in (0, 128 + number)):
            wrong.append("status")
        if caught and status == -number and not early:
            wrong.append("status")
        if any("Traceback" in line for line in said):
            wrong.append("traceback")
        elif status == 128 + number and said != [SAID[number]]:
            wrong.append("stderr")
        return wrong


def _number(path: Path) -> int | None:
    """By which the system knows what stands at a path."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _staged(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


# --- all of them ----------------------------------------------------------------------------------------------------


def work(place: Path, number: int, share: int, seed: int, report: int) -> None:
    """Send `share` signals, one job after the other; a line of JSON for each goes to `report`."""
    texts = place / f"{number}.txt"
    texts.write_text("".join(f"text {i}\n" for i in range(TEXTS)))
    few = place / f"{number}.few.txt"
    few.write_text("a cat\na dog\n")
    draw = random.Random(f"{seed} {number}")
    names = list(JOBS)
    trials = 3 if share > 10 * len(names) else 1
    cases: dict[tuple[str, bool], Case] = {}
    for i in range(share):
        name, fresh = names[(i + number) % len(names)], (i // len(names)) % FRESH == FRESH - 1
        if (name, fresh) not in cases:
            folder = place / f"{number}-{names.index(name)}-{fresh:d}"
            cases[name, fresh] = Case(name, folder, few if fresh else texts, fresh=fresh, trials=trials)
        chosen, late, found = draw.choice(SIGNALS), 0, None
        while found is None:
            found = cases[name, fresh].strike(chosen, draw.random())
            late += found is None
        line = {"job": name, "signal": chosen.name, "fresh": fresh, "late": late, "found": +found}
        if any(found[what] for what in WRONG):
            line["said"] = cases[name, fresh].said
        os.write(report, (json.dumps(line) + "\n").encode())


def table(rows: list[dict[str, object]]) -> str:
    """A line for each job and one for each signal."""
    columns = ("signals", "while writing", "removed by next", *WRONG, "traceback before main")
    lines = [f"{'':22}" + " ".join(f"{column:>{max(len(column), 5)}}" for column in columns)]
    keys = [("job", name) for name in JOBS] + [("signal", number.name) for number in SIGNALS]
    for key, name in [*keys, ("", "all")]:
        chosen = [row for row in rows if not key or row[key] == name]
        total: Counter[str] = Counter(signals=len(chosen))
        for row in chosen:
            total.update(row["found"])  # type: ignore[call-overload]
        lines.append(f"{name:22}" + " ".join(f"{total[column]:>{max(len(column), 5)}}" for column in columns))
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=3, help="processes at a time (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    return parser.parse_args(argv)


def run_all(args: argparse.Namespace) -> int:
    """Send all signals and print the table; 1 where anything is wrong."""
    start = time.monotonic()
    for number in SIGNALS[:3]:  # whatever `nohup` or a shell's & have made of them
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    place = Path(tempfile.mkdtemp(prefix="mlx_mm-kill-"))
    read, write = os.pipe()
    pids = []
    for number in range(args.jobs):
        share = len(range(number, args.signals, args.jobs))
        pid = os.fork()
        if pid == 0:  # nothing below may catch what ends the processes that this one forks
            os.close(read)
            work(place, number, share, args.seed, write)
            sys.exit(0)
        pids.append(pid)
    os.close(write)
    rows = []
    with os.fdopen(read) as lines:
        for line in lines:
            rows.append(json.loads(line))
            if len(rows) % 50 == 0:
                print(f"{len(rows)} signals, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    failed = [pid for pid in pids if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
    shutil.rmtree(place)
    wrong = [row for row in rows if any(name in row["found"] for name in WRONG)]
    seconds = time.monotonic() - start
    print(table(rows))
    print(f"{sum(row['late'] for row in rows)} signals came after the end and were drawn again; {seconds:.0f} s")
    for row in wrong:
        print("WRONG", json.dumps(row))
    if args.json:
        values = {"signals": len(rows), "seed": args.seed, "seconds": round(seconds, 1), "wrong": wrong, "rows": rows}
        args.json.write_text(json.dumps(values, indent=1) + "\n")
    return int(bool(wrong or failed or len(rows) != args.signals))


if __name__ == "__main__":
    import mlx_mm.convert  # so that the processes have it

    sys.exit(run_all(parse()))
