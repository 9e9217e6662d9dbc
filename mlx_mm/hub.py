"""From a folder, a bundled name or a hub id to a local folder. The only file that knows huggingface_hub."""

import json
from pathlib import Path
from typing import Any

from mlx_mm.errors import ConfigError, ModelNotFoundError

BUNDLED = Path(__file__).parent / "bundled"
# Weights, settings, tokenizer, chat template, card
FILES = ["*.json", "*.safetensors", "*.jinja", "spiece.model", "README.md"]
NESTED = ["*/*"]  # files in sub-folders are other exports of the model, such as ONNX


def bundled_names() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def resolve(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint; downloads it from the hub if it is not there.

    path_or_repo: a folder, a bundled name, or a hub id "owner/name". revision: branch, tag or commit on the hub.
    huggingface_hub's settings (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, …) hold. Raises ModelNotFoundError.
    """
    if not str(path_or_repo):
        raise ModelNotFoundError("The name of the model is empty; expected a folder or a hub id.")
    folder = Path(path_or_repo).expanduser()
    if not folder.is_dir() and str(path_or_repo) in bundled_names():
        folder = BUNDLED / str(path_or_repo)
    if folder.is_dir():
        if revision is not None:
            raise ModelNotFoundError(
                f"{path_or_repo} is a local folder and has no revision {revision!r}. Leave revision out."
            )
        return folder
    if folder.exists():
        raise ModelNotFoundError(f"{folder} is a file; expected the folder of a checkpoint, or a hub id.")
    return _download(str(path_or_repo), revision)


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hint = f"expected a folder, a hub id like google/siglip2-base-patch16-224, or one of {', '.join(bundled_names())}."
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")):
        raise ModelNotFoundError(f"There is no folder {repo}; {hint}")
    # Connections fail with errors of whichever HTTP package it uses, which its own error builds on.
    failures: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=FILES, ignore_patterns=NESTED))
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"The hub has {repo}, but no revision {revision!r} of it.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFoundError(
            f"There is no folder {repo}, and the hub has no such repository (or it needs a login); {hint}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelNotFoundError(
            f"There is no folder {repo}; the hub cannot be reached (or offline mode is on) and its cache does not "
            "hold this model. Go online once, or name a local folder."
        ) from error
    except failures as error:
        reason = " ".join(str(error).split())
        raise ModelNotFoundError(f"Downloading {repo} failed: {reason}. Try again; finished files are kept.") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint folder. Raises ModelNotFoundError or ConfigError."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelNotFoundError(f"{folder} has no config.json; expected the folder of a checkpoint.")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}). Download it again.") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ConfigError(f"{path} has no model_type; expected the config.json of a Hugging Face checkpoint.")
    return config
