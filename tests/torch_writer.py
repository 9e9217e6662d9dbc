"""Files as torch.save writes them, byte by byte and without torch, so that each may also be wrong in one way."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np

from mlx_mm.checkpoint.torch_file import STORAGES

KINDS = {np.dtype(kind): name for name, (dtype, kind) in STORAGES.items() if dtype != "BF16"}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(8, "little", signed=True)
    return b"J" + struct.pack("<i", value) if abs(value) < 2**31 else b"\x8a\x08" + raw


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def storage(kind: str, key: str, count: int) -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"
    )


ORDERED = b"ccollections\nOrderedDict\n)R"


def tensor(
    source: bytes,
    first: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    hooks: bytes = ORDERED,
    more: bytes = b"",
) -> bytes:
    head = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return head + source + number(first) + numbers(shape) + numbers(strides) + b"\x89" + hooks + more + b"tR"


def mapping(items: dict[str, bytes]) -> bytes:
    """A pickled state dict with torch's `_metadata`."""
    body = b"".join(text(name) + value for name, value in items.items())
    metadata = b"}" + text("_metadata") + ORDERED + text("") + b"}" + text("version") + b"K\x01ss" + b"sb"
    return b"\x80\x02" + ORDERED + b"(" + body + b"u" + metadata + b"."


def write_zip(path: Path, program: bytes, storages: dict[str, bytes], more: dict[str, bytes] | None = None) -> Path:
    entries = {"data.pkl": program, **{f"data/{key}": raw for key, raw in storages.items()}, "version": b"3\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in (entries | ({"byteorder": b"little"} if more is None else more)).items():
            archive.writestr(f"archive/{name}", raw)
    return path


def write_torch(path: Path, tables: dict[str, np.ndarray]) -> Path:
    """A file such as `torch.save(state_dict, path)` writes; each tensor has its own storage."""
    items, storages = {}, {}
    for i, (name, table) in enumerate(tables.items()):
        strides = tuple(stride // table.itemsize for stride in np.empty(table.shape, table.dtype).strides)
        items[name] = tensor(storage(KINDS[table.dtype], str(i), table.size), 0, table.shape, strides)
        storages[str(i)] = table.tobytes()
    return write_zip(path, mapping(items), storages)
