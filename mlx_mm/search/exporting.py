"""All files with their vectors, as other programs read them."""

import json
import os
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from mlx_mm.checkpoint.atomic import as_name, new_file
from mlx_mm.checkpoint.vector_files import (
    as_utf8,
    check_vector_file,
    put_array,
    put_texts,
    put_vectors,
    pyarrow_modules,
)
from mlx_mm.errors import InputError, shown
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.filters import MOMENT
from mlx_mm.search.records import MediaKind
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import STORED

ROWS = 4096  # that are read and written at a time

# What each column holds: text, a whole number, a number, seconds of the wall clock since 1970, or several texts
COLUMNS = {
    "path": "text",
    "content": "text",
    "kind": "text",
    "taken_at": "time",
    "latitude": "number",
    "longitude": "number",
    "width": "whole",
    "height": "whole",
    "camera": "text",
    "tags": "texts",
    "space": "text",
    "part": "whole",
    "start": "number",
    "stop": "number",
}
Row = tuple[object, ...]  # in the order of COLUMNS


@dataclass
class Table:
    """Rows with their vectors, one for each part of each file. blocks: reads them anew at each call."""

    count: int
    dim: int
    blocks: Callable[[], Iterator[tuple[list[Row], Vectors]]]


def export(store: Store, out: str | Path, kind: MediaKind | None = None) -> int:
    r"""Write .npz, .jsonl or .parquet, by the ending; how many rows.

    A row is a picture, or a part of a sound or a video. Columns: path, content (the digest), kind, taken_at (by the
    camera's clock, or else when the file was changed), latitude, longitude, width, height, camera, tags, space (the
    model), part, start, stop (seconds), vector (float32, length 1). In .parquet, taken_at is a timestamp without a
    zone, tags a list, and a vector a list of fixed size; a name that is not UTF-8 has its bytes written as \x…. In .npz
    the vectors are an array `vectors`, tags are lines of one text, and what is not known is NaN, NaT, 0 or empty; a
    `path` that would take too much memory is stored as `embed` stores ids. A file there is replaced when all is
    written. kind: write only these files, where an index has vectors of several lengths.
    Raises OutputError for what cannot be written, InputError for vectors of several lengths.
    """
    path = as_name(out)
    check_vector_file(path)
    with store.reading() as rows:
        table = _table(rows, kind)
        with new_file(path) as new:
            WRITERS[path.suffix.lower()](new, table)
        return table.count


def vectors(store: Store, kind: MediaKind | None = None) -> tuple[list[str], Vectors]:
    """The paths and the vectors (N, dim) of those rows. Raises InputError for vectors of several lengths."""
    paths, found = list[str](), list[Vectors]()
    with store.reading() as rows:
        table = _table(rows, kind)
        for some, block in table.blocks():
            paths += [str(row[0]) for row in some]
            found.append(block)
    return paths, np.concatenate(found) if found else np.zeros((0, table.dim), np.float32)


def _table(rows: sqlite3.Connection, kind: MediaKind | None) -> Table:
    if kind is not None and kind not in get_args(MediaKind):
        raise InputError(f"kind is {shown(kind)}; expected one of {', '.join(get_args(MediaKind))}. Leave it out.")
    chosen, values = ("", ()) if kind is None else ("AND c.kind = ?", (kind,))
    tables = (
        "FROM files f JOIN contents c ON c.id = f.content JOIN roots r ON r.id = f.root "
        f"JOIN vectors v ON v.content = c.id JOIN spaces s ON s.id = v.space WHERE f.state = 'here' {chosen}"
    )
    found = rows.execute(f"SELECT s.dim, s.model, COUNT(*) {tables} GROUP BY s.id ORDER BY s.id", values).fetchall()
    if len({dim for dim, *_ in found}) > 1:
        names = ", ".join(f"{name} of {dim} numbers" for dim, name, _ in found)
        raise InputError(f"The index has vectors of {names}; expected one length. Export one kind of file (--kind).")
    columns = (
        f"r.path, f.path, lower(hex(c.digest)), c.kind, {MOMENT}, c.latitude, c.longitude, c.width, c.height, "
        "c.camera, (SELECT json_group_array(label) FROM (SELECT label FROM tags WHERE content = c.id ORDER BY label)), "
        "s.model, v.part, v.start, v.stop, v.vector"
    )

    def blocks() -> Iterator[tuple[list[Row], Vectors]]:
        cursor = rows.execute(f"SELECT {columns} {tables} ORDER BY f.id, s.id, v.part", values)
        while some := cursor.fetchmany(ROWS):
            vectors = np.frombuffer(b"".join(row[-1] for row in some), STORED).astype(np.float32)
            yield [(os.fsdecode(os.path.join(*row[:2])), *row[2:-1]) for row in some], vectors.reshape(len(some), -1)

    return Table(sum(count for *_, count in found), found[0][0] if found else 0, blocks)


