"""An index as other programs read it: the same rows in each kind of file, all of them or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from indexed import Item, random_vectors, write_index

from mlx_mm import Index
from mlx_mm.errors import InputError, OutputError

VECTORS = random_vectors(4).astype(np.float16).astype(np.float32)
ITEMS = [
    Item(("a.jpg", "copy.jpg"), VECTORS[0], taken_at=1e9, place=(52.5, 13.25), camera="Ä 1", tags=("x", "b, c")),
    Item(("b.wav",), VECTORS[1:3], spans=[(0.0, 10.0), (10.0, 12.5)], kind="audio", pixels=None),
    Item((b"odd\xff\n.png",), VECTORS[3], taken_at=-1.0),
    Item(("gone.jpg",), VECTORS[3], state="missing"),
    Item(("without.jpg",), None),
]
ENDINGS = [".npz", ".jsonl", ".parquet"]


def read(path: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Rows and vectors of a written file; what is not known is left out."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    elif path.suffix == ".npz":
        with np.load(path) as file:
            names = [name for name in file if name != "vectors"]
            rows = [
                dict(zip(names, values, strict=True)) for values in zip(*(file[name] for name in names), strict=True)
            ]
            rows = [{name: value.item() for name, value in row.items()} for row in rows]
            for row, vector in zip(rows, file["vectors"], strict=True):
                row |= {"vector": vector, "tags": row["tags"].split("\n") if row["tags"] else []}
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[128]"
        assert str(table.schema.field("taken_at").type) == "timestamp[ms]"
        rows = table.to_pylist()
    for row in rows:
        if not isinstance(row["taken_at"], str):
            row["taken_at"] = row["taken_at"].isoformat()
    return rows, np.array([row.pop("vector") for row in rows], np.float32)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    write_index(tmp_path / "a.mmindex", "/p", ITEMS)
    return Index(tmp_path / "a.mmindex")


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_and_vectors_come_back(tmp_path: Path, index: Index, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"out{ending}"
    out.write_text("old")
    assert index.export(out) == 5
    rows, vectors = read(out)
    assert np.array_equal(vectors, VECTORS[[0, 0, 1, 2, 3]]) or np.abs(vectors - VECTORS[[0, 0, 1, 2, 3]]).max() < 2e-4
    odd = "/p/odd\\xff\n.png" if ending == ".parquet" else os.fsdecode(b"/p/odd\xff\n.png")
    assert [row["path"] for row in rows] == ["/p/a.jpg", "/p/copy.jpg", "/p/b.wav", "/p/b.wav", odd]
    assert [row["taken_at"] for row in rows[:2]] == ["2001-09-09T01:46:40"] * 2
    assert rows[4]["taken_at"] == "1969-12-31T23:59:59"
    assert [row["part"] for row in rows] == [0, 0, 0, 1, 0]
    assert rows[3]["stop"] == 12.5
    assert rows[0]["content"] == rows[1]["content"] != rows[2]["content"]
    assert {name: rows[0][name] for name in ("kind", "latitude", "longitude", "width", "height", "camera")} == {
        "kind": "image",
        "latitude": 52.5,
        "longitude": 13.25,
        "width": 100,
        "height": 80,
        "camera": "Ä 1",
    }
    assert rows[0]["tags"] == ["b, c", "x"]
    assert rows[2]["tags"] == []
    assert rows[0]["space"] == "emoji-siglip2"
    assert not rows[2].get("width")
    assert out.stat().st_mode & 0o777 == 0o644
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "a.mmindex"}


def test_vectors_in_memory(index: Index) -> None:
    paths, vectors = index.vectors()
    assert paths == ["/p/a.jpg", "/p/copy.jpg", "/p/b.wav", "/p/b.wav", os.fsdecode(b"/p/odd\xff\n.png")]
    assert np.array_equal(vectors, VECTORS[[0, 0, 1, 2, 3]])
    paths, vectors = index.vectors(kind="audio")
    assert paths == ["/p/b.wav"] * 2
    assert np.array_equal(vectors, VECTORS[1:3])
    with pytest.raises(InputError, match="expected one of image, audio, video"):
        index.vectors(kind="pictures")  # type: ignore[arg-type]


def test_one_kind_can_be_written(tmp_path: Path, index: Index) -> None:
    assert index.export(tmp_path / "a.jsonl", kind="audio") == 2
    assert {row["kind"] for row in read(tmp_path / "a.jsonl")[0]} == {"audio"}
    with pytest.raises(InputError, match="kind is 'text'"):
        index.export(tmp_path / "a.jsonl", kind="text")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["out.csv", "out", "missing/out.npz", "a.mmindex", ""])
def test_what_cannot_be_written_is_refused(tmp_path: Path, index: Index, name: str) -> None:
    with pytest.raises(OutputError):
        index.export(tmp_path / name)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_index_is_an_empty_file(tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    write_index(tmp_path / "a.mmindex", "/p", [])
    with Index(tmp_path / "a.mmindex") as index:
        assert index.export(tmp_path / f"out{ending}") == 0
    assert (tmp_path / f"out{ending}").exists()


def test_a_failure_leaves_what_was_there(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OutputError, match="No space left"):
        index.export(out)
    assert out.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "a.mmindex"}
