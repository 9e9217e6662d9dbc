"""Tables that stay straight with wide characters."""

from __future__ import annotations

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
