"""Embeddings with their ids, written as .npz, .jsonl or .parquet."""

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.checkpoint.atomic import check_file, new_file
from mlx_mm.cli.output import json_text
from mlx_mm.errors import OutputError

Embeddings: TypeAlias = npt.NDArray[np.float32]  # (N, D)

MOST_IDS_BYTES = 1 << 30  # that reading the ids of an .npz may take
BLOCK_BYTES = 4 << 20


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
    width = max(map(len, ids))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        if 4 * width * len(ids) <= MOST_IDS_BYTES:
            with file.open("ids.npy", "w", force_zip64=True) as f:
                _write_texts(f, ids, f"<U{width}")
        else:
            data = [name.encode("utf-8", "surrogateescape") for name in ids]
            offsets = np.cumsum([0, *map(len, data)], dtype=np.int64)
            for name, array in (("ids_utf8", np.frombuffer(b"".join(data), np.uint8)), ("ids_offsets", offsets)):
                with file.open(f"{name}.npy", "w", force_zip64=True) as f:
                    np.lib.format.write_array(f, array, allow_pickle=False)
        with file.open(zipfile.ZipInfo("vectors.npy"), "w", force_zip64=True) as f:  # stored: they do not get smaller
            np.lib.format.write_array(f, embeddings, allow_pickle=False)
        with file.open("model.npy", "w") as f:
            np.lib.format.write_array(f, np.array(model), allow_pickle=False)


def _write_texts(file: IO[bytes], texts: Sequence[str], dtype: str) -> None:
    """A NumPy array of texts, some at a time: in memory it may be many times as large as they are."""
    shape = {"descr": dtype, "fortran_order": False, "shape": (len(texts),)}
    np.lib.format.write_array_header_1_0(file, shape)
    some = max(1, BLOCK_BYTES // np.dtype(dtype).itemsize)
    for start in range(0, len(texts), some):
        file.write(np.array(texts[start : start + some], dtype).tobytes())


def _write_jsonl(path: Path, ids: Sequence[str], embeddings: Embeddings, _model: str) -> None:
    with path.open("w", encoding="utf-8") as f:
        f.writelines(f"{line}\n" for line in json_lines(ids, embeddings))


def _write_parquet(path: Path, ids: Sequence[str], embeddings: Embeddings, model: str) -> None:
    pyarrow, parquet = _pyarrow()
    values = pyarrow.array(embeddings.reshape(-1), type=pyarrow.float32())
    names = [name.encode(errors="surrogateescape").decode(errors="backslashreplace") for name in ids]
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
