"""`mlx_mm completion`: what real shells offer."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import Run
from comparing import LONG

from mlx_mm.cli.program import COMMANDS, build_parser

SHELLS = ["bash", "zsh", "fish"]


def script(run: Run, shell: str) -> str:
    result = run("completion", shell)
    assert (result.status, result.err) == (0, "")
    return result.out


def shell_run(shell: str, code: str, folder: Path) -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    ended = subprocess.run(
        [shell, *plain, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stderr == ""
    return ended.stdout.split("\n")


def offered(run: Run, shell: str, line: str, folder: Path) -> list[str]:
    """The words that a shell offers for the last word of a line."""
    text = script(run, shell)
    if shell == "fish":
        found = shell_run(shell, f"{text}\ncomplete -C {line!r}", folder)
        return sorted(word.split("\t")[0] for word in found if word)
    assert shell == "bash"
    words = line.split(" ")
    listed = " ".join(f"'{word}'" for word in words)
    code = f"{text}\nCOMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _mlx_mm; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    return sorted(word for word in shell_run(shell, code, folder) if word)


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mlx_mm ", sorted(COMMANDS)),
        ("mlx_mm cla", ["classify"]),
        ("mlx_mm c", ["chat", "classify", "compare", "completion", "convert"]),
        ("mlx_mm embed --no-", ["--no-normalize", "--no-truncate"]),
        ("mlx_mm embed photos --max-l", ["--max-length"]),
        ("mlx_mm generate hi --kv-bits ", ["4", "8"]),
        ("mlx_mm completion ", ["bash", "fish", "zsh"]),
        ("mlx_mm models --r", ["--remove"]),
    ],
)
def test_words_that_are_offered(run: Run, shell: str, line: str, words: list[str], tmp_path: Path) -> None:
    found = offered(run, shell, line, tmp_path)
    assert [word for word in found if word not in ("-h", "--help", "--version")] == words


def test_bash_offers_files_elsewhere(run: Run, tmp_path: Path) -> None:
    """By `complete -o default`, where the function has nothing."""
    for line in ("mlx_mm embed pho", "mlx_mm embed --out ", "mlx_mm generate x --image r", "mlx_mm convert --bits "):
        assert offered(run, "bash", line, tmp_path) == []
    assert "complete -o default -F _mlx_mm mlx_mm" in script(run, "bash")


def test_fish_offers_files_elsewhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for line in ("mlx_mm embed pho", "mlx_mm embed --out pho"):
        assert offered(run, "fish", line, tmp_path) == ["photos/"]
    assert offered(run, "fish", "mlx_mm embed --dim pho", tmp_path) == []


@LONG[0]
@LONG[1]
def test_zsh(run: Run, tmp_path: Path) -> None:
    """In a terminal of its own, since zsh completes nowhere else."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "_mlx_mm.zsh").write_text(script(run, "zsh"))
    shell_run("zsh", "zsh -n _mlx_mm.zsh", tmp_path)
    for line, words in {
        "mlx_mm cl": ["mlx_mm classify "],
        "mlx_mm embed --max-n": ["mlx_mm embed --max-num-patches "],
        "mlx_mm completion fi": ["mlx_mm completion fish "],
        "mlx_mm embed pho": ["mlx_mm embed photos/"],
    }.items():
        code = (
            "zmodload zsh/zpty; zpty -b z zsh -f -i; "
            "zpty -w z 'PS1=; autoload -Uz compinit; compinit -u -D; source ./_mlx_mm.zsh; "
            'show() { print -r -- "<$BUFFER>" }; zle -N show; bindkey "^X" show; print REA""DY\'; '
            f"zpty -r -m z part '*READY*'; zpty -n -w z $'{line}\\t\\x18'; "
            "zpty -r -m z part '*<mlx*>*'; zpty -d z; print -r -- $part"
        )
        assert f"<{words[0]}>" in "".join(shell_run("zsh", code, tmp_path)), line


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_is_there(run: Run, shell: str) -> None:
    text = script(run, shell)
    for name, command in build_parser().commands.items():
        assert name in text
        for option in command.options:
            for word in option.option_strings:
                assert (word if shell != "fish" else word.lstrip("-")) in text
    assert json.loads(run("completion", shell, "--json").out) == {"shell": shell, "script": text}
