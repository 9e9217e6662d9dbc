"""Commands in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from fuzz.kinds.commands import FRAME, Run, arguments_of, make_files, odd_stdin
from fuzz.outcome import CLEAN, MOST_MEMORY, CrashedError, HungError, Trial, kilobytes, unwatched
from fuzz.place import Place

LONGEST = 60.0  # seconds


def process(random: Random, place: Place) -> Trial:
    """A command in a process of its own, with what a shell may do to its streams, its size and its life."""
    make_files(random, place)
    argv, stdin = arguments_of(random, place), odd_stdin(random)
    how = random.choice(
        (
            "plain",
            "plain",
            "plain",
            "full",
            "closed in",
            "closed out",
            "closed err",
            "head",
            "interrupt",
            "ascii",
            "folder",
        )
    )
    delay = random.uniform(0.05, 1.5)
    return lambda: _outside(argv, stdin, how, delay)


def _outside(argv: list[str], stdin: bytes, how: str, delay: float) -> str:
    with unwatched(), contextlib.ExitStack() as opened:
        out, err = opened.enter_context(open("out", "wb")), opened.enter_context(open("err", "wb"))
        given = opened.enter_context(open("given", "w+b"))
        given.write(stdin)
        given.seek(0)
        streams: dict[str, Any] = {"stdin": given, "stdout": out, "stderr": err}
        if how == "full":
            streams["stdout"] = opened.enter_context(open("/dev/full", "wb"))
        if how == "head":
            streams["stdout"] = subprocess.PIPE
        command = [sys.executable, "-m", "mlx_mm", *argv]
        if how.startswith("closed"):
            number = {"in": "<&-", "out": ">&-", "err": "2>&-"}[how.split()[1]]
            command = ["sh", "-c", f'exec "$@" {number}', "sh", *command]
        import mlx_mm

        environment = {**os.environ, "PYTHONPATH": str(Path(mlx_mm.__file__).parents[1])}
        environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if how == "ascii" else {}
        started = subprocess.Popen(
            [os.fsencode(part) if _encodes(part) else b"?" for part in command], env=environment, **streams
        )
        if how == "head" and started.stdout is not None:
            started.stdout.close()
        if how == "interrupt":
            time.sleep(delay)
            os.kill(started.pid, signal.SIGINT)  # it is not waited for yet, so the number is still its own
        status, memory = _wait(started)
    run = Run(status, Path("out").read_bytes(), Path("err").read_bytes())
    if how == "interrupt" and (status == -signal.SIGINT or _too_early(run.err)):
        return CLEAN
    if status < 0:
        raise CrashedError(f"signal {-status}: {run.err[-300:]!r}")
    if memory > MOST_MEMORY:
        raise MemoryError(f"{memory >> 20:,} MB")
    if how != "plain" and status == 1 and b"Traceback" not in run.err:
        return CLEAN  # with nobody left to tell
    return run.check([*argv, "--help"] if how != "plain" else argv)


def _too_early(err: bytes) -> bool:
    """Whether Python was still importing, and nothing of ours ran."""
    return err.strip().endswith(b"KeyboardInterrupt") and not FRAME.search(err.decode("utf-8", "replace"))


def _encodes(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _wait(started: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The status and the peak of the memory in bytes; HungError after a while."""
    end, most = time.monotonic() + LONGEST, 0
    while time.monotonic() < end:
        most = max(most, kilobytes(started.pid, "VmHWM:") << 10)
        if started.poll() is not None:
            return started.returncode, most
        time.sleep(0.02)
    started.kill()
    started.wait()
    raise HungError(f"still running after {LONGEST:.0f} s")
