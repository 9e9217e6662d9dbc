"""How hits, sizes, times and groups are written."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from mlx_mm.cli.dups import groups_text
from mlx_mm.cli.hits import dots, hits_table, summary
from mlx_mm.cli.index import check_lines
from mlx_mm.cli.index import summary as refresh_summary
from mlx_mm.cli.indexes import clock, duration, shown_bytes, shown_path, shown_seconds
from mlx_mm.search.records import CheckReport, Copy, Group, Hit, Hits, RefreshReport


def hit(path: str, score: float | None, *, strong: bool = True, **more: object) -> Hit:
    return Hit(path, score, 3.0, strong, "image", "00" * 16, **more)  # type: ignore[arg-type]


def test_a_table_of_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = Hits(
        [
            hit("/home/me/a.jpg", 0.25, taken_at="2023-07-14T12:00:00", copies=("/b.jpg",)),
            hit("/else/where\n\udcff.jpg", 0.2),
            hit("/home/me/raid.wav", 0.15, start=192.0, stop=202.5),
            hit("/home/me/c.jpg", 0.1, strong=False),
        ]
    )
    assert hits_table(found).splitlines() == [
        "#  match  score  when        file",
        "1  ●●●●●  0.250  2023-07-14  ~/a.jpg  (+1)",
        r"2  ●●●●○  0.200              /else/where\n\xff.jpg",
        "3  ●●●○○  0.150              ~/raid.wav  3:12-3:22",
        "4  ●●○○○  0.100              ~/c.jpg",
    ]
    filtered = Hits([hit("/a.jpg", None, taken_at="2023-07-14")])
    assert hits_table(filtered).splitlines() == ["#  when        file", "1  2023-07-14  /a.jpg"]
    assert max(map(len, hits_table(found, 44).splitlines())) <= 44


def test_dots_keep_strong_and_weak_apart() -> None:
    found = Hits([hit("/s", 0.1), *(hit("/w", score, strong=False) for score in (0.9, 0.5, 0.0))])
    assert [dots(one, found).count("●") for one in found] == [5, 2, 2, 1]
    assert dots(hit("/named", None), found) == "name"


@pytest.mark.parametrize(
    ("found", "shown_all", "line"),
    [
        (Hits([hit("/a", 1.0)], strong=1, weaker=0), False, "1 strong match"),
        (Hits([hit("/a", 1.0)] * 2, strong=2, weaker=4310), False, "2 strong matches; 4,310 weaker ones (--all)"),
        (Hits([hit("/a", 1.0)], strong=9, weaker=0), False, "9 strong matches, the best 1 shown (--top)"),
        (Hits(strong=0, weaker=1), False, 'nothing fits "x"; --all shows 1 weaker one'),
        (Hits([hit("/a", 0.0, strong=False)], strong=0, weaker=3), True, 'nothing fits "x"; 3 weaker ones above'),
        (Hits(), False, 'nothing fits "x"; there was no file to compare with it'),
        (Hits([hit("/a", None)], strong=1), False, "1 file"),
        (Hits([hit("/a", None)], strong=1_200), False, "1,200 files, 1 shown (--top)"),
    ],
)
def test_the_line_below(found: Hits, shown_all: bool, line: str) -> None:
    assert summary(found, '"x"', show_all=shown_all) == line


def test_a_refresh_in_a_line() -> None:
    much = RefreshReport(12431, 812, 3, 40, 2, 5, 812, {"/x": "empty"}, {"videos": 3}, 63.2)
    assert refresh_summary(much) == (
        "12,431 files | 812 new, 3 changed, 40 moved, 2 copied, 5 missing, 1 unreadable | left out: videos: 3 | "
        "812 through the model in 1 min 3 s (12.8/s)"
    )
    assert refresh_summary(RefreshReport(files=1, seconds=0.04)) == "1 file | nothing new | 0.0 s"
    assert refresh_summary(RefreshReport(failed={"/x": ""})) == "0 files | nothing new, 1 unreadable | 0.0 s"


def test_a_check_in_lines() -> None:
    assert check_lines(CheckReport((), (), {"files": 3}), False) == "all is well: files 3"
    bad = CheckReport(("a\x1bb",), ("c",), left=("a\x1bb",))
    assert check_lines(bad, False).splitlines()[:2] == ["repaired: c", r"problem: a\x1bb"]
    assert "--repair" in check_lines(bad, False).splitlines()[2]
    assert check_lines(bad, True).splitlines()[2] == "not all is mended"
    assert check_lines(CheckReport(("a",), ("c",)), True).splitlines()[2] == "all is well"


def test_groups_of_duplicates() -> None:
    group = Group("same", (Copy("/a.png", "aa", 3_100_000, 4000, 3000), Copy("/b.jpg", "bb", 410_000, 800, 600)), 0.99)
    assert groups_text([group], "same").splitlines() == [
        "2 files show the same picture, cosine 0.990 or more",
        "  keep  4000 x 3000  3.1 MB  /a.png",
        "          800 x 600  410 kB  /b.jpg",
        "",
        "1 group; 1 copy beside those to keep, 410 kB. Nothing was deleted.",
    ]
    assert groups_text([], "similar") == "no files are similar"


def test_quantities() -> None:
    assert [shown_bytes(n) for n in (0, 999, 999.6, 99_950, 3_100_000, 2.5e12, 9e15)] == (
        ["0 B", "999 B", "1.0 kB", "100 kB", "3.1 MB", "2.5 TB", "9,000 TB"]
    )
    assert [shown_seconds(s) for s in (0.04, 59.4, 59.6, 3599, 7500)] == (
        ["0.0 s", "59.4 s", "1 min 0 s", "59 min 59 s", "2 h 5 min"]
    )
    assert [clock(s) for s in (0, 7.9, 192, 3723)] == ["0:00", "0:07", "3:12", "1:02:03"]
    assert [duration(text) for text in ("90", "90s", "1.5m", "2h", "1d")] == [90, 90, 90, 7200, 86400]


@pytest.mark.parametrize("text", ["", "soon", "-3s", "0", "5w", "1e3", "nan"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a time"):
        duration(text)


def test_paths_below_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert shown_path(Path("/home/me/a")) == "~/a"
    assert shown_path("/home/melissa/a") == "/home/melissa/a"
    assert shown_path(os.fsdecode(b"/home/me/\xff")) == "~/\udcff"
    monkeypatch.setenv("HOME", "/")
    assert shown_path("/etc") == "/etc"
