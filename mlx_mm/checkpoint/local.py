"""The checkpoints that lie on this machine: bundled, in folders, and in the hub's cache."""

import contextlib
import os
import shutil
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from mlx_mm.checkpoint import card, hub
from mlx_mm.errors import MlxMmError, OutputError, reason

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo

Kind: TypeAlias = Literal["bundled", "converted", "hugging face", "hub cache"]

# All that a checkpoint's folder may hold for `remove` to take it away
_OURS = (".json", ".safetensors", ".jinja", ".model", ".txt", ".md")


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint that needs no network.

    name: what `load` takes. kind: "converted" for one that `convert` wrote, "hugging face" for another in a folder.
    bytes: of all its files. bits: of its quantised layers, None without. licence: as its card names it.
    """

    name: str
    kind: Kind
    folder: Path
    bytes: int
    bits: int | None
    licence: str | None
    model_type: str


def find_checkpoints(folders: Iterable[Path], known: Container[object]) -> list[LocalCheckpoint]:
    """Bundled checkpoints, then those in the folders and one level below, then those of the hub's cache, sorted.

    known: the values of `model_type` that count. What cannot be read is left out.
    """
    found = [read(hub.BUNDLED / name, "bundled", name=name) for name in hub.bundled_names()]
    for folder in folders:
        found += [read(place) for place in (folder, *_below(folder))]
    found += [_cached(repository) for repository in _repositories()]
    each = {one.folder.resolve(): one for one in reversed(found) if one is not None and one.model_type in known}
    order = ("bundled", "converted", "hugging face", "hub cache")
    return sorted(each.values(), key=lambda one: (order.index(one.kind), one.name))


def read(folder: Path, kind: Kind | None = None, *, name: str | None = None) -> LocalCheckpoint | None:
    """What a folder holds, from its small files; None where that is no checkpoint. kind: by default what they say."""
    with contextlib.suppress(MlxMmError, OSError):
        config = hub.read_config(folder)
        block = config.get("quantization")
        bits = block.get("bits") if isinstance(block, dict) else None
        return LocalCheckpoint(
            name=name or str(folder),
            kind=kind or ("converted" if is_ours(folder) else "hugging face"),
            folder=folder,
            bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            bits=bits if isinstance(bits, int) else None,
            licence=card.read_licence(folder),
            model_type=str(config["model_type"]),
        )
    return None


def is_ours(folder: Path) -> bool:
    """Whether the weights of a folder carry the mark of MLX's format, which `convert` gives them."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        if path.is_file():
            with contextlib.suppress(SafetensorError, OSError), safe_open(path, "numpy") as file:
                return (file.metadata() or {}).get("format") == "mlx"
    return False


def remove(checkpoint: LocalCheckpoint) -> None:
    """Delete a checkpoint: of the hub's cache, or one that `convert` wrote and that lies alone in its folder.

    Raises OutputError for any other, and for one that cannot be deleted; then, or before, nothing else is lost.
    """
    folder = checkpoint.folder
    try:
        if checkpoint.kind == "hub cache":
            scan, repository = _repository(checkpoint.name)
            scan.delete_revisions(*(revision.commit_hash for revision in repository.revisions)).execute()
            if repository.repo_path.exists():  # huggingface_hub says nothing of what it could not delete
                raise OutputError(f"{repository.repo_path} could not be removed as a whole. Check its permissions.")
            return
        _refuse_others(checkpoint)
        shutil.rmtree(folder)
    except OSError as error:
        raise OutputError(f"Removing {folder} failed: {reason(error)}. Check its permissions.") from error


def _refuse_others(checkpoint: LocalCheckpoint) -> None:
    folder = checkpoint.folder
    if checkpoint.kind != "converted":
        raise OutputError(
            f"{checkpoint.name} is {checkpoint.kind}; expected a checkpoint that convert wrote, or one of the hub's "
            "cache. Nothing was removed."
        )
    if folder.is_symlink():
        raise OutputError(f"{folder} is a link; expected a folder. Remove {folder.resolve()}, or the link by hand.")
    strangers = [path.name for path in sorted(folder.iterdir()) if path.is_dir() or path.suffix not in _OURS]
    if strangers:
        raise OutputError(
            f"{folder} also holds {strangers[0]}, which is no part of a checkpoint; expected nothing else. Move it, or "
            "remove the folder by hand."
        )


def _below(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[:1] != ".")
    return []


def _cached(repository: "CachedRepoInfo") -> LocalCheckpoint | None:
    newest = max(repository.revisions, key=lambda revision: revision.last_modified, default=None)
    one = read(newest.snapshot_path, "hub cache", name=repository.repo_id) if newest else None
    return None if one is None else LocalCheckpoint(**{**vars(one), "bytes": repository.size_on_disk})


def _scan() -> "HFCacheInfo | None":
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    with contextlib.suppress(CacheNotFound, OSError):
        return scan_cache_dir(constants.HF_HUB_CACHE)
    return None


def _repositories() -> Iterator["CachedRepoInfo"]:
    scan = _scan()
    if scan is not None:
        yield from (repository for repository in scan.repos if repository.repo_type == "model")


def _repository(name: str) -> "tuple[HFCacheInfo, CachedRepoInfo]":
    scan = _scan()
    for repository in scan.repos if scan else ():
        if repository.repo_type == "model" and repository.repo_id == name:
            assert scan is not None
            return scan, repository
    raise OutputError(f"{name} is no longer in the hub's cache. Nothing was removed.")
