"""Tables that stay straight with wide characters, and the words around them."""

from __future__ import annotations

import json
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlx_mm import ConvertReport
from mlx_mm.cli import console
from mlx_mm.errors import MediaError
from mlx_mm.quantize.plan import LayerPlan
from mlx_mm.quantize.scheme import QuantConfig


def columns_of(text: str) -> int:
    """Terminal columns of the characters used here, written down by hand."""
    return sum({"猫": 2, "犬": 2, "고": 2, "양": 2, "이": 2, "Ａ": 2, "🐱": 2, "\u0301": 0}.get(c, 1) for c in text)


def test_columns_are_aligned_by_width_on_screen() -> None:
    words = ["cat", "猫", "고양이", "кот", "قطة", "Ａ", "🐱", "cafe\u0301", "é"]
    lines = console.table([(word, "|") for word in words], "<<").split("\n")
    assert [columns_of(line.split("|")[0]) for line in lines] == [6 + 2] * len(words)


def test_right_alignment() -> None:
    lines = console.table([("猫", "1"), ("cat", "1,000"), ("고양이", "22")], "<>").split("\n")
    assert lines == ["猫          1", "cat     1,000", "고양이     22"]
    assert {columns_of(line) for line in lines} == {13}


def test_marks_that_take_no_column() -> None:
    """Variation selectors, joiners and vowel signs are drawn over their neighbours."""
    plain = console.table([("❤", "|"), ("xxxx", "|")], "<<").split("\n")
    marked = console.table([("❤\ufe0e", "|"), ("xxxx", "|")], "<<").split("\n")
    assert marked[0].replace("\ufe0e", "") == plain[0]
    thai = console.table([("กิ", "|"), ("xxxx", "|")], "<<").split("\n")
    assert thai[0] == "กิ     |"


def test_no_spaces_at_the_end_of_a_line() -> None:
    assert console.table([("a", ""), ("bb", "c")], "<<") == "a\nbb  c"


def test_key_values() -> None:
    text = console.key_values(
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


def make_report(**changes: object) -> ConvertReport:
    four, eight = QuantConfig(4, 64), QuantConfig(8, 64)
    choices = [
        LayerPlan("text_model.layers.0.fc1", (1000, 64), four),
        LayerPlan("text_model.layers.1.fc1", (1000, 64), four),
        LayerPlan("text_model.embeddings.token_embedding", (300, 64), eight),
        LayerPlan("vision_model.embeddings.position_embedding", (16, 64), None, "the model keeps it exact"),
    ]
    values = {
        "out": Path("out"),
        "source_bytes": 4_860_000,
        "bytes": 1_234_567,
        "seconds": 1.26,
        "parameters": 1_148_224,
        "choices": choices,
        "padded": {"vision_config.intermediate_size": [4304, 4352]},
        "licence": "apache-2.0",
        "cosines": {"text": (0.99951, 0.98), "image": (0.997, 0.9)},
    }
    return ConvertReport(**{**values, **changes})  # type: ignore[arg-type]


def test_report_table() -> None:
    lines = console.report_table(make_report()).split("\n")
    assert [re.split("  +", line) for line in lines[:3]] == [
        ["text_model", "4 bit, group 64", "2 layers", "128,000 weights", "fc1"],
        ["text_model", "8 bit, group 64", "1 layer", "19,200 weights", "token_embedding"],
        ["vision_model", "kept, the model keeps it exact", "1 layer", "1,024 weights", "position_embedding"],
    ]
    assert lines[3:] == [
        "vision_config.intermediate_size 4304 -> 4352: zeros added so that the group size divides it; exact",
        "1,148,224 parameters, 4.9 MB -> 1.2 MB in 1.3 s",
        "text vectors against the source's: cosine 0.9995 on average, 0.9800 at the lowest",
        "image vectors against the source's: cosine 0.9970 on average, 0.9000 at the lowest",
        "licence of the weights: apache-2.0",
        "written to out",
    ]


def test_report_of_a_copy_without_licence() -> None:
    text = console.report_table(make_report(choices=[], padded={}, licence=None, cosines=None))
    assert text.startswith("nothing quantised\n")
    assert "licence of the weights: not named by the source" in text
    assert "None" not in text


def test_report_as_json() -> None:
    values = json.loads(json.dumps(console.report_as_dict(make_report())))
    assert values["out"] == "out"
    assert values["bytes"] == 1_234_567
    assert values["choices"][2] == {
        "path": "text_model.embeddings.token_embedding",
        "shape": [300, 64],
        "scheme": {"bits": 8, "group_size": 64, "mode": "affine"},
        "reason": "",
    }
    assert values["choices"][3]["scheme"] is None
    assert values["cosines"]["image"] == [0.997, 0.9]


SCORES = [("a.png", [("cat", 0.98765), ("猫", 0.5)]), ("b.png", [("dog", 0.00012)])]


def test_scores_table_names_a_file_once() -> None:
    assert console.scores_table(SCORES).split("\n") == [
        "a.png  cat  0.988",
        "       猫   0.500",
        "b.png  dog  0.000",
    ]


def test_scores_json() -> None:
    text = console.scores_json(SCORES)
    assert "猫" in text
    assert json.loads(text) == [
        {"id": "a.png", "labels": [{"label": "cat", "score": 0.98765}, {"label": "猫", "score": 0.5}]},
        {"id": "b.png", "labels": [{"label": "dog", "score": 0.00012}]},
    ]


def test_skipped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    skipped = console.Skipped()
    files = skipped.find([str(tmp_path), str(tmp_path / "missing.png")])
    assert files == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    callback = skipped.on_error(files)
    callback(1, MediaError(f"{files[1]} is empty"))  # names the file itself
    callback(0, MediaError("cannot be read"))
    assert skipped.remaining(files) == []
    assert skipped.count == 3
    skipped.report()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split("\n") == [
        f"warning: skipped {tmp_path}/missing.png: there is no such file",
        f"warning: skipped {files[1]} is empty",
        f"warning: skipped {files[0]}: cannot be read",
        "3 inputs skipped, see the warnings above",
        "",
    ]


def test_nothing_skipped_nothing_said(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = console.Skipped()
    skipped.report()
    assert skipped.remaining(["a", "b"]) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_one_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = console.Skipped()
    skipped.on_error(["a.png"])(0, MediaError("a.png is empty"))
    skipped.report()
    assert capsys.readouterr().err.endswith("1 input skipped, see the warnings above\n")


def test_warnings_as_notes(capsys: pytest.CaptureFixture[str]) -> None:
    """Each once, on one line, from threads too; what is not for users keeps its place in the code."""

    def work() -> None:
        for text in ("first", "first", "over\ntwo  lines"):
            warnings.warn(text, UserWarning, stacklevel=1)

    for _ in range(2):
        with console.warnings_as_notes():
            work()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(work).result()
        assert capsys.readouterr() == ("", "warning: first\nwarning: over two lines\n")
    with pytest.warns(RuntimeWarning, match="not for users"), console.warnings_as_notes():
        warnings.warn("not for users", RuntimeWarning, stacklevel=1)
    with pytest.raises(UserWarning):  # pytest's own filters are back
        work()
