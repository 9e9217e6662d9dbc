"""Shares of files: each in one, whatever system names it; and indexes that remember theirs."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from folders import Library, Spy, pictures

from mlx_mm.errors import InputError
from mlx_mm.search.sharding import Shard


def test_each_name_is_in_one_shard() -> None:
    names = [f"2023/IMG_{number}.jpg" for number in range(3000)]
    counts = [sum(Shard(number, 3).has(name) for name in names) for number in (1, 2, 3)]
    assert sum(counts) == 3000
    assert min(counts) > 900
    assert all(sum(Shard(number, 7).has(name) for number in range(1, 8)) == 1 for name in names[:200])
    # Another number here, and shards that are repeated would have other files.
    assert [name for name in names[:10] if Shard(1, 3).has(name)] == FIRST


FIRST = [f"2023/IMG_{number}.jpg" for number in (1, 3, 5, 7, 8, 9)]


@pytest.mark.parametrize("name", ["Rügen/Möwe.jpg", "한국.png"])
def test_names_of_macos_are_those_of_linux(name: str) -> None:
    spelt = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    assert spelt[0] != spelt[1]
    for number in range(1, 6):
        assert len({Shard(number, 5).has(one) for one in (*spelt, *map(str.encode, spelt))}) == 1


def test_names_that_are_no_utf8() -> None:
    raw = b"bad-\xff.png"
    found = [number for number in range(1, 4) if Shard(number, 3).has(raw)]
    assert found == [number for number in range(1, 4) if Shard(number, 3).has(raw.decode("utf-8", "surrogateescape"))]
    assert len(found) == 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1.5/3", ""])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="expected I/N with I from 1 to N"):
        Shard.parse(text)


def test_an_index_remembers_its_shard(library: Library, spy: Spy) -> None:
    pictures(library.photos, 20)
    mine = {f"photos/{number}.png" for number in range(20) if Shard(1, 2).has(f"{number}.png")}
    assert 0 < len(mine) < 20
    assert library.refresh(library.photos, shard=Shard(1, 2))["new"] == len(mine)
    assert library.files() == mine
    assert spy.taken() == len(mine)
    assert library.refresh() == {}
    assert library.refresh(library.photos, shard=Shard(1, 2)) == {}
    with pytest.raises(InputError, match="holds shard 1/2; expected shard 2/2"):
        library.refresh(library.photos, shard=Shard(2, 2))
    assert library.files() == mine


def test_an_index_of_all_becomes_no_shard(library: Library) -> None:
    pictures(library.photos, 3)
    library.refresh(library.photos)
    with pytest.raises(InputError, match="holds all files; expected shard 1/2"):
        library.refresh(shard=Shard(1, 2))
    assert len(library.files()) == 3


def test_a_shard_without_files(library: Library, tmp_path: Path) -> None:
    pictures(library.photos, 1)
    shards = [Shard(1, 2), Shard(2, 2)]
    empty = next(shard for shard in shards if not shard.has("0.png"))
    assert library.refresh(library.photos, shard=empty) == {}
    assert [row[0] for row in library.query("SELECT count(*) FROM spaces")] == [1]
