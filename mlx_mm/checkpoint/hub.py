"""From a folder, a bundled name or a hub id to a local folder. The only file that knows huggingface_hub."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mlx_mm.checkpoint import staging
from mlx_mm.checkpoint.strangers import name_stranger, transformers_module
from mlx_mm.errors import ConfigError, ModelNotFoundError, foreign
from mlx_mm.processing.files import load_json

BUNDLED = Path(__file__).parent.parent / "bundled"
# Weights, settings, tokenizer, chat template, card
FILES = ["*.json", "*.safetensors", "*.jinja", "spiece.model", "README.md"]
SETTINGS = ["*.json", "README.md"]
NESTED = ["*/*"]  # files in sub-folders are other exports of the model, such as ONNX
SAFETENSORS = ["model.safetensors", "model.safetensors.index.json"]
TORCH = ["pytorch_model.bin", "pytorch_model-*.bin"]  # what takes their place where a repository has none


def bundled_names() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def resolve(path_or_repo: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """The local folder of a checkpoint; downloads it from the hub if it is not there.

    path_or_repo: a folder, a bundled name, or a hub id "owner/name". revision: branch, tag or commit on the hub.
    weights: False downloads its settings, index and card alone.
    Of a folder of sentence-transformers the model within it is meant. Where the main branch has no safetensors, those
    of the first pull request that offers them are taken, or else PyTorch's files; from a `revision` only what it has
    itself.
    huggingface_hub's settings (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, …) hold. Raises ModelNotFoundError.
    """
    if not str(path_or_repo):
        raise ModelNotFoundError("The name of the model is empty; expected a folder or a hub id.")
    folder = Path(path_or_repo).expanduser()
    staging.put_back(folder)
    if not folder.is_dir() and str(path_or_repo) in bundled_names():
        folder = BUNDLED / str(path_or_repo)
    if folder.is_dir():
        if revision is not None:
            raise ModelNotFoundError(
                f"{path_or_repo} is a local folder and has no revision {revision!r}. Leave revision out."
            )
        return folder / transformers_module(folder)
    if folder.exists():
        raise ModelNotFoundError(f"{folder} is a file; expected the folder of a checkpoint, or a hub id.")
    return _download(str(path_or_repo), revision, _snapshot if weights else _settings)


def _download(repo: str, revision: str | None, get: Callable[[str, str | None], Path]) -> Path:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hint = f"expected a folder, a hub id like google/siglip2-base-patch16-224, or one of {', '.join(bundled_names())}."
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")):
        raise ModelNotFoundError(f"There is no folder {repo}; {hint}")
    # Connections fail with errors of whichever HTTP package it uses, which its own error builds on.
    failures: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError)
    try:
        return get(repo, revision)
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"The hub has {repo}, but no revision {revision!r} of it.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFoundError(
            f"There is no folder {repo}, and the hub has no such repository (or it needs a login); {hint}"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelNotFoundError(
            f"There is no folder {repo}; the hub cannot be reached (or offline mode is on) and its cache does not "
            "hold this model. Go online once, or name a local folder."
        ) from error
    except failures as error:
        reason = " ".join(str(error).split())
        raise ModelNotFoundError(f"Downloading {repo} failed: {reason}. Try again; finished files are kept.") from error


def _snapshot(repo: str, revision: str | None) -> Path:
    """The folder with one kind of weights. Of two kinds, the one that was downloaded before is used again."""
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

    folder = _get(repo, revision, FILES)
    if part := transformers_module(folder):
        folder = _get(repo, revision, FILES, part)
    if _has(folder, SAFETENSORS):
        return folder
    if revision is None and not part and not _has(folder, TORCH):
        for reference in _pull_requests(repo, folder):
            try:
                offered = _get(repo, reference, FILES)
            except (RevisionNotFoundError, LocalEntryNotFoundError):
                continue  # in the cache, but gone from the hub, or not whole
            if _has(offered, SAFETENSORS):
                return offered
    return _get(repo, revision, [pattern for pattern in FILES if pattern != "*.safetensors"] + TORCH, part)


def _settings(repo: str, revision: str | None) -> Path:
    """The folder with what is known of the weights before they are there."""
    return _get(repo, revision, SETTINGS)


def _get(repo: str, revision: str | None, patterns: list[str], part: str = "") -> Path:
    """Files of a repository, or of one folder in it."""
    from huggingface_hub import snapshot_download

    if part:
        patterns = [f"{part}/{pattern}" for pattern in patterns]
    nested = [f"{part}/{pattern}" for pattern in NESTED] if part else NESTED
    return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=nested)) / part


def _has(folder: Path, patterns: list[str]) -> bool:
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _pull_requests(repo: str, folder: Path) -> Iterator[str]:
    """References of pull requests with safetensors: those in the cache, which need no network, then the hub's.

    folder: a snapshot of the repository, <cache>/<repository>/snapshots/<commit>; beside it, in `refs`, the cache
    notes the commit of each reference (huggingface.co/docs/huggingface_hub, "Understand caching").
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    cached = (folder.parent.parent / "refs" / "refs" / "pr").glob("*")
    yield from (f"refs/pr/{number}" for number in sorted(int(path.name) for path in cached if path.name.isdigit()))
    found = HfApi().list_repo_refs(repo, include_pull_requests=True).pull_requests or []
    names = [request.ref.removeprefix("refs/pr/") for request in found]
    for number in sorted(int(name) for name in names if name.isdigit()):
        try:
            files = HfApi().list_repo_files(repo, revision=f"refs/pr/{number}")
        except RevisionNotFoundError:
            continue  # closed, and its branch removed
        if set(SAFETENSORS) & set(files):
            yield f"refs/pr/{number}"


def read_config(folder: Path) -> dict[str, object]:
    """The `config.json` of a checkpoint folder. Raises ModelNotFoundError or ConfigError, and UnsupportedModelError
    for a folder of another kind of model, which it names."""
    path = folder / "config.json"
    with foreign(ModelNotFoundError, f"{folder} cannot be read", "expected the folder of a checkpoint."):
        names = os.listdir(folder)
        there = path.name in names and not path.is_dir()
        parts = [name for name in sorted(names) if (folder / name / path.name).is_file()]
    config = load_json(path) if there else None
    if isinstance(config, dict) and "model_type" in config:
        return config
    name_stranger(folder, names)
    if there:
        raise ConfigError(f"{path} has no model_type; expected the config.json of a Hugging Face checkpoint.")
    hint = f" Perhaps {folder / parts[0]} is meant, which has one." if parts else ""
    raise ModelNotFoundError(f"{folder} has no config.json; expected the folder of a checkpoint.{hint}")
