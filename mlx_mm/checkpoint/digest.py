"""Weights told apart by what they are: a digest of the tensors, whatever files they lie in."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlx_mm.checkpoint.shards import DTYPES, WeightFiles, read_weight_files
from mlx_mm.checkpoint.torch_file import TorchTensor
from mlx_mm.errors import WeightsError, foreign

BLOCK = 1 << 20  # bytes read at once
DIGEST_BYTES = 16


def stamp(folder: Path) -> list[list[object]]:
    """[name, bytes, time of change in ns] of the files of weights: while it is the same, so is the digest."""
    files = read_weight_files(folder)
    found = ((path.name, path.stat()) for path in (*files.safetensors, *files.torch))
    return sorted([name, status.st_size, status.st_mtime_ns] for name, status in found)


def weights_digest(folder: Path) -> str:
    """BLAKE2b of 16 bytes, as hex, of name, dtype, shape and bytes of all tensors, by name. Raises WeightsError."""
    with foreign(WeightsError, f"The weights in {folder} cannot be read", "expected a whole checkpoint."):
        parts = dict(_parts(read_weight_files(folder)))
    whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in sorted(parts):
        whole.update(f"{name}\0".encode() + parts[name])
    return whole.hexdigest()


def _parts(files: WeightFiles) -> Iterator[tuple[str, bytes]]:
    for path, tensors in files.safetensors.items():
        with path.open("rb") as file:
            for name, tensor in tensors.items():
                digest = _head(tensor.dtype, tensor.shape)
                left = math.prod(tensor.shape) * DTYPES[tensor.dtype].size
                file.seek(tensor.start)
                while left and (block := file.read(min(left, BLOCK))):
                    digest.update(block)
                    left -= len(block)
                yield name, digest.digest()
    for pickled in files.torch.values():
        for name, stored in pickled.items():
            yield name, _of_torch(stored)


def _of_torch(tensor: TorchTensor) -> bytes:
    digest = _head(tensor.dtype, tensor.shape)
    digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.digest()


def _head(dtype: str, shape: tuple[int, ...]) -> "hashlib.blake2b":
    return hashlib.blake2b(f"{dtype}{list(shape)}".encode(), digest_size=DIGEST_BYTES)
