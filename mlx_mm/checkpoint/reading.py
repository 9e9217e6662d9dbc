"""Weights in: safetensors, read lazily, or else PyTorch's files."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from mlx_mm.backend.memory import expect
from mlx_mm.backend.streams import computing
from mlx_mm.checkpoint.parts import Chooser, Part, read_part
from mlx_mm.checkpoint.shards import DTYPES, StoredTensor, read_weight_files
from mlx_mm.errors import WeightsError, foreign

if TYPE_CHECKING:
    from mlx_mm.checkpoint.torch_file import TorchTensor

BLOCK_BYTES = 64 << 20  # a tensor larger than this is read in blocks of rows where it can be


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
    is_mlx: the files carry `format: mlx`, so names and layout are already ours. part_of: which part of each tensor is
    taken; what others have of it is not read, and a part is read at once. bytes_of_parts: that were read for them.
    """

    def __init__(self, folder: Path, part_of: Chooser | None = None):
        files = read_weight_files(folder)
        self.bytes_of_parts = 0
        if part_of is not None and files.torch:
            raise WeightsError(
                f"{folder} has its weights in PyTorch's files; expected safetensors, of which a rank can read its "
                "part. Convert it first: mlx_mm convert."
            )
        self._part_of = part_of
        self.is_mlx = files.is_mlx
        self.num_bytes = files.num_bytes
        # By id() of the array; the weak reference tells an array from a later one with the same id.
        self._stored: dict[int, tuple[weakref.ref[mx.array], Stored]] = {}
        self._lazy: dict[str, mx.array] = {}
        self._torch: dict[str, TorchTensor] = {}
        self._dtypes: set[mx.Dtype] = set()
        for file, tensors in files.safetensors.items():
            self._open_safetensors(file, tensors)
        for pickled in files.torch.values():
            self._torch |= pickled
            self._dtypes |= {DTYPES[tensor.dtype] for tensor in pickled.values()}

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

    def _open_safetensors(self, file: Path, tensors: dict[str, StoredTensor]) -> None:
        with foreign(WeightsError, f"{file} cannot be read", "expected safetensors. Download it again."), computing():
            loaded: Any = mx.load(str(file))
        for name, tensor in tensors.items():
            part = None if self._part_of is None else self._part_of(name, tensor.shape)
            if part is not None:
                self._take(file, name, tensor, part)
                continue
            self._lazy[name] = array = loaded[name]
            self._dtypes.add(array.dtype)
            self._stored[id(array)] = weakref.ref(array), Stored(file, tensor.start, array.dtype, tensor.shape)

    def _take(self, file: Path, name: str, tensor: StoredTensor, part: Part) -> None:
        """Read a part of a tensor; nothing for an empty one."""
        dtype = DTYPES[tensor.dtype]
        self._dtypes.add(dtype)
        if part.ranges:
            read, count = read_part(file, tensor.start, dtype.size, tensor.shape, part)
            self.bytes_of_parts += count
            with computing():
                expect(read.nbytes)
                self._lazy[name] = array = mx.array(read).view(dtype).reshape(part.shape(tensor.shape))
                mx.eval(array)

    @property
    def names(self) -> Collection[str]:
        """Of the tensors."""
        return self.arrays.keys()

    def same(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same numbers; they are compared in blocks."""
        a, b = self.arrays[first], self.arrays[second]
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        with computing():
            pairs = zip(self.blocks(a), self.blocks(b), strict=True)
            return a is b or all(bool(mx.array_equal(x, y)) for x, y in pairs)

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


def _read_torch(tensor: TorchTensor) -> mx.array:
    array = mx.array(tensor.numpy())
    dtype = DTYPES[tensor.dtype]
    return array.view(dtype) if dtype == mx.bfloat16 else array