def _write_jsonl(path: Path, table: Table) -> None:
    """What is not known is left out. Numbers have the nine digits that restore a float32 exactly."""
    with path.open("w", encoding="utf-8") as f:
        for some, vectors in table.blocks():
            for row, vector in zip(some, vectors, strict=True):
                named = {name: _plain(COLUMNS[name], value) for name, value in zip(COLUMNS, row, strict=True)}
                known: dict[str, object] = {name: value for name, value in named.items() if value is not None}
                known["vector"] = [float(f"{x:.9g}") for x in vector]
                f.write(json.dumps(known) + "\n")


def _plain(kind: str, value: object) -> object:
    if kind == "texts":
        return json.loads(str(value))
    return None if value is None else str(_times([value])[0]) if kind == "time" else value


def _times(values: list[object]) -> npt.NDArray[np.datetime64]:
    """Of the wall clock, to the second."""
    unknown = np.iinfo(np.int64).min  # NaT
    seconds = [unknown if value is None else int(float(str(value))) for value in values]
    return np.array(seconds, np.int64).view("datetime64[s]")


def _write_npz(path: Path, table: Table) -> None:
    columns: list[list[object]] = [[] for _ in COLUMNS]

    def blocks() -> Iterator[Vectors]:
        for some, vectors in table.blocks():
            for column, values in zip(columns, zip(*some, strict=True), strict=True):
                column.extend(values)
            yield vectors

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        put_vectors(file, "vectors", (table.count, table.dim), blocks())
        for (name, kind), values in zip(COLUMNS.items(), columns, strict=True):
            if kind in ("text", "texts"):
                texts = ["\n".join(json.loads(str(value))) if kind == "texts" else str(value or "") for value in values]
                put_texts(file, name, texts)
            elif kind == "time":
                put_array(file, name, _times(values))
            else:
                whole = kind == "whole"
                filled = [(0 if whole else np.nan) if value is None else value for value in values]
                put_array(file, name, np.array(filled, np.int64 if whole else np.float64))


def _write_parquet(path: Path, table: Table) -> None:
    pyarrow, parquet = pyarrow_modules()
    types = {
        "text": pyarrow.string(),
        "texts": pyarrow.list_(pyarrow.string()),
        "whole": pyarrow.int32(),
        "number": pyarrow.float64(),
        "time": pyarrow.timestamp("ms"),
    }
    fields = [pyarrow.field(name, types[kind]) for name, kind in COLUMNS.items()]
    vector = pyarrow.list_(pyarrow.float32(), table.dim)
    with parquet.ParquetWriter(path, pyarrow.schema([*fields, pyarrow.field("vector", vector)])) as writer:
        for some, vectors in table.blocks():
            arrays = []
            for (_, kind), values in zip(COLUMNS.items(), zip(*some, strict=True), strict=True):
                arrays.append(pyarrow.array(_for_parquet(kind, list(values)), types[kind]))
            arrays.append(pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), table.dim))
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=writer.schema))


def _for_parquet(kind: str, values: list[object]) -> object:
    if kind == "time":
        return _times(values).astype("datetime64[ms]")
    if kind == "texts":
        return [json.loads(str(value)) for value in values]
    if kind == "text":
        return [None if value is None else as_utf8(str(value)) for value in values]
    return values


WRITERS: dict[str, Callable[[Path, Table], None]] = {
    ".npz": _write_npz,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
