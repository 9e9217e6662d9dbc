"""Which kinds of input a checkpoint takes, and the errors for those that it does not."""

from typing import TypeVar

from mlx_mm.errors import ModalityError
from mlx_mm.models.contracts import Modality

Value = TypeVar("Value")
Config = TypeVar("Config")


def present(
    *, text: object = None, image: object = None, audio: object = None, video: object = None
) -> tuple[Modality, ...]:
    """The modalities whose part is not None."""
    parts: dict[Modality, object] = {"text": text, "image": image, "audio": audio, "video": video}
    return tuple(name for name, part in parts.items() if part is not None)


def require_text(config: Config | None, tokenizer: Value | None, modalities: tuple[str, ...]) -> tuple[Config, Value]:
    """A text tower's config and its tokenizer; ModalityError for a processor that lacks one of them."""
    if config is None or tokenizer is None:
        part = "text tower" if config is None else "tokenizer file (tokenizer.json)"
        raise lacking(part, "text", modalities)
    return config, tokenizer


def lacking(part: str, kind: str, modalities: tuple[str, ...]) -> ModalityError:
    """The error of a processor that is asked for a kind of input ("text") and lacks a part ("text tower") for it."""
    return ModalityError(
        f"This checkpoint has no {part}; it takes {' and '.join(modalities) or 'nothing'}. "
        f"Load a checkpoint with both towers and its files to use {kind}."
    )
