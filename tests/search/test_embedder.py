"""Files made into Parquet elsewhere, by any engine: the same index as that of one run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import age, pictures, sound
from merged import held

from mlx_mm import Index
from mlx_mm.errors import InputError, OtherModelError
from mlx_mm.search.embedder import Embedder
from mlx_mm.search.scanning import scan

parquet = pytest.importorskip("pyarrow.parquet", reason="pip install '.[parquet]'")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine files, two of them alike, one damaged, and one that is no picture at all."""
    folder = pictures(tmp_path / "photos", 7)
    (folder / "deep").mkdir()
    shutil.copy2(folder / "0.png", folder / "deep" / "again.png")
    for name in ("broken.jpg", "notes.txt"):
        (folder / name).write_bytes(b"none")
        age(folder / name)
    return folder


Whole = Callable[..., Path]


@pytest.fixture
def whole(tmp_path: Path) -> Whole:
    """`whole(folder, model)`: the index that one run makes."""

    def make(folder: Path, model: Path) -> Path:
        with Index(tmp_path / "whole.mmindex", str(model)) as index:
            index.refresh(folder)
        return tmp_path / "whole.mmindex"

    return make


def paths_of(folder: Path) -> list[bytes]:
    """As the example lists them."""
    return [
        os.path.join(os.fsencode(folder), name)
        for name in scan(os.fsencode(folder), (), videos=False, seen=set()).files
    ]


def write(out: Path, *tables: Any) -> Path:
    """A folder of Parquet."""
    out.mkdir()
    for number, table in enumerate(tables):
        parquet.write_table(table, out / f"{number}.parquet")
    return out


def test_batches_become_the_index_of_one_run(photos: Path, tiny_model: Path, whole: Whole, tmp_path: Path) -> None:
    embedder, paths = Embedder(str(tiny_model), str(photos)), paths_of(photos)
    parts = write(tmp_path / "parts", embedder({"path": paths[:4]}), embedder({"path": paths[4:]}))
    with Index(tmp_path / "all.mmindex") as index:
        report = index.merge(parts)
        assert (report.parts, report.files, report.contents) == (1, 9, 7)
        assert held(tmp_path / "all.mmindex") == held(whole(photos, tiny_model))
        assert index.merge([*parts.glob("*"), parts]).files == 0
        assert index.check().problems == ()
        assert index.refresh().encoded == 0
    assert len(list((tmp_path / "all.mmindex" / "thumbs").glob("*/*"))) == 7


def test_sounds(hearing_model: Path, whole: Whole, tmp_path: Path) -> None:
    folder = sound(tmp_path / "sounds" / "long.wav", 21.0).parent
    out = write(tmp_path / "parts", Embedder(str(hearing_model), str(folder))({"path": paths_of(folder)}))
    with Index(tmp_path / "all.mmindex") as index:
        index.merge(out)
    assert held(tmp_path / "all.mmindex") == held(whole(folder, hearing_model))


def test_what_was_fetched(photos: Path, tiny_model: Path, whole: Whole, tmp_path: Path) -> None:
    embedder = Embedder(str(tiny_model), "s3://bucket/holidays/")
    names = [str(path.relative_to(photos)) for path in sorted(photos.rglob("*")) if path.is_file()]
    batch = {
        "path": [f"bucket/holidays/{name}" for name in names],  # as Ray Data names them
        "bytes": [(photos / name).read_bytes() for name in names],
    }
    with Index(tmp_path / "all.mmindex") as index:
        index.merge(write(tmp_path / "parts", embedder(batch)))
        assert index.search(like=str(photos / "3.png"))[0].path == "s3://bucket/holidays/3.png"
    found = held(tmp_path / "all.mmindex")
    assert found[1] == held(whole(photos, tiny_model))[1]
    assert {row[4] for row in found[2]} == {0}


@pytest.mark.parametrize("name", ["/elsewhere/a.png", "{}/../a.png", "{}"])
def test_files_that_are_not_below(photos: Path, tiny_model: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected a file that is"):
        Embedder(str(tiny_model), str(photos))({"path": [name.format(photos)]})


def test_parts_that_are_none(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    table: Any = Embedder(str(tiny_model), str(photos))({"path": paths_of(photos)})
    out = write(tmp_path / "parts", table)
    (out / "half.parquet").write_bytes((out / "0.parquet").read_bytes()[:-9])
    lacking = write(tmp_path / "lacking", table.drop_columns(["digest"]))
    with Index(tmp_path / "all.mmindex") as index:
        with pytest.raises(InputError, match="cannot be read as a part"):
            index.merge(out)
        with pytest.raises(InputError, match="has no column 'digest'"):
            index.merge(lacking)
    assert not (tmp_path / "all.mmindex").exists()
    with Index(tmp_path / "other.mmindex", "emoji-siglip2") as index:
        index.refresh(photos)
        with pytest.raises(OtherModelError, match="expected the same model"):
            index.merge(out / "0.parquet")
