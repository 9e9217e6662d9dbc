"""Whether all ranks have the same checkpoint, which each opens on its own machine."""

import hashlib
from pathlib import Path

import numpy as np

from mlx_mm import __version__
from mlx_mm.backend.ranks import Group, gathered
from mlx_mm.checkpoint.shards import read_weight_files
from mlx_mm.errors import RanksError

SAMPLE = 64  # bytes of each tensor


def same_on_all_ranks(folder: Path, group: Group, division: str) -> None:
    """Raise RanksError, on all ranks, where one has other files, another version of this package or another division.

    Compared are config.json, names, dtypes, shapes and places of all tensors, and the first bytes of each: of a large
    model a rank reads its part and no more.
    """
    version, divided = (hashlib.blake2b(text.encode(), digest_size=16).digest() for text in (__version__, division))
    words = [int(word) for word in np.frombuffer(version + divided + files_digest(folder), np.int32)]
    found = gathered(words, group)
    third = len(words) // 3
    for number, (what, advice) in enumerate(
        (
            ("another version of mlx_mm", "Install the same on all machines."),
            ("another division", "Start all with the same options."),
            ("other files", "Copy the folder from the machine of rank 0."),
        )
    ):
        part = slice(number * third, (number + 1) * third)
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
