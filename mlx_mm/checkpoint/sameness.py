"""Whether all ranks have the same checkpoint, which each opens on its own machine."""

import hashlib
from pathlib import Path

import numpy as np

from mlx_mm import __version__
from mlx_mm.backend.ranks import Group, gathered
from mlx_mm.checkpoint.shards import read_weight_files
from mlx_mm.errors import RanksError

SAMPLE = 64  # bytes of each tensor


def same_on_all_ranks(folder: Path, group: Group) -> None:
    """Raise RanksError, on all ranks, where one has other files, or another version of this package.

    Compared are config.json, names, dtypes, shapes and places of all tensors, and the first bytes of each: of a large
    model a rank reads its part and no more.
    """
    version, files = hashlib.blake2b(__version__.encode(), digest_size=16).digest(), files_digest(folder)
    words = [int(word) for word in np.frombuffer(version + files, np.int32)]
    found = gathered(words, group)
    half = len(words) // 2
    for what, part, advice in (
        ("another version of mlx_mm", slice(half), "Install the same on all machines."),
        ("other files", slice(half, None), "Copy the folder from the machine of rank 0."),
    ):
        if others := [str(rank) for rank, one in enumerate(found) if one[part] != found[0][part]]:
            raise RanksError(
                f"Of {group.size()} ranks, {' and '.join(others)} has {what} than rank 0, for {folder.name}; expected "
                f"the same. {advice}"
            )


def files_digest(folder: Path) -> bytes:
    """BLAKE2b of 16 bytes of what is compared."""
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=16)
    files = read_weight_files(folder)
    for path, tensors in sorted(files.safetensors.items()):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as opened:
            for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
                opened.seek(tensor.start)
                digest.update(f"{name} {tensor}".encode() + opened.read(SAMPLE))
    return digest.digest()
