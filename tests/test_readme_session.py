"""The terminal sessions in README.md, run again. `python tests/test_readme_session.py` writes them anew."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from mlx_mm.checkpoint import hub
from mlx_mm.cli import main
from mlx_mm.cli.demo_run import lay_out

README = Path(__file__).parents[1] / "README.md"
SESSION = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCORE = re.compile(r"\b[01]\.\d{3}\b")
TAKEN = 1_689_336_000  # noon of 2023-07-14: the time of all files


def lines_of(command: str) -> list[str]:
    """What a command prints, on both streams."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit):
        main(shlex.split(command)[1:])
    return shown.getvalue().splitlines()


def played(session: str, folder: Path) -> list[str]:
    """The session, as it goes in `folder`, where `photos/` has the bundled pictures, two of them twice, and `sounds/`
    the bundled sounds."""
    shutil.copytree(hub.BUNDLED / "sounds", folder / "sounds")
    for file in [*lay_out(folder / "photos").iterdir(), *(folder / "sounds").iterdir()]:
        os.utime(file, (TAKEN, TAKEN))
    found = []
    before = Path.cwd()
    os.chdir(folder)
    for line in session.splitlines():
        if line.startswith("$ "):
            found += [line, *lines_of(line.removeprefix("$ "))]
    os.chdir(before)
    return found


def comparable(line: str) -> str:
    """Without what another machine has differently: times, scores, sizes of compressed files, and spaces, which follow
    from them."""
    line = re.sub(r"\d+(\.\d+)? (s|min)\b", "TIME", line)
    line = re.sub(r"\(\d[\d.,]*/s\)", "(RATE)", line)
    line = SCORE.sub("SCORE", line)
    line = re.sub(r"\d[\d.]* kB", "SIZE", line)
    return re.sub(r" +", " ", line)


def scores(lines: list[str]) -> list[float]:
    return [float(score) for line in lines for score in SCORE.findall(line)]


def home(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("HOME", str(folder))
    patch.setenv("XDG_DATA_HOME", str(folder / "data"))


SESSIONS = SESSION.findall(README.read_text("utf-8"))


def test_the_sessions_show_what_is_done_every_day() -> None:
    commands = [{line.split()[2] for line in session.splitlines() if line.startswith("$ ")} for session in SESSIONS]
    assert commands == [{"index", "search", "dups", "tag"}, {"index", "search"}, {"generate"}]


@pytest.mark.parametrize("session", SESSIONS)
def test_the_session_goes_as_it_is_shown(session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home(tmp_path, monkeypatch)
    shown, found = session.splitlines(), played(session, tmp_path)
    assert list(map(comparable, found)) == list(map(comparable, shown))
    assert scores(found) == pytest.approx(scores(shown), abs=0.02)


if __name__ == "__main__":
    import tempfile

    text = README.read_text("utf-8")

    def anew(found: re.Match[str]) -> str:
        with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
            home(Path(place), patch)
            return "```console\n" + "\n".join(played(found[1], Path(place))) + "\n```"

    README.write_text(SESSION.sub(anew, text), "utf-8")
