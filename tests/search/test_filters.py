"""Filters: what passes by date, place, camera, kind, folder, tag and name, and what can pass nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from indexed import Item, write_index

from mlx_mm import Index, Where
from mlx_mm.errors import InputError
from mlx_mm.search.filters import metres_between

DAY = 86400.0
BERLIN, POTSDAM = (52.5163, 13.3777), (52.4009, 13.0591)

ITEMS = [
    Item(("2023/a.jpg",), taken_at=19539 * DAY + 3600 * 18, place=BERLIN, camera="Fabrik Ä 15 pro"),  # 2023-07-01
    Item(("2023/b.jpg", "copies/Ort_b.jpg"), taken_at=19539 * DAY + DAY - 1, place=POTSDAM, camera="iPhone 15"),
    Item(("2024/c.png",), taken_at=19723 * DAY, tags=("Straße",)),  # 2024-01-01
    Item(("2024/d.wav",), kind="audio", changed=19723 * DAY + 40_000.0),
    Item(("2024x/e.jpg",), taken_at=None, changed=10_000 * DAY + 40_000.0, place=(0.0, 179.9)),  # 1997-05-19
    Item((b"odd/f\xff.jpg", "odd/fu\u0308r.jpg"), changed=10_000 * DAY + 40_000.0),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    path = tmp_path_factory.mktemp("filters") / "a.mmindex"
    write_index(path, "/photos", ITEMS)
    return Index(path)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (Where(since="2023", until="2023"), "ab"),
        (Where(since="2023-07-01T18:00", until="2023-07"), "ab"),
        (Where(since="2023-07-01T18:00:01"), "bcd"),
        (Where(until="2023-07-01T18"), "aef"),
        (Where(until="2023-07-01T23:59:58"), "aef"),
        (Where(since="2023-07-01 23:59:59", until="2023-12-31"), "b"),
        (Where(since="1997-05-19", until="1997-05-19"), "ef"),
        (Where(since="9999"), ""),
        (Where(until="9999-12-31"), "abcdef"),
        (Where(near=(*BERLIN, 1.0)), "a"),
        (Where(near=(*BERLIN, 20_000)), "a"),
        (Where(near=(*BERLIN, 30_000)), "ab"),
        (Where(near=(0.0, -179.9, 30_000)), "e"),
        (Where(near=(90, 0, 21_000_000)), "abe"),
        (Where(camera="fabrik ä"), "a"),
        (Where(camera="15"), "ab"),
        (Where(camera="%"), ""),
        (Where(kind="audio"), "d"),
        (Where(kind="video"), ""),
        (Where(folder="/photos/2024"), "cd"),
        (Where(folder="/photos/2024/"), "cd"),
        (Where(folder=Path("2024")), "cd"),
        (Where(folder="/"), "abcdef"),
        (Where(folder="/photos"), "abcdef"),
        (Where(folder="/photos/copies"), "b"),
        (Where(folder="/photos/copies/.."), "abcdef"),
        (Where(folder="2"), ""),
        (Where(folder="2024/../odd"), "f"),
        (Where(tag="strasse"), "c"),
        (Where(tag="stra"), ""),
        (Where(name="ORT_"), "b"),
        (Where(name="für"), "f"),
        (Where(name="2024/"), "cd"),
        (Where(name="\udcff"), "f"),
        (Where(tag="\udcff"), ""),
        (Where(folder=os.fsdecode(b"/photos/odd\xff")), ""),
        (Where(kind="image", since="2024", tag="Straße", name=".png"), "c"),
    ],
)
def test_what_passes(index: Index, where: Where, found: str) -> None:
    hits = index.search(where=where)
    letters = {os.path.basename(path).removeprefix("Ort_")[0] for hit in hits for path in (hit.path, *hit.copies)}
    assert letters == set(found)
    assert len(hits) == len(found)


def test_a_file_without_a_camera_has_the_date_of_the_clock_on_the_wall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # 9 hours before UTC
    time.tzset()
    try:
        write_index(tmp_path / "a.mmindex", "/p", [Item(("a.jpg",), changed=10_000 * DAY + 20 * 3600)])
        with Index(tmp_path / "a.mmindex") as index:
            assert [hit.taken_at for hit in index.search(where=Where(since="1997-05-20"))] == ["1997-05-20T05:00:00"]
            assert index.search(where=Where(until="1997-05-19")) == []
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_path_that_passes_stands_for_its_content(index: Index) -> None:
    hit = index.search(where=Where(folder="/photos/copies"))[0]
    assert (hit.path, hit.copies) == ("/photos/copies/Ort_b.jpg", ("/photos/2023/b.jpg",))


@pytest.mark.parametrize(
    "where",
    [
        Where(since="2023-13"),
        Where(since="2023-02-30"),
        Where(since="2023-7"),
        Where(since="0000"),
        Where(since="yesterday"),
        Where(since=""),
        Where(since="2023-07-01T24"),
        Where(since=2023),  # type: ignore[arg-type]
        Where(since="2024", until="2023-12-31"),
        Where(near=(91, 0, 10)),
        Where(near=(0, 181, 10)),
        Where(near=(0, 0, -1)),
        Where(near=(0, 0, 0)),
        Where(near=(float("nan"), 0, 10)),
        Where(near=(0, 0, float("inf"))),
        Where(near=(0, 0, 10**400)),
        "2023",  # type: ignore[list-item]
        Where(near=(0, 0)),  # type: ignore[arg-type]
        Where(near="Berlin"),  # type: ignore[arg-type]
        Where(kind="text"),  # type: ignore[arg-type]
        Where(tag=" "),
        Where(name=""),
        Where(camera="a\0b"),
        Where(folder=""),
        Where(folder="/elsewhere"),
    ],
)
def test_what_nothing_can_pass_is_refused(index: Index, where: Where) -> None:
    with pytest.raises(InputError) as found:
        index.search(where=where)
    assert "expected" in str(found.value)
    assert "\n" not in str(found.value)


def test_distances_are_those_of_the_earth() -> None:
    assert metres_between(BERLIN, POTSDAM) == pytest.approx(25_050, rel=0.01)
    assert metres_between((0, 0), (0, 1)) == pytest.approx(111_195, rel=1e-4)  # a degree of the equator of a sphere
    assert metres_between((0, 179.9), (0, -179.9)) == pytest.approx(22_239, rel=1e-3)
    assert metres_between((90, 0), (-90, 0)) == pytest.approx(20_015_115, rel=1e-4)
