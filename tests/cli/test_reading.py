"""Text that is read: where lines end, marks at the beginning, encodings."""

from __future__ import annotations

import codecs
import io
import os
from pathlib import Path

import pytest
from command_line import Run, assert_one_error, stdin

from mlx_mm.cli.reading import decode, lines, read_text, stdin_items, stdin_line
from mlx_mm.errors import InputError

INSIDE = ["\f", "\v", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r"]  # where str.splitlines would tear


class Bytes:
    """A stdin of bytes."""

    def __init__(self, data: bytes):
        self.buffer = io.BytesIO(data)


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", Bytes(data))


@pytest.mark.parametrize("character", INSIDE, ids=ascii)
def test_only_a_line_feed_ends_a_line(character: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"one{character}half\ntwo\r\n"
    assert lines(text) == [f"one{character}half", "two"]
    for names in (True, False):
        feed(monkeypatch, text.encode())
        assert stdin_items(names=names) == [f"one{character}half", "two"]
    feed(monkeypatch, text.encode())
    assert [stdin_line(), stdin_line(), stdin_line()] == [f"one{character}half\n", "two\r\n", None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", []), ("a", ["a"]), ("a\n", ["a"]), ("a\n\nb", ["a", "", "b"]), ("a\r\r\n", ["a\r"]), ("\n", [""])],
)
def test_lines(text: str, expected: list[str]) -> None:
    assert lines(text) == expected


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + "é猫\nb".encode(),
        "é猫\nb".encode("utf-16"),
        codecs.BOM_UTF16_BE + "é猫\nb".encode("utf-16-be"),
        "é猫\nb".encode("utf-32"),
        "é猫\nb".encode(),
    ],
    ids=["utf-8", "utf-16", "utf-16-be", "utf-32", "none"],
)
def test_marks_at_the_beginning(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.txt").write_bytes(data)
    assert read_text(tmp_path / "words.txt") == "é猫\nb"
    for names in (True, False):
        feed(monkeypatch, data)
        assert stdin_items(names=names) == ["é猫", "b"]


def test_names_may_be_any_bytes_and_texts_not(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"caf\xe9.png\n")
    assert [os.fsencode(name) for name in stdin_items(names=True)] == [b"caf\xe9.png"]
    feed(monkeypatch, b"caf\xe9\n")
    with pytest.raises(InputError, match=r"Cannot read stdin: .*Expected a UTF-8 text file"):
        stdin_items(names=False)


def test_names_that_end_with_nul(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"a\nb.png\0c\r.png\0")
    assert stdin_items(names=True, null=True) == ["a\nb.png", "c\r.png"]
    feed(monkeypatch, b"a\nb.png\0c.png\0")
    with pytest.raises(InputError, match="pass --null"):
        stdin_items(names=True)
    with pytest.raises(InputError, match="UTF-16 without its mark"):
        decode("cat".encode("utf-16-le"), "words.txt")


@pytest.mark.parametrize("command", ["embed", "classify"])
def test_names_from_stdin(run: Run, model: Path, photos: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.rename("photos/b.png", "photos/b\u2028c\f.png")
    stdin(monkeypatch, "\ufeffphotos/a.jpg\r\nphotos/b\u2028c\f.png\n")
    more = [] if command == "embed" else ["-l", "cat", "--json"]
    result = run(command, "-", "-m", model, *more)
    rows = result.rows if command == "embed" else result.json
    assert [row["id"] for row in rows] == ["photos/a.jpg", "photos/b\u2028c\f.png"]
    assert result.err == ""


def test_texts_from_stdin(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one\u2028line", "a\x85b", "c\fd"]
    stdin(monkeypatch, "\ufeff" + "\r\n".join(texts))
    assert [row["id"] for row in run("embed", "--text", "-", "-m", model).rows] == texts


def test_labels_from_a_file(run: Run, model: Path, photos: Path) -> None:
    Path("words.txt").write_bytes(codecs.BOM_UTF8 + "cat\r\nsea\u2028lion\r\n\r\n".encode())
    [row] = run("classify", "photos/a.jpg", "--labels-file", "words.txt", "-m", model, "--json").json
    assert {entry["label"] for entry in row["labels"]} == {"cat", "sea\u2028lion"}


def test_labels_from_a_pipe_that_is_named() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"cat\ndog\n")
    os.close(writer)
    assert read_text(Path(f"/dev/fd/{reader}")) == "cat\ndog\n"
    os.close(reader)


@pytest.mark.parametrize("name", ["missing.txt", "photos", "/dev/zero", "latin.txt", "a\0b"])
def test_files_that_are_no_text(run: Run, model: Path, photos: Path, name: str) -> None:
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    result = run("classify", "photos/a.jpg", "--labels-file", name, "-m", model)
    assert_one_error(result, "Cannot read", "Expected a UTF-8 text file")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff\xfe[", b"[1,\xe9]", b"NaN,"])
def test_json_files_that_are_none(run: Run, glm: Path, model: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert_one_error(run("generate", "hi", "-m", glm, "--tools", tmp_path / "x.json"), "x.json")
    assert_one_error(run("convert", model, tmp_path / "out", "--recipe", tmp_path / "x.json"), "x.json")


def test_json_files_with_a_mark(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(codecs.BOM_UTF8 + b'{"text_model.*": false}')
    assert run("convert", model, tmp_path / "out", "--recipe", tmp_path / "r.json").status == 0
