"""Tables that stay straight with wide characters."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from mlx_mm.cli import main, output
from mlx_mm.cli.tables import key_values, table


def columns_of(text: str) -> int:
    """Terminal columns of the characters used here, written down by hand."""
    return sum({"猫": 2, "犬": 2, "고": 2, "양": 2, "이": 2, "Ａ": 2, "🐱": 2, "\u0301": 0}.get(c, 1) for c in text)


def test_columns_are_aligned_by_width_on_screen() -> None:
    words = ["cat", "猫", "고양이", "кот", "قطة", "Ａ", "🐱", "cafe\u0301", "é"]
    lines = table([(word, "|") for word in words], "<<").split("\n")
    assert [columns_of(line.split("|")[0]) for line in lines] == [6 + 2] * len(words)


def test_right_alignment() -> None:
    lines = table([("猫", "1"), ("cat", "1,000"), ("고양이", "22")], "<>").split("\n")
    assert lines == ["猫          1", "cat     1,000", "고양이     22"]
    assert {columns_of(line) for line in lines} == {13}


def test_marks_that_take_no_column() -> None:
    """Variation selectors, joiners and vowel signs are drawn over their neighbours."""
    plain = table([("❤", "|"), ("xxxx", "|")], "<<").split("\n")
    marked = table([("❤\ufe0e", "|"), ("xxxx", "|")], "<<").split("\n")
    assert marked[0].replace("\ufe0e", "") == plain[0]
    thai = table([("กิ", "|"), ("xxxx", "|")], "<<").split("\n")
    assert thai[0] == "กิ     |"


def test_no_spaces_at_the_end_of_a_line() -> None:
    assert table([("a", ""), ("bb", "c")], "<<") == "a\nbb  c"


def test_key_values() -> None:
    text = key_values(
        {
            "model_type": "siglip2",
            "parameters": 92_884_226,
            "modalities": ["text", "image"],
            "blas": {"name": "OpenBLAS", "active": True, "reason": "", "gflops": 210.5},
            "quantization": None,
            "padded": False,
            "empty": [],
        }
    )
    assert text.split("\n") == [
        "model type    siglip2",
        "parameters    92,884,226",
        "modalities    text, image",
        "blas          name OpenBLAS, active yes, gflops 210.5",
        "quantization  none",
        "padded        no",
        "empty",
    ]


def test_the_widest_column_is_broken_where_a_terminal_ends() -> None:
    rows = [("model type", "siglip2", "1"), ("kinds", "one, two and three, four of them", "22")]
    text = table(rows, "<<>", width=36)
    assert text.split("\n") == [
        "model type  siglip2                1",
        "kinds       one, two and three,   22",
        "            four of them",
    ]
    assert table(rows, "<<>") == table(rows, "<<>", width=200)
    assert max(columns_of(line) for line in table([("a" * 90, "猫" * 30)], "<<", width=100).split("\n")) <= 100


def test_a_word_that_is_too_long_is_cut() -> None:
    lines = table([("photos/" + "x" * 50, "0.9")], "<>", width=30).split("\n")
    assert [columns_of(line) for line in lines] == [30, 25, 7]
    assert lines[0].endswith("  0.9")
    assert "".join(line.split("  ")[0] for line in lines) == "photos/" + "x" * 50
    narrow = table([("猫" * 20, "1")], "<>", width=5).split("\n")  # no narrower than that
    assert [columns_of(line) for line in narrow] == [15, 12, 12, 4]


def test_tables_break_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert output.terminal_width() is None
    monkeypatch.setattr("sys.stdout", Terminal())
    assert output.terminal_width() == 40
    monkeypatch.setattr("sys.stdout", None)
    assert output.terminal_width() is None


def test_info_and_convert_fit_a_terminal(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in (["convert", model, tmp_path / "out"], ["info", tmp_path / "out"], ["info"]):
        monkeypatch.setattr("sys.stdout", shown := Terminal())
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert stop.value.code == 0
        rows = [line for line in shown.getvalue().splitlines() if "  " in line]
        assert max(map(columns_of, rows)) <= 80


class Terminal(io.StringIO):
    """Standard output that somebody watches."""

    def isatty(self) -> bool:
        return True
