"""Weights in: safetensors, read lazily, or else PyTorch's files.

A safetensors file is a little-endian uint64 with the length of a JSON header, the header, then the tensors' bytes
(github.com/huggingface/safetensors, "Format"). mlx reads it lazily; the safetensors package checks it first.
"""

import json
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open

from mlx_mm.backend.streams import computing
from mlx_mm.checkpoint.torch_file import TorchTensor, read_torch_file
from mlx_mm.errors import WeightsError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_SINGLE, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
BLOCK_BYTES = 64 << 20  # a tensor larger than this is read in blocks of rows where it can be
DTYPES = {
    "BOOL": mx.bool_,
    "U8": mx.uint8,
    "I8": mx.int8,
    "U16": mx.uint16,
    "I16": mx.int16,
    "U32": mx.uint32,
    "I32": mx.int32,
    "U64": mx.uint64,
    "I64": mx.int64,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "F32": mx.float32,
}


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies."""

    file: Path
    offset: int
    dtype: mx.Dtype
    shape: tuple[int, ...]


class Checkpoint:
    """The tensors of a folder, by name, from its safetensors or else from PyTorch's files.

    Nothing is read before it is used: of safetensors each tensor, of PyTorch's files all of them.
    is_mlx: the files carry `format: mlx`, so names and layout are already ours.
    """

    def __init__(self, folder: Path):
        self.is_mlx = False
        self.num_bytes = 0
        # By id() of the array; the weak reference tells an array from a later one with the same id.
        self._stored: dict[int, tuple[weakref.ref[mx.array], Stored]] = {}
        self._lazy: dict[str, mx.array] = {}
        self._torch: dict[str, TorchTensor] = {}
        self._dtypes: set[mx.Dtype] = set()
        files, read = _weight_files(folder, SINGLE, INDEX), self._open_safetensors
        if files is None:
            files, read = _weight_files(folder, TORCH_SINGLE, TORCH_INDEX), self._open_torch
        if files is None:
            raise WeightsError(
                f"{folder} has no weights: no {SINGLE}, no {TORCH_SINGLE}, and no index of either. "
                "Use a checkpoint or a revision that has them."
            )
        for file in files:
            read(file)

    @cached_property
    def arrays(self) -> dict[str, mx.array]:
        """The tensors; a dict to change at will. One that has two names in PyTorch's files is one array."""
        arrays, self._lazy = self._lazy, {}
        distinct: dict[TorchTensor, mx.array] = {}
        for name, tensor in self._torch.items():
            if tensor not in distinct:
                distinct[tensor] = array = _read_torch(tensor)
                if tensor.is_contiguous:
                    stored = Stored(tensor.file, tensor.offset, array.dtype, tensor.shape)
                    self._stored[id(array)] = weakref.ref(array), stored
            arrays[name] = distinct[tensor]
        self._torch = {}
        return arrays

    @property
    def float_dtypes(self) -> set[mx.Dtype]:
        """Those that the tensors of the folder have."""
        return {dtype for dtype in self._dtypes if mx.issubdtype(dtype, mx.floating)}

    def _open_safetensors(self, file: Path) -> None:
        header = _read_header(file)
        self.is_mlx |= (header.pop("__metadata__", None) or {}).get("format") == "mlx"
        self.num_bytes += file.stat().st_size
        start = _data_start(file)
        with computing():
            loaded: Any = mx.load(str(file))
        _check_new(file, self._lazy, loaded)
        for name, array in loaded.items():
            entry = header[name]
            self._lazy[name] = array
            self._dtypes.add(array.dtype)
            stored = Stored(file, start + entry["data_offsets"][0], array.dtype, tuple(entry["shape"]))
            self._stored[id(array)] = weakref.ref(array), stored

    def _open_torch(self, file: Path) -> None:
        tensors = read_torch_file(file)
        self.num_bytes += file.stat().st_size
        _check_new(file, self._torch, tensors)
        for name, tensor in tensors.items():
            _check_dtype(file, name, tensor.dtype)
            self._torch[name] = tensor
            self._dtypes.add(DTYPES[tensor.dtype])

    def blocks(self, array: mx.array) -> Iterator[mx.array]:
        """`array` in blocks of rows. One that comes unchanged from a file is never whole in memory."""
        entry = self._stored.get(id(array))
        if entry is None or entry[0]() is not array or array.nbytes <= BLOCK_BYTES or array.ndim < 2:
            yield array
            return
        stored = entry[1]
        row_bytes = array.nbytes // array.shape[0]
        step = max(1, BLOCK_BYTES // row_bytes)
        with stored.file.open("rb") as f:
            f.seek(stored.offset)
            for start in range(0, array.shape[0], step):
                rows = min(step, array.shape[0] - start)
                raw = np.fromfile(f, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
                yield mx.array(raw).view(stored.dtype).reshape(rows, *stored.shape[1:])


def _check_new(file: Path, known: Iterable[str], new: Iterable[str]) -> None:
    for name in set(known) & set(new):
        raise WeightsError(f"{file.parent} holds the tensor {name} in more than one file; expected it once.")


def _check_dtype(file: Path, name: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise WeightsError(
            f"{file} stores {name} as {dtype}; expected one of {', '.join(DTYPES)}. Use an unquantised checkpoint."
        )


def _read_torch(tensor: TorchTensor) -> mx.array:
    array = mx.array(tensor.numpy())
    dtype = DTYPES[tensor.dtype]
    return array.view(dtype) if dtype == mx.bfloat16 else array


def _weight_files(folder: Path, single: str, index_name: str) -> list[Path] | None:
    """The files of one kind: those that the index names, or the only one; None without an index or such a file."""
    index = folder / index_name
    if not index.exists():
        return [folder / single] if (folder / single).exists() else None
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index} is not a weight index: {error}. Download it again.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise WeightsError(f"{index} names the file {name!r}; expected a file of the same folder.")
        if not (folder / name).exists():
            raise WeightsError(f"{folder} lacks {name}, which {index_name} names. Download the missing shard.")
    return [folder / name for name in names]


def _data_start(file: Path) -> int:
    with file.open("rb") as f:
        return 8 + int.from_bytes(f.read(8), "little")


def _read_header(file: Path) -> dict[str, Any]:
    """The header of a file whose lengths and offsets the safetensors package found to be sound."""
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged or cut short ({error}). Download it again.") from error
    with file.open("rb") as f:
        header: dict[str, Any] = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    for name, entry in header.items():
        if name != "__metadata__":
            _check_dtype(file, name, entry["dtype"])
    return header
