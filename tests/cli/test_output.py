"""What leaves the program: nothing that steers a terminal or tears a line, valid JSON, and streams that fail."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, environment, process, read_vectors

from mlx_mm.cli import output
from mlx_mm.cli.tables import key_values, table
from mlx_mm.errors import OutputError

# C0, DEL, C1, separators of lines and paragraphs, overrides and isolates of direction
STEERING = [*map(chr, [*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])]
HARMLESS = "a é 猫 🐱 👩\u200d👧 \u200e \u200f قطة \u00a0 \\ \ufe0f"
BAD = "\x1b[31mred\x1b[0m\x9b2J\u202egnp.\n\rü"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.mark.parametrize("character", STEERING, ids=ascii)
def test_what_steers_is_written_out(character: str) -> None:
    shown = output.visible(f"a{character}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown == f"a{character.encode('unicode_escape').decode()}b"
    assert json.loads(output.json_text([character])) == [character]
    assert output.json_text([character]).isprintable()


def test_what_does_not_steer_stays() -> None:
    assert output.visible(HARMLESS) == HARMLESS
    assert output.json_text(HARMLESS) == json.dumps(HARMLESS, ensure_ascii=False)


def test_bytes_of_a_name() -> None:
    name = os.fsdecode(b"caf\xe9\xff.png")
    assert output.visible(name) == r"caf\xe9\xff.png"
    text = output.json_text({"id": name})
    assert text == '{"id": "caf\\udce9\\udcff.png"}'
    assert os.fsencode(json.loads(text)["id"]) == b"caf\xe9\xff.png"
    text.encode("utf-8", "strict")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_has_numbers_only(number: float) -> None:
    with pytest.raises(OutputError, match="not finite"):
        output.json_text({"vector": [1.0, number]})


def test_cells_keep_what_they_hold() -> None:
    text = table([(BAD, "1"), ("b", "2")], "<>") + key_values({"licence": BAD, "bits": 4})
    assert "\x1b" not in text
    assert len(text.split("\n")) == 3
    assert r"\x1b[31mred\x1b[0m\x9b2J\u202egnp.\n\rü" in text


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp1252"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_json_is_utf8_whatever_the_terminal(encoding: str, errors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding=encoding, errors=errors))
    output.prepare_streams()
    output.say("猫\x1b")
    output.say_json({"猫": "é\udcff"}, indent=None)
    output.say("é")
    output.flush()
    first, second, _ = buffer.getvalue().split(b"\n", 2)
    assert second == '{"猫": "é\\udcff"}'.encode()
    assert first in ("猫\\x1b".encode(), b"\\u732b\\x1b")


def test_notes_take_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(buffer, encoding="ascii", errors="strict"))
    output.prepare_streams()
    output.say_beside("error: \ud800 猫\n\x1b[2J")
    assert buffer.getvalue() == b"error: \\ud800 \\u732b\\n\\x1b[2J\n"
    monkeypatch.setattr("sys.stderr", None)
    output.say_beside("nobody listens")


@pytest.fixture
def odd(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pictures whose names are no UTF-8, steer, and break the line."""
    monkeypatch.chdir(tmp_path)
    names = [os.fsdecode(b"b\xff.png"), "a\nb.png", "c\x1b[31m.png", "d\u202egnp.exe.png", "e\u2028f.png", "猫.png"]
    picture = (Path(output.__file__).parents[1] / "bundled/pictures/cat.png").read_bytes()
    (tmp_path / "p").mkdir()
    for name in names:
        (tmp_path / "p" / name).write_bytes(picture)
    return sorted(f"p/{name}" for name in names)


