"""The program around the commands: usage, help, exit statuses, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import EQUAL, Run, embed_images, environment, process

from mlx_mm import __version__
from mlx_mm.cli import main
from mlx_mm.cli.program import COMMANDS

HEAVY = {"mlx", "numpy", "PIL", "huggingface_hub", "tokenizers", "tqdm", "safetensors", "soundfile", "mlx_lm", "jinja2"}


def test_version_and_help(run: Run) -> None:
    assert run("--version").out == f"mlx_mm {__version__}\n"
    text = run("--help")
    assert text.status == 0
    for name, command in COMMANDS.items():
        assert name in text.out
        assert command.help in text.out
        sub = run(name, "--help")
        assert sub.status == 0
        assert "--json" in sub.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["embed"],
        ["classify"],
        ["convert", "only-source"],
        ["convert", "a", "b", "--bits", "7"],
        ["convert", "a", "b", "--bits", "four"],
        ["convert", "a", "b", "--group-size", "large"],
        ["embed", "x", "--dim", "many"],
        ["embed", "x", "--nonsense"],
        ["info", "a", "b"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert "usage: mlx_mm" in result.err
    assert "Traceback" not in result.err


def test_help_and_import_load_nothing_heavy() -> None:
    """What makes `mlx_mm --help` answer at once, and that of every command."""
    code = (
        "import contextlib, io, sys\nfrom mlx_mm.cli import main\nfrom mlx_mm.cli.program import COMMANDS\n"
        "for words in (['--help'], *([name, '--help'] for name in COMMANDS)):\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main(words)\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment()
    )
    assert not set(ended.stdout.split()) & HEAVY
    assert "mlx_mm" in ended.stdout.split()


def test_as_a_process(model: Path, photos: Path) -> None:
    ended = process("embed", "photos/a.jpg", "photos/missing.png", "-m", model)
    assert ended.returncode == 0
    row = json.loads(ended.stdout)
    assert row["id"] == "photos/a.jpg"
    assert np.abs(np.array(row["vector"], np.float32) - embed_images(model, ["photos/a.jpg"])[0]).max() <= EQUAL
    assert ended.stderr.decode().splitlines() == [
        "warning: skipped photos/missing.png: there is no such file",
        "1 input skipped, see the warnings above",
    ]
    failed = process("info", "missing")
    assert failed.returncode == 1
    assert failed.stdout == b""
    assert failed.stderr.startswith(b"error: There is no folder missing")
    assert failed.stderr.count(b"\n") == 1


def test_a_bug_keeps_its_traceback(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["mlx_mm.load"], "open_checkpoint", bug)
    with pytest.raises(ZeroDivisionError):
        main(["embed", "photos"])


def test_a_reader_that_goes_away(model: Path) -> None:
    """`mlx_mm embed … | head -1`."""
    command = [sys.executable, "-m", "mlx_mm", "embed", "--text", "-", "-m", str(model)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment()) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdin.write(b"cat\n" * 400)  # more vectors than a pipe holds
        run.stdin.close()
        assert json.loads(run.stdout.readline())["id"] == "cat"
        run.stdout.close()
        err = run.stderr.read()
        assert run.wait(timeout=120) in (0, 1)
    assert err == b""


@pytest.mark.parametrize("arguments", [["info", "MODEL"], ["embed", "--text", "cat", "-m", "MODEL"], ["--help"]])
def test_a_reader_that_was_never_there(model: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mlx_mm", *(str(model) if word == "MODEL" else word for word in arguments)]
    try:
        run = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False, env=environment()
        )
    finally:
        os.close(writer)
    assert run.stderr == b""
    assert run.returncode in (0, 1)
