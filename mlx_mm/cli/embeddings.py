"""Embeddings with their ids, written as .npz, .jsonl or .parquet."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.checkpoint.atomic import check_file, new_file
from mlx_mm.errors import OutputError

Embeddings: TypeAlias = npt.NDArray[np.float32]  # (N, D)


def check_output(path: Path) -> None:
    """Raise OutputError, before any work, where `write_embeddings` could not write `path`."""
    if path.suffix.lower() not in WRITERS:
        raise OutputError(
            f"{path} ends in {path.suffix or 'nothing'!r}; expected one of {', '.join(WRITERS)}. "
            "Without -o, JSON lines go to stdout."
        )
    parent = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(parent):
        raise OutputError(f"There is no folder {parent}. Create it first.")
    check_file(path)
    if path.suffix.lower() == ".parquet":
        _pyarrow()


def write_embeddings(path: Path, ids: Sequence[str], embeddings: Embeddings, model: str) -> None:
    """Write ids and embeddings by the ending of `path`; a file there is replaced when all is written.

    .npz: arrays ids, vectors and model. .jsonl: one {"id", "vector"} a line. .parquet: columns id and vector.
    """
    check_output(path)
    with new_file(path) as new:
        WRITERS[path.suffix.lower()](new, ids, embeddings, model)


def json_lines(ids: Sequence[str], embeddings: Embeddings) -> Iterator[str]:
    """{"id", "vector"} for each row; numbers with the nine digits that restore a float32 exactly."""
    for name, vector in zip(ids, embeddings, strict=True):
        yield json.dumps({"id": name, "vector": [float(f"{x:.9g}") for x in vector]}, ensure_ascii=False)


def _write_npz(path: Path, ids: Sequence[str], embeddings: Embeddings, model: str) -> None:
    with path.open("wb") as f:
        np.savez(f, ids=np.array(ids, dtype=np.str_), vectors=embeddings, model=np.array(model))


def _write_jsonl(path: Path, ids: Sequence[str], embeddings: Embeddings, _model: str) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape") as f:  # file names may be any bytes
        f.writelines(f"{line}\n" for line in json_lines(ids, embeddings))


def _write_parquet(path: Path, ids: Sequence[str], embeddings: Embeddings, model: str) -> None:
    pyarrow, parquet = _pyarrow()
    values = pyarrow.array(embeddings.reshape(-1), type=pyarrow.float32())
    names = [name.encode(errors="surrogateescape").decode(errors="replace") for name in ids]
    columns = {"id": names, "vector": pyarrow.FixedSizeListArray.from_arrays(values, embeddings.shape[1])}
    table = pyarrow.table(columns).replace_schema_metadata({"model": model})
    parquet.write_table(table, path)


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise OutputError("Writing .parquet needs pyarrow: pip install 'mlx_mm[parquet]'.") from error


WRITERS: dict[str, Callable[[Path, Sequence[str], Embeddings, str], None]] = {
    ".npz": _write_npz,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