def test_odd_names_in_json(run: Run, odd: list[str], model: Path) -> None:
    environ = {**environment(), "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "mlx_mm", "embed", "p", "-m", str(model)]
    ended = subprocess.run(command, capture_output=True, timeout=120, check=True, env=environ)
    assert run("embed", "p", "-m", model, "-o", "v.jsonl").status == 0
    for data in (ended.stdout, Path("v.jsonl").read_bytes()):
        text = data.decode("utf-8", "strict")
        assert "\x1b" not in text
        assert [json.loads(line)["id"] for line in text.splitlines()] == odd  # splitlines: no name tears its line


def test_odd_names_elsewhere(run: Run, odd: list[str], model: Path) -> None:
    assert [row["id"] for row in run("classify", "p", "-l", "cat,dog", "-m", model, "--json").json] == odd
    shown = run("classify", "p", "-l", "cat", "-m", model).out
    assert len(shown.splitlines()) == len(odd)
    assert shown.replace("\n", "").isprintable()
    assert run("embed", "p", "-m", model, "-o", "v.npz").status == 0
    assert read_vectors(Path("v.npz"))[0] == odd
    skipped = run("embed", "p", "p/\x1b]0;x\x07\n.png", "-m", model).err
    assert skipped.splitlines()[0] == r"warning: skipped p/\x1b]0;x\x07\n.png: there is no such file"


def test_parquet_tells_odd_names_apart(odd: list[str], model: Path, run: Run) -> None:
    pytest.importorskip("pyarrow")
    assert run("embed", "p", "-m", model, "-o", "v.parquet").status == 0
    names, vectors = read_vectors(Path("v.parquet"))
    assert names == [name.replace("\udcff", r"\xff") for name in odd]
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("command", ["info", "embed"])
def test_a_lone_surrogate_in_an_error(run: Run, command: str) -> None:
    result = run(command, "\ud800\x1b[2J", *(["-m", "emoji-siglip2"] if command == "embed" else []))
    assert result.status == 1
    assert r"\ud800\x1b[2J" in result.err


def test_a_card_steers_no_terminal(run: Run, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text(f"---\nlicense: \x1b[31m{BAD.splitlines()[0]}\x07\n---\n", "utf-8")
    result = run("info", tmp_path / "m")
    assert result.status == 0
    assert result.out.replace("\n", "").isprintable()
    assert r"\x1b[31m" in result.out
    converted = run("convert", tmp_path / "m", tmp_path / "out")
    assert converted.status == 0
    assert converted.out.replace("\n", "").isprintable()
    assert run("info", tmp_path / "m", "--json").json["licence"].startswith("\x1b[31m")


def shell(line: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """`python -m mlx_mm …` with a redirection of the shell."""
    command = ["bash", "-c", f'"$0" -m mlx_mm "$@" {line}', sys.executable, *words]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, env=environment())


@pytest.mark.parametrize("words", [["--help"], ["embed", "--help"], ["--version"], ["models", "--json"]], ids=" ".join)
@pytest.mark.parametrize("line", [pytest.param(">/dev/full", marks=needs_full), ">&-"])
def test_results_that_go_nowhere(line: str, words: list[str]) -> None:
    ended = shell(line, *words)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"error: ")
    assert ended.stderr.count(b"\n") == 1
    assert b"stdout" in ended.stderr


@needs_full
@pytest.mark.parametrize("line", ["2>&-", "2>/dev/full", "2>/dev/full >/dev/full", ">&- 2>&- <&-"])
def test_nobody_hears_the_error(line: str) -> None:
    assert shell(line, "embed", "--nonsense").returncode == 2
    ended = shell(line, "--version")
    assert (ended.returncode, ended.stderr) == (int(">" in line.replace("2>", "")), b"")


@pytest.mark.parametrize("words", [["embed", "-"], ["classify", "-", "-l", "cat"]], ids=" ".join)
def test_closed_stdin(words: list[str]) -> None:
    ended = shell("<&-", *words)
    assert ended.returncode == 1
    assert ended.stderr.decode().splitlines()[-1].startswith("error: stdin is closed")
    assert b"Traceback" not in ended.stderr


def test_a_closed_stream_is_no_file_of_ours(tmp_path: Path, model: Path) -> None:
    """With the number of stdout free, the next file that is opened would get it, and with it what C code prints."""
    ended = shell(">&- 2>&-", "embed", "--text", "cat", "-m", str(model), "-o", str(tmp_path / "v.npz"))
    assert ended.returncode == 1  # the line about it could not be printed
    assert read_vectors(tmp_path / "v.npz")[0] == ["cat"]
    assert process("--version").returncode == 0
