"""The terminal session in README.md, run again. `python tests/test_readme_session.py` writes it anew."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

import pytest

from mlx_mm.cli import main
from mlx_mm.cli.demo import lay_out

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
    """The session, as it goes in `folder`, where `photos/` has the bundled pictures, two of them twice."""
    for picture in lay_out(folder / "photos").iterdir():
        os.utime(picture, (TAKEN, TAKEN))
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


def test_the_session_goes_as_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home(tmp_path, monkeypatch)
    [session] = SESSION.findall(README.read_text("utf-8"))
    shown = session.splitlines()
    assert {line.split()[2] for line in shown if line.startswith("$ ")} == {"index", "search", "dups", "tag"}
    found = played(session, tmp_path)
    assert list(map(comparable, found)) == list(map(comparable, shown))
    assert scores(found) == pytest.approx(scores(shown), abs=0.02)
    assert len(scores(shown)) >= 3


if __name__ == "__main__":
    import tempfile

    text = README.read_text("utf-8")
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        home(Path(place), patch)
        new = played(SESSION.findall(text)[0], Path(place))
    README.write_text(SESSION.sub(lambda _: "```console\n" + "\n".join(new) + "\n```", text), "utf-8")
