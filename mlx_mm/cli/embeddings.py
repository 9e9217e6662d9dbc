"""Embeddings with their ids, written as .npz, .jsonl or .parquet."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.checkpoint.atomic import new_file
from mlx_mm.checkpoint.vector_files import (
    MOST_IDS_BYTES,
    as_utf8,
    check_vector_file,
    put_array,
    put_texts,
    put_vectors,
    pyarrow_modules,
)
from mlx_mm.cli.output import json_text

Embeddings: TypeAlias = npt.NDArray[np.float32]  # (N, D)


def check_output(path: Path) -> None:
    """Raise OutputError, before any work, where `write_embeddings` could not write `path`."""
    check_vector_file(path, "Without -o, JSON lines go to stdout.")


def write_embeddings(path: Path, ids: Sequence[str], embeddings: Embeddings, model: str) -> None:
    """Write ids and embeddings by the ending of `path`; a file there is replaced when all is written.

    .npz: arrays ids, vectors and model. NumPy gives all texts of an array the room of the longest, which the file
    does not; where even reading it would take more than `MOST_IDS_BYTES`, two arrays stand for ids: ids_utf8 (uint8),
    all of them in one, and ids_offsets (int64), where each begins, and at its end the length.
    .jsonl: one {"id", "vector"} a line. .parquet: columns id and vector, of which a name that is not UTF-8 has its
    bytes written as \\x….
    """
    check_output(path)
    with new_file(path) as new:
        WRITERS[path.suffix.lower()](new, ids, embeddings, model)


def json_lines(ids: Sequence[str], embeddings: Embeddings) -> Iterator[str]:
    """{"id", "vector"} for each row; numbers with the nine digits that restore a float32 exactly."""
    for name, vector in zip(ids, embeddings, strict=True):
        yield json_text({"id": name, "vector": [float(f"{x:.9g}") for x in vector]})


def _write_npz(path: Path, ids: Sequence[str], embeddings: Embeddings, model: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        put_texts(file, "ids", ids, MOST_IDS_BYTES)
        put_vectors(file, "vectors", embeddings.shape, [embeddings])
        put_array(file, "model", np.array(model))


def _write_jsonl(path: Path, ids: Sequence[str], embeddings: Embeddings, _model: str) -> None:
    with path.open("w", encoding="utf-8") as f:
        f.writelines(f"{line}\n" for line in json_lines(ids, embeddings))


def _write_parquet(path: Path, ids: Sequence[str], embeddings: Embeddings, model: str) -> None:
    pyarrow, parquet = pyarrow_modules()
    values = pyarrow.array(embeddings.reshape(-1), type=pyarrow.float32())
    columns = {
        "id": [as_utf8(name) for name in ids],
        "vector": pyarrow.FixedSizeListArray.from_arrays(values, embeddings.shape[1]),
    }
    table = pyarrow.table(columns).replace_schema_metadata({"model": model})
    parquet.write_table(table, path)


WRITERS: dict[str, Callable[[Path, Sequence[str], Embeddings, str], None]] = {
    ".npz": _write_npz,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
