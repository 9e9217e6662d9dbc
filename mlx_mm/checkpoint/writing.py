"""Weights out: shards of safetensors, written tensor by tensor, in whichever order these come."""

import json
import math
import shutil
from collections.abc import Iterable
from io import BufferedRandom
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_mm.checkpoint.shards import DTYPES, INDEX, SINGLE
from mlx_mm.errors import OutputError

MAX_SHARD_BYTES = 5_000_000_000  # Hugging Face's limit for one file
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
Sizes = dict[str, tuple[mx.Dtype, tuple[int, ...]]]  # tensor name -> dtype and shape


class ShardWriter:
    """Writes tensors whose dtypes and shapes are known beforehand, in any order; what is written can be read again.

    sizes: name -> (dtype, shape), in the order of the files. layout: "mlx", or "pt" for names and axes as Hugging Face
    has them. Use as a context manager, and `write` every name once; the index is written at the end.
    """

    def __init__(self, folder: Path, sizes: Sizes, layout: str = "mlx"):
        self._layout = layout
        self._folder = folder
        self._shards = _plan_shards(sizes)
        self._sizes = sizes
        self._todo = set(sizes)
        self._places: dict[str, tuple[int, int]] = {}  # name -> the number of its shard, and where it begins there
        self._file: BufferedRandom | None = None
        self._open = -1  # the number of the shard that is `_file`

    def __enter__(self) -> "ShardWriter":
        for number in range(len(self._shards)):
            self._begin(number)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, name: str, blocks: Iterable[mx.array]) -> None:
        """One tensor, given whole or in blocks of rows."""
        dtype, shape = self._sizes[name]
        self._todo.remove(name)
        _, start = self._places[name]
        written = 0
        for block in blocks:  # which may read or write others meanwhile
            if block.dtype != dtype:
                raise AssertionError(f"{name} is {block.dtype}, announced as {dtype}")
            self._seek(name, start + written).write(
                np.array(mx.contiguous(block).reshape(-1).view(mx.uint8), copy=False).data
            )
            written += block.nbytes
        if written != _num_bytes(dtype, shape):
            raise AssertionError(f"{name} has {written} bytes, announced as {dtype} {shape}")

    def read(self, name: str) -> mx.array:
        """A tensor that was written."""
        dtype, shape = self._sizes[name]
        raw = np.empty(_num_bytes(dtype, shape), np.uint8)
        self._seek(name, self._places[name][1]).readinto(raw.data)
        return mx.array(raw).view(dtype).reshape(shape)

    def finish(self) -> int:
        """Write the index; returns the bytes of all tensors."""
        if self._todo:
            raise AssertionError(f"{min(self._todo)} was never written")
        self._close()
        total = total_bytes(self._sizes)
        weight_map = {name: self._name(number) for number, shard in enumerate(self._shards) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
        return total

    def _begin(self, number: int) -> None:
        """Write the header of a shard."""
        header: dict[str, object] = {"__metadata__": {"format": self._layout}}
        offset, starts = 0, {}
        for name in self._shards[number]:
            dtype, shape = self._sizes[name]
            end = offset + _num_bytes(dtype, shape)
            header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
            starts[name] = offset
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
        (self._folder / self._name(number)).write_bytes(len(text).to_bytes(8, "little") + text)
        self._places |= {name: (number, 8 + len(text) + start) for name, start in starts.items()}

    def _seek(self, name: str, place: int) -> BufferedRandom:
        """The file of a tensor, at a place in it."""
        number, _ = self._places[name]
        if self._file is None or number != self._open:
            self._close()
            self._file, self._open = (self._folder / self._name(number)).open("r+b"), number
        self._file.seek(place)
        return self._file

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _name(self, number: int) -> str:
        count = len(self._shards)
        return SINGLE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def check_space(folder: Path, sizes: Sizes) -> None:
    """Raise OutputError where the disk of a folder is too small for tensors of these sizes."""
    needed = total_bytes(sizes)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"The converted model needs {needed / 1e6:,.1f} MB, and the disk for it has {free / 1e6:,.1f} MB free. "
            "Free some space, or write to another disk."
        )


def total_bytes(sizes: Sizes) -> int:
    """Bytes of tensors with these dtypes and shapes."""
    return sum(_num_bytes(*size) for size in sizes.values())


def _num_bytes(dtype: mx.Dtype, shape: tuple[int, ...]) -> int:
    return dtype.size * math.prod(shape)


def _plan_shards(sizes: Sizes) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = MAX_SHARD_BYTES
    for name, size in sizes.items():
        num_bytes = _num_bytes(*size)
        if num_bytes > room and shards[-1]:
            shards.append([])
            room = MAX_SHARD_BYTES
        shards[-1].append(name)
        room -= num_bytes
    return shards
