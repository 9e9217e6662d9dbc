"""Trials that each do one thing that no trial may do: the harness must see it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from fuzz.outcome import (
    ACCEPTED,
    BAD_OUTPUT,
    CLEAN,
    CRASH,
    HANG,
    LEFT,
    NOT_FINITE,
    REACHED_OUT,
    TOO_LARGE,
    TRACEBACK,
    Outcome,
    judge,
)
from fuzz.workers import Runner
from mlx_mm.errors import InputError


def _key_error() -> None:
    {}["nothing"]


def _stack() -> None:
    _stack()


def _exit() -> None:
    sys.exit(1)


def _compute() -> None:
    while True:
        pass


def _not_a_number() -> None:
    import numpy as np

    from fuzz.kinds.using import vectors

    vectors(np.full((1, 4), np.nan, np.float32))


def _no_length() -> None:
    import numpy as np

    from fuzz.kinds.using import vectors

    vectors(np.zeros((2, 4), np.float32))


def _allocate() -> None:
    bytearray(b"x") * (1200 << 20)


def _endless_message() -> None:
    error = InputError("")
    error.args = ("x" * 100_000,)
    raise error


def _refuse() -> None:
    raise InputError("It is 5; expected 6. Add 1.")


def _leave() -> None:
    Path("in", ".new.1234").write_text("half")


def _leave_temporary() -> None:
    tempfile.mkstemp(dir="tmp")


def _write_beyond() -> None:
    Path("../beyond").write_text("a")


def _run_code() -> None:
    os.system("touch in/ran")


# Name -> the trial, and what must be said of it
TRIALS = {
    "clean": (_refuse, CLEAN),
    "accepted": (lambda: None, ACCEPTED),
    "key error": (_key_error, TRACEBACK),
    "recursion": (_stack, TRACEBACK),
    "exit": (_exit, TRACEBACK),
    "loop": (_compute, HANG),
    "abort": (os.abort, CRASH),
    "NaN": (_not_a_number, NOT_FINITE),
    "zero": (_no_length, NOT_FINITE),
    "memory": (_allocate, TOO_LARGE),
    "message": (_endless_message, BAD_OUTPUT),
    "left": (_leave, LEFT),
    "left in tmp": (_leave_temporary, LEFT),
    "beyond": (_write_beyond, REACHED_OUT),
    "code": (_run_code, REACHED_OUT),
}


def prepare(folder: Path) -> Runner:
    """As `workers.prepare`, for the trials of this file."""
    root = folder / f"worker-{os.getpid()}"

    def run(kind: str, _: int) -> Outcome:
        for name in ("in", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        os.chdir(root)
        try:
            return judge(TRIALS[kind][0], root)
        finally:
            for file in (*root.glob("in/*"), *root.glob("tmp/*")):
                file.unlink()

    return run
