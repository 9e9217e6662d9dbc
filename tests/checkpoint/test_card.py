"""The README.md of a converted checkpoint, and the licence read from that of its source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_mm import convert
from mlx_mm.checkpoint import card

SOURCE_CARD = """---
license: cc-by-nc-4.0
license_link: "https://example.org/licence"
language:
- en
- de
pipeline_tag: zero-shot-image-classification
tags: [vision]
---

# A model

license: not this line
"""


SIZES = 5_040_000, 1_416_000  # bytes before and after


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: 'mit'\n---\ntext", "mit"),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: mit\nlicense_name: gemma\n---\n", "mit"),
        (SOURCE_CARD, "cc-by-nc-4.0"),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_licence(tmp_path: Path, text: str, expected: str | None) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert card.read_licence(tmp_path) == expected


def test_licence_without_a_card(tmp_path: Path) -> None:
    assert card.read_licence(tmp_path) is None


def test_a_card_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nauthor: \xe4\nlicense: mit\n---\n")
    assert card.read_licence(tmp_path) == "mit"


def test_front_matter(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(SOURCE_CARD)
    values = card.front_matter(tmp_path)
    assert values["license_link"] == "https://example.org/licence"
    assert values["pipeline_tag"] == "zero-shot-image-classification"
    assert "language" not in values


def test_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(SOURCE_CARD)
    text = card.write_card("photos-4bit", "owner/name", tmp_path, "to 4 bit, group size 32", SIZES)
    head = text.split("---\n")[1].splitlines()
    assert head == [
        "library_name: mlx",
        "base_model: owner/name",
        "license: cc-by-nc-4.0",
        "license_link: https://example.org/licence",
    ]
    assert text.startswith("---\n")
    assert "\n# photos-4bit\n" in text
    assert "owner/name" in text.split("---\n")[2]
    assert "to 4 bit, group size 32: 5.0 MB became 1.4 MB" in text
    assert "Licence of the weights: cc-by-nc-4.0." in text
    assert "lost" not in text


def test_card_of_a_folder_names_no_path_of_this_machine(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("siglip2").rename(tmp_path / "my-model")
    convert(folder, tmp_path / "out", bits=None)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: my-model\n" in text
    assert str(tmp_path) not in text
    assert "without quantisation" in text
    assert "not named by the source" in text
    assert "None" not in text


def test_card_with_what_was_lost(tmp_path: Path) -> None:
    text = card.write_card("photos-8bit", "owner/name", tmp_path, "to 8 bit, group size 64", SIZES, "| a | table |")
    assert "\n## What this lost\n" in text
    assert text.endswith("\n\n| a | table |\n")


def test_a_converted_folder_keeps_the_licence(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    source = tiny_checkpoint("siglip2")
    (source / "README.md").write_text(SOURCE_CARD)
    report = convert(source, tmp_path / "out")
    assert report.licence == "cc-by-nc-4.0"
    assert card.read_licence(tmp_path / "out") == "cc-by-nc-4.0"
    assert card.front_matter(tmp_path / "out")["base_model"] == source.name
    again = convert(convert(source, tmp_path / "float", bits=None).out, tmp_path / "again")
    assert again.licence == "cc-by-nc-4.0"


def test_a_source_without_a_licence_has_the_familys(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    """Every MetaCLIP 2 checkpoint is for non-commercial use, and so is what is made of it."""
    source = tiny_checkpoint("metaclip_2")
    assert convert(source, tmp_path / "out").licence == "cc-by-nc-4.0"
    text = (tmp_path / "out" / "README.md").read_text()
    assert "\nlicense: cc-by-nc-4.0\n" in text.split("---\n")[1]
    assert "cc-by-nc-4.0, that of the published checkpoints" in text
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    assert convert(source, tmp_path / "own").licence == "mit"
    assert card.read_licence(tmp_path / "own") == "mit"
    assert "cc-by-nc" not in (tmp_path / "own" / "README.md").read_text()
    assert convert(tiny_checkpoint("clip"), tmp_path / "clip").licence is None
