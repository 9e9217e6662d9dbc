"""Signals end a run as Ctrl-C does: one line, the status that shells report, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import Run, environment, process
from comparing import LONG

from mlx_mm.checkpoint.undisturbed import Section, end
from mlx_mm.cli import main
from mlx_mm.cli.command import Command
from mlx_mm.cli.program import COMMANDS
from mlx_mm.cli.signals import Terminated, unwinding

# Runs `mlx_mm` with a step of its work that says so and then waits; what a signal meets.
WAITING = """
import os, sys, threading, time
from mlx_mm.checkpoint import staging, writing
from mlx_mm.cli import embeddings, main

def wait(*_):
    print("writing", file=sys.stderr, flush=True)
    time.sleep(60)

if {slow}:  # clearing takes a while, and says when it begins
    clear = staging.shutil.rmtree
    def slow(*given, **options):
        print("clearing", file=sys.stderr, flush=True)
        time.sleep(0.3)
        clear(*given, **options)
    staging.shutil.rmtree = slow
writing.ShardWriter.finish = wait
embeddings.WRITERS[".jsonl"] = lambda new, *_: (new.write_text("half"), wait())
sys.argv = ["mlx_mm", *{arguments}]
main()
"""
CONVERT = ["convert", "emoji-siglip2", "out", "--overwrite", "--method", "plain", "--no-check"]
EMBED = ["embed", "--text", "a", "-m", "emoji-siglip2", "-o", "v.jsonl"]


def ended_by(signals: Sequence[signal.Signals], arguments: Sequence[str], folder: Path) -> tuple[int, list[str]]:
    """Exit status and lines on stderr of a run that gets the signals: one when it writes, the next when it clears."""
    code = WAITING.format(slow=len(signals) > 1, arguments=list(arguments))
    lines = []
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment()) as run:
        watch = threading.Timer(60, run.kill)
        watch.start()
        assert run.stderr is not None
        for number, line in zip(signals, run.stderr, strict=False):
            lines.append(line.strip())
            run.send_signal(number)
        lines += [line.strip() for line in run.stderr]
        watch.cancel()
    return run.returncode, lines


@pytest.mark.parametrize(
    ("number", "word", "arguments"),
    [
        (signal.SIGINT, "interrupted", CONVERT),
        (signal.SIGTERM, "terminated", CONVERT),
        (signal.SIGTERM, "terminated", EMBED),
        (signal.SIGHUP, "terminated", EMBED),
    ],
    ids=str,
)
def test_a_signal_leaves_nothing(number: signal.Signals, word: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("old")
    status, lines = ended_by([number], arguments, tmp_path)
    assert (status, lines) == (128 + number, ["writing", f"{word}; nothing half-written was kept"])
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "old"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGTERM, signal.SIGINT),
        pytest.param(signal.SIGINT, signal.SIGINT, marks=LONG),
        pytest.param(signal.SIGTERM, signal.SIGTERM, marks=LONG),
    ],
)
def test_a_second_signal_does_not_stop_the_clearing(
    first: signal.Signals, second: signal.Signals, tmp_path: Path
) -> None:
    status, lines = ended_by([first, second], CONVERT, tmp_path)
    assert status in (128 + first, 128 + second)
    assert sum(line.endswith("; nothing half-written was kept") for line in lines) == 1
    assert "Traceback" not in "\n".join(lines)
    assert os.listdir(tmp_path) == []


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As `nohup` wants it."""
    code = "import os, signal\nfrom mlx_mm.cli.signals import unwinding\n"
    code += "from mlx_mm.checkpoint.undisturbed import end\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "with unwinding(last=True):\n    end()\n    os.kill(os.getpid(), signal.SIGHUP)\nprint('went on')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert run.stdout == "went on\n"


def test_handlers_are_as_before_where_the_process_goes_on() -> None:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(SystemExit):
        main(["info", "no-such-model-here"])
    with pytest.raises(Terminated) as ended, unwinding(last=False):
        terminate()
    assert ended.value.status == 143
    assert [signal.getsignal(number) for number in numbers] == before


def terminate() -> None:
    end()
    signal.raise_signal(signal.SIGTERM)
    pytest.fail("went on")


def test_a_held_section_is_not_cut_short() -> None:
    done = []

    def work() -> None:
        signal.raise_signal(signal.SIGTERM)  # waits for `end`
        done.append("held before")
        with pytest.raises(Terminated):
            end()
        Section.held = True
        signal.raise_signal(signal.SIGINT)
        done.append("held")
        end()

    with pytest.raises(KeyboardInterrupt), unwinding(last=False):
        work()
    assert done == ["held before", "held"]
    assert Section.held is False


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_of_which_an_import_makes_its_own_error(
    number: signal.Signals, word: str, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def load(*_: object) -> int:
        try:
            signal.raise_signal(number)
        except BaseException as error:
            raise ImportError("Importing the C-extensions failed") from error
        return 0

    monkeypatch.setitem(COMMANDS, "info", Command("wait", COMMANDS["info"].add_arguments, load, ()))
    assert run("info", "x") == (128 + number, "", f"{word}; nothing half-written was kept\n")


def test_another_thread_runs_commands_too(run: Run) -> None:
    """Python gives signals to the main thread only."""
    statuses = []

    def call() -> None:
        try:
            main(["info", "emoji-siglip2"])
        except SystemExit as stop:
            statuses.append(stop.code)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert statuses == [0]


WORKING = """
import os, signal, sys, threading, time
from mlx_mm.backend.streams import compute_parts, computing
done = []
def part():
    done.append(1)
    if len(done) == 10:  # long after the main thread has begun to wait, which no signal interrupts in its first step
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
try:
    with computing():
        compute_parts([part] * 400)
except KeyboardInterrupt:
    print(len(done))
with computing():  # the turn is free again, and the workers work
    compute_parts([part])
print("again")
"""


def test_ctrl_c_while_workers_compute() -> None:
    """What they have begun they finish; the rest is left."""
    code = [sys.executable, "-c", WORKING]
    run = subprocess.run(code, capture_output=True, text=True, timeout=60, env=environment(), check=True)
    count, again = run.stdout.split()
    assert int(count) < 100
    assert (again, run.stderr) == ("again", "")


def test_the_next_run_says_what_it_removes(tmp_path: Path) -> None:
    status, _ = ended_by([signal.SIGKILL], CONVERT, tmp_path)
    assert status == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    ended = process(*EMBED, cwd=tmp_path)
    assert ended.returncode == 0
    lines = ended.stderr.decode().splitlines()
    assert [line for line in lines if "warning" in line] == [
        f"warning: Removed what a run that was killed had left in {os.path.realpath(tmp_path)}."
    ]
    assert os.listdir(tmp_path) == ["v.jsonl"]
