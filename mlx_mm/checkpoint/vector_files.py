"""Vectors with what belongs to them in .npz, .jsonl and .parquet: what all writers of such files share."""

import os
import zipfile
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np
import numpy.typing as npt

from mlx_mm.checkpoint.atomic import check_file
from mlx_mm.errors import OutputError

ENDINGS = (".npz", ".jsonl", ".parquet")
MOST_IDS_BYTES = 1 << 30  # that reading the texts of an .npz may take
BLOCK_BYTES = 4 << 20


def check_vector_file(path: Path, advice: str = "") -> None:
    """Raise OutputError, before any work, where no such file can be written at `path`. advice: after the endings."""
    if path.suffix.lower() not in ENDINGS:
        expected = f"{path} ends in {path.suffix or 'nothing'!r}; expected one of {', '.join(ENDINGS)}."
        raise OutputError(f"{expected} {advice}".rstrip())
    parent = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(parent):
        raise OutputError(f"There is no folder {parent}. Create it first.")
    check_file(path)
    if path.suffix.lower() == ".parquet":
        pyarrow_modules()


def pyarrow_modules() -> tuple[ModuleType, ModuleType]:
    """pyarrow and pyarrow.parquet; OutputError where they are not installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise OutputError("Parquet needs pyarrow: pip install 'mlx_mm[parquet]'.") from error


def as_utf8(name: str) -> str:
    r"""A name that may not be UTF-8 as text that is: with its odd bytes written as \x…."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def put_texts(file: zipfile.ZipFile, name: str, texts: Sequence[str], most_bytes: int = MOST_IDS_BYTES) -> None:
    """Write texts as an array of an .npz.

    NumPy gives each the room of the longest, which the file does not; where even reading it would take more than
    most_bytes, two arrays stand for it: NAME_utf8 (uint8), all of them in one, and NAME_offsets (int64), where each
    begins, and at its end the length.
    """
    width = max(map(len, texts), default=1) or 1
    if 4 * width * len(texts) <= most_bytes:
        with file.open(f"{name}.npy", "w", force_zip64=True) as f:
            _write_texts(f, texts, f"<U{width}")
    else:
        data = [text.encode("utf-8", "surrogateescape") for text in texts]
        offsets = np.cumsum([0, *map(len, data)], dtype=np.int64)
        put_array(file, f"{name}_utf8", np.frombuffer(b"".join(data), np.uint8))
        put_array(file, f"{name}_offsets", offsets)


def put_array(file: zipfile.ZipFile, name: str, array: npt.NDArray[np.generic]) -> None:
    """Write an array of an .npz."""
    with file.open(f"{name}.npy", "w", force_zip64=True) as f:
        np.lib.format.write_array(f, array, allow_pickle=False)


def put_vectors(
    file: zipfile.ZipFile, name: str, shape: tuple[int, ...], blocks: Iterable[npt.NDArray[np.float32]]
) -> None:
    """Write float32 vectors of a shape (N, D), which come some at a time, as an array of an .npz."""
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as f:  # stored: they do not get smaller
        np.lib.format.write_array_header_1_0(f, about)
        for block in blocks:
            f.write(np.ascontiguousarray(block, "<f4").data)


def _write_texts(file: IO[bytes], texts: Sequence[str], dtype: str) -> None:
    """A NumPy array of texts, some at a time: in memory it may be many times as large as they are."""
    shape = {"descr": dtype, "fortran_order": False, "shape": (len(texts),)}
    np.lib.format.write_array_header_1_0(file, shape)
    some = max(1, BLOCK_BYTES // np.dtype(dtype).itemsize)
    for start in range(0, len(texts), some):
        file.write(np.array(texts[start : start + some], dtype).tobytes())
