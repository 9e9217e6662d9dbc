"""Names and tags as words: what is typed finds them, and is no syntax."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from mlx_mm.search import schema, words

NAMES = [
    "2023/IMG_2041.jpg",
    "Müller/am Strand.png",
    "猫の写真.jpg",
    "a b OR c.txt",
    "dog's.png",
    "cafe\u0301 noir.jpg",
    "\udcff\udcc3.jpg",
    "catalogue.jpg",
]


@pytest.fixture
def rows() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.create(connection)
    for number, name in enumerate(NAMES):
        words.put(connection, number, name, ["receipt", "zwei Wörter"] if number == 1 else [])
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("IMG_2041", [0]),
        ("img_20", [0]),
        ("2023 img_2041.JPG", [0]),
        ("strand muller", [1]),
        ("Receipt", [1]),
        ("worter", [1]),
        ("猫", [2]),
        ("OR", [3]),
        ("a OR b", [3]),
        ("a AND b", []),
        ("dog's", [4]),
        ("café", [5]),
        ("cafe", [5]),
        ("strand NOT muller", []),
        ("path:strand", []),
        ("str*", []),
        ('"', []),
        ('"strand', [1]),
        ("NEAR(a b)", []),
        ("- ( ) ^ * :", []),
        ("\0", []),
        ("word " * 40, []),
    ],
)
def test_what_is_typed_is_words_and_no_syntax(rows: sqlite3.Connection, text: str, found: list[int]) -> None:
    assert words.find(rows, text) == found


def test_a_plain_word_finds_no_longer_ones(rows: sqlite3.Connection) -> None:
    """Or each picture of a "catalogue" would be held to fit "cat"."""
    assert words.find(rows, "cat") == []
    assert words.find(rows, "catalogue") == [7]
    assert words.find(rows, "cat.") == []


def test_tags_are_replaced_and_rows_taken_away(rows: sqlite3.Connection) -> None:
    words.put_tags(rows, 1, ["invoice"])
    assert words.find(rows, "receipt") == []
    assert words.find(rows, "invoice strand") == [1]
    words.put(rows, 1, "elsewhere.png", [])
    assert words.find(rows, "strand") == words.find(rows, "invoice") == []
    words.take_away(rows, 1)
    assert words.find(rows, "elsewhere") == []


def test_a_tag_counts_more_than_a_name(rows: sqlite3.Connection) -> None:
    words.put(rows, 20, "beach.jpg", [])
    words.put(rows, 21, "another.jpg", ["beach"])
    assert words.find(rows, "beach") == [21, 20]
