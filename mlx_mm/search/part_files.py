"""Parquet files of files with their vectors, as `Embedder` makes them on any machine: parts that a merge takes.

A row is a file, so that no file is ever half there. What is not known is null; of a file that could not be read, only
where it lies and why are known.
"""

import base64
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from mlx_mm.checkpoint.vector_files import pyarrow_modules
from mlx_mm.errors import InputError, foreign
from mlx_mm.search.parts import ContentRow, FileRow, RootRow, Span, Vectored
from mlx_mm.search.sharding import Shard
from mlx_mm.search.spaces import SpaceRow
from mlx_mm.search.writing import FACTS

ENDING = ".parquet"
AT_ONCE = 1024  # rows that are read

# root: the folder that a path is below of, and the device that it is on. space: the model, as JSON. vectors: those of
# all parts, one after another, as little-endian float16; spans: start and stop of each, or none. The rest is that of
# the tables of an index; thumbnail: a JPEG.
COLUMNS = {
    **{"root": "binary", "root_device": "int64", "path": "binary", "mtime_ns": "int64", "device": "int64"},
    **{"inode": "int64", "error": "string", "space": "string", "vectors": "binary", "spans": "float64s"},
    **{"thumbnail": "binary", "digest": "binary", "kind": "string", "size": "int64", "width": "int64"},
    **{"height": "int64", "seconds": "float64", "dhash": "int64", "taken_at": "float64", "latitude": "float64"},
    **{"longitude": "float64", "camera": "string"},
}
Row: TypeAlias = Mapping[str, object]


def table_of(rows: Sequence[Row]) -> object:
    """A table of pyarrow with COLUMNS."""
    pyarrow, _ = pyarrow_modules()
    types = {kind: pyarrow.type_for_alias(kind) for kind in set(COLUMNS.values()) - {"float64s"}}
    types["float64s"] = pyarrow.list_(pyarrow.float64())
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    return pyarrow.Table.from_pylist([dict(row) for row in rows], schema=schema)


def space_text(row: SpaceRow) -> str:
    """As the column `space` has it."""
    return json.dumps(row._asdict() | {"canary": base64.b64encode(row.canary).decode()}, sort_keys=True)


def is_part_file(path: Path) -> bool:
    """Whether it is such a file, or a folder of them, by the endings of names."""
    if path.suffix.lower() == ENDING and not path.is_dir():
        return True
    return path.is_dir() and any(path.glob(f"*{ENDING}"))


@contextlib.contextmanager
def open_part_files(path: Path) -> Iterator["PartFiles"]:
    """Raises InputError for what is no such file, or damaged."""
    files = sorted(path.glob(f"*{ENDING}")) if path.is_dir() else [path]
    with foreign(InputError, f"{path} cannot be read as a part", "expected Parquet of Embedder. Make it again."):
        yield PartFiles(str(path), files)


class PartFiles:
    """Such files as one part. name: of the file, or of the folder."""

    def __init__(self, name: str, files: Sequence[Path]):
        self.name = name
        self.shard: Shard | None = None
        self._paths = files
        self.files_count = 0
        self._spaces: dict[str, SpaceRow] = {}
        self._roots: dict[bytes, RootRow] = {}
        for path in files:
            self._look(path)

    def _look(self, path: Path) -> None:
        """What the files say of themselves, before anything is taken of them."""
        _, parquet = pyarrow_modules()
        with parquet.ParquetFile(path) as file:
            lacking = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if lacking:
                raise InputError(
                    f"{path} has no column {lacking[0]!r}; expected those that Embedder writes (`export` writes for "
                    "other programs). Name a part."
                )
            self.files_count += file.metadata.num_rows
        for row in self._rows(["root", "root_device", "space", "kind"], [path]):
            text = cast(str, row["space"])
            if text not in self._spaces:
                said = json.loads(text)
                self._spaces[text] = SpaceRow(**said | {"canary": base64.b64decode(said["canary"])})
            root, device = cast(bytes, row["root"]), cast("int | None", row["root_device"])
            if row["kind"] == "video" or root not in self._roots:
                options = {"exclude": [], "videos": row["kind"] == "video"}  # as `roots` has them
                self._roots[root] = RootRow(root, device, json.dumps(options), None)

    def spaces(self) -> list[SpaceRow]:
        return list({row.fingerprint: row for row in self._spaces.values()}.values())

    def roots(self) -> list[RootRow]:
        return list(self._roots.values())

    def contents(self) -> Iterator[ContentRow]:
        for row in self._rows(["space", "vectors", "spans", *FACTS]):
            if row["digest"] is None:
                continue
            space, data = self._spaces[row["space"]], row["vectors"]
            step = 2 * space.dim
            stored = [data[start : start + step] for start in range(0, len(data), step)]
            spans: list[Span] = list(zip(row["spans"][::2], row["spans"][1::2], strict=True)) or [None] * len(stored)
            vectors = [Vectored(space.fingerprint, stored, spans)]
            yield ContentRow(tuple(row[name] for name in FACTS), vectors, [])

    def files(self) -> Iterator[FileRow]:
        names = ["root", "path", "size", "mtime_ns", "device", "inode", "root_device", "digest", "error"]
        for row in self._rows(names):
            first = self._roots[row["root"]].device
            device = first if row["device"] == row["root_device"] and first is not None else row["device"]
            status = (row["size"], row["mtime_ns"], device, row["inode"])
            yield FileRow(row["root"], row["path"], status, row["digest"], row["error"])

    def kept_apart(self) -> list[tuple[bytes, bytes]]:
        return []

    def thumbnails(self) -> Iterator[tuple[bytes, bytes]]:
        for row in self._rows(["digest", "thumbnail"]):
            if row["thumbnail"] is not None:
                yield row["digest"], row["thumbnail"]

    def _rows(self, columns: Sequence[str], paths: Sequence[Path] | None = None) -> Iterator[dict[str, Any]]:
        _, parquet = pyarrow_modules()
        for path in paths or self._paths:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(AT_ONCE, columns=list(columns)):
                    yield from batch.to_pylist()
