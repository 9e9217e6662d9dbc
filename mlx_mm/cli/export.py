"""Vectors with their ids, written as .npz, .jsonl or .parquet."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mlx_mm.errors import OutputError


def check_export(path: Path) -> None:
    """Raise OutputError, before any work, where `write_vectors` could not write `path`."""
    if path.suffix.lower() not in WRITERS:
        raise OutputError(f"{path} ends in {path.suffix or 'nothing'!r}; expected one of {', '.join(WRITERS)}.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; expected the name of a file.")
    if not path.resolve().parent.is_dir():
        raise OutputError(f"There is no folder {path.resolve().parent}. Create it first.")
    if path.suffix.lower() == ".parquet":
        _pyarrow()


def write_vectors(path: Path, ids: list[str], vectors: np.ndarray, model: str) -> None:
    """Write ids and vectors (N, D) float32 by the ending of `path`; a file there is replaced when all is written.

    .npz: arrays ids, vectors and model. .jsonl: one {"id", "vector"} a line. .parquet: columns id and vector.
    """
    check_export(path)
    with _replacing(path) as new:
        WRITERS[path.suffix.lower()](new, ids, vectors, model)


def json_lines(ids: list[str], vectors: np.ndarray) -> Iterator[str]:
    """{"id", "vector"} for each row; numbers with the nine digits that restore a float32 exactly."""
    for name, vector in zip(ids, vectors, strict=True):
        yield json.dumps({"id": name, "vector": [float(f"{x:.9g}") for x in vector]}, ensure_ascii=False)


def _write_npz(path: str, ids: list[str], vectors: np.ndarray, model: str) -> None:
    with open(path, "wb") as f:
        np.savez(f, ids=np.array(ids, dtype=np.str_), vectors=vectors, model=np.array(model))


def _write_jsonl(path: str, ids: list[str], vectors: np.ndarray, _model: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as f:  # file names may be any bytes
        f.writelines(f"{line}\n" for line in json_lines(ids, vectors))


def _write_parquet(path: str, ids: list[str], vectors: np.ndarray, model: str) -> None:
    pyarrow, parquet = _pyarrow()
    values = pyarrow.array(vectors.reshape(-1), type=pyarrow.float32())
    names = [name.encode(errors="surrogateescape").decode(errors="replace") for name in ids]
    columns = {"id": names, "vector": pyarrow.FixedSizeListArray.from_arrays(values, vectors.shape[1])}
    table = pyarrow.table(columns).replace_schema_metadata({"model": model})
    parquet.write_table(table, path)


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise OutputError("Writing .parquet needs pyarrow: pip install 'mlx_mm[parquet]'.") from error


WRITERS: dict[str, Callable[[str, list[str], np.ndarray, str], None]] = {
    ".npz": _write_npz,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[str]:
    """A temporary file beside `path` that replaces it when the block succeeds."""
    new = None
    try:
        handle, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.resolve().parent)
        os.close(handle)
        yield new
        os.chmod(new, 0o644)
        os.replace(new, path)
        new = None
    except OSError as error:
        raise OutputError(f"Writing {path} failed: {error.strerror or error}. Nothing was kept.") from error
    finally:
        if new is not None:
            os.unlink(new)
