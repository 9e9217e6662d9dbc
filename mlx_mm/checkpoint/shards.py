"""Which files of a folder hold its weights, and what those say of their tensors before any is read.

A safetensors file is a little-endian uint64 with the length of a JSON header, the header, then the tensors' bytes
(github.com/huggingface/safetensors, "Format"). The safetensors package checks it: a header of 100 MB at most, and
tensors of the shapes and places it says, without overlaps and gaps up to the end of the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from safetensors import safe_open

from mlx_mm.errors import WeightsError, foreign, shown
from mlx_mm.processing.files import open_regular, read_json

if TYPE_CHECKING:
    from mlx_mm.checkpoint.torch_file import TorchTensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_SINGLE, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
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
NUMBERS_IN_A_WORD = 16  # of 2 bits, the fewest that MLX packs weights into


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file. dtype: by safetensors' name. start: of its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class WeightFiles:
    """The files of a folder's weights with the tensors of each that count; either all safetensors or all PyTorch's.

    is_mlx: the files carry `format: mlx`, so names and layout are already ours.
    """

    safetensors: dict[Path, dict[str, StoredTensor]] = field(default_factory=dict)
    torch: dict[Path, dict[str, TorchTensor]] = field(default_factory=dict)
    is_mlx: bool = False

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in (*self.safetensors, *self.torch))

    def limits(self) -> tuple[int, int]:
        """How many tensors there are, and the most numbers that one has."""
        files: list[Mapping[str, StoredTensor | TorchTensor]] = [*self.safetensors.values(), *self.torch.values()]
        sizes = [
            math.prod(tensor.shape) * (NUMBERS_IN_A_WORD if tensor.dtype == "U32" else 1)
            for tensors in files
            for tensor in tensors.values()
        ]
        return len(sizes), max(sizes, default=0)


def read_weight_files(folder: Path) -> WeightFiles:
    """The files of a folder's weights: safetensors, or else PyTorch's; of each kind a single file, or else shards with
    an index, as transformers chooses (5.23, modeling_utils). Raises WeightsError, also where there are none.

    A tensor that stands in several shards counts where the index says.
    """
    paths, owners = _paths(folder, SINGLE, INDEX)
    if paths:
        read = {path: _read_header(path) for path in paths}
        tensors = {path: header for path, (header, _) in read.items()}
        _resolve(folder / INDEX, tensors, owners)
        return WeightFiles(safetensors=tensors, is_mlx=any(is_mlx for _, is_mlx in read.values()))
    paths, owners = _paths(folder, TORCH_SINGLE, TORCH_INDEX)
    if paths:
        from mlx_mm.checkpoint.torch_file import read_torch_file  # and with it zip files, which others never are

        pickled = {path: read_torch_file(path) for path in paths}
        for path, found in pickled.items():
            for name, tensor in found.items():
                _check_dtype(path, name, tensor.dtype)
        _resolve(folder / TORCH_INDEX, pickled, owners)
        return WeightFiles(torch=pickled)
    raise WeightsError(
        f"{folder} has no weights: no {SINGLE}, no {TORCH_SINGLE}, and no index of either. "
        "Use a checkpoint or a revision that has them."
    )


def has_weights(folder: Path) -> bool:
    """Whether a folder has one of the files that `read_weight_files` looks for."""
    return any(os.path.lexists(folder / name) for name in (SINGLE, INDEX, TORCH_SINGLE, TORCH_INDEX))


def tensor_names(folder: Path) -> set[str]:
    """Of a folder's safetensors, by their index where the files are not there; none where there is neither."""
    if os.path.lexists(folder / INDEX):
        owners = read_json(folder / INDEX, WeightsError).get("weight_map")
        return set(owners) if isinstance(owners, dict) else set()
    return set(_read_header(folder / SINGLE)[0]) if os.path.lexists(folder / SINGLE) else set()


def _paths(folder: Path, single: str, index_name: str) -> tuple[list[Path], dict[str, str]]:
    """The files of one kind and, where an index names them, {tensor: its file's name}."""
    index = folder / index_name
    if os.path.lexists(folder / single):
        return [folder / single], {}
    if not os.path.lexists(index):
        return [], {}
    owners = read_json(index, WeightsError).get("weight_map")
    if not isinstance(owners, dict) or not owners:
        raise WeightsError(f"{index} is not a weight index: it has no weight_map with files. Download it again.")
    names = sorted({name for name in owners.values() if isinstance(name, str)})
    strange = [name for name in owners.values() if not isinstance(name, str)]
    strange += [name for name in names if name in ("", ".", "..") or "/" in name or Path(name).name != name]
    if strange:
        raise WeightsError(f"{index} names the file {shown(strange[0])}; expected a file of the same folder.")
    for name in names:
        if not os.path.lexists(folder / name):
            raise WeightsError(f"{folder} lacks {name}, which {index_name} names. Download the missing shard.")
    return [folder / name for name in names], owners


def _resolve(index: Path, files: Mapping[Path, dict[str, Any]], owners: Mapping[str, str]) -> None:
    """Leave each tensor in one file alone, that which the index names."""
    places: dict[str, list[Path]] = {}
    for path, tensors in files.items():
        for name in tensors:
            places.setdefault(name, []).append(path)
    for name, paths in places.items():
        if len(paths) == 1:
            continue
        own = index.parent / owners.get(name, "")
        if own not in paths:
            raise WeightsError(
                f"{index.parent} holds the tensor {name} in more than one file, of which {index.name} names none; "
                "expected it once. Download the checkpoint again."
            )
        for path in paths:
            if path != own:
                del files[path][name]
    if lacking := next((name for name in owners if name not in places), None):
        raise WeightsError(
            f"{index.parent / owners[lacking]} lacks the tensor {lacking}, which {index.name} names. "
            "Download that shard and the index again."
        )


def _read_header(file: Path) -> tuple[dict[str, StoredTensor], bool]:
    """The tensors of a safetensors file, and whether names and layout are ours."""
    with foreign(WeightsError, f"{file} cannot be read", "expected a file with weights that you may read."):
        opened = open_regular(file)
    with opened, foreign(WeightsError, f"{file} is damaged or cut short", "expected safetensors. Download it again."):
        with safe_open(file, framework="numpy"):
            pass
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
        is_mlx = (header.pop("__metadata__", None) or {}).get("format") == "mlx"
        tensors = {
            name: StoredTensor(entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
        }
    for name, tensor in tensors.items():
        _check_dtype(file, name, tensor.dtype)
    return tensors, is_mlx


def _check_dtype(file: Path, name: str, dtype: str) -> None:
    if dtype in DTYPES:
        return
    advice = "MLX has no such numbers, which a quantised format of another program has. Use an unquantised checkpoint."
    if dtype == "F64":
        advice = (
            "MLX has no 64-bit numbers. Save the model in float32 first, with transformers by "
            'AutoModel.from_pretrained(folder, dtype="float32").save_pretrained(new_folder).'
        )
    elif dtype.startswith("C"):
        advice = "Weights of these models are not complex. Use the weights that belong to this config.json."
    raise WeightsError(f"{file} stores {name} as {dtype}; expected one of {', '.join(DTYPES)}. {advice}")
