"""Which checkpoint a command uses; whether it can, is known before gigabytes are read."""

from typing import TYPE_CHECKING, Protocol

from mlx_mm.cli.notes import note
from mlx_mm.errors import InputError

if TYPE_CHECKING:
    from mlx_mm.models.contracts import Kind, Modality, Model, Processor

DEFAULT_MODEL = "emoji-siglip2"
PHOTO_MODEL = "google/siglip2-base-patch16-naflex"
CHAT_MODEL = "zai-org/GLM-4.6V-Flash"


class Opened(Protocol):
    """A checkpoint whose configuration was read, and whose weights were not."""

    @property
    def kind(self) -> "Kind": ...
    @property
    def modalities(self) -> "tuple[Modality, ...]": ...
    def load(self) -> "tuple[Model, Processor]": ...


def open_encoder(model: str | None, revision: str | None) -> Opened:
    """The checkpoint that makes vectors: the named one, or with a note about it the bundled one."""
    from mlx_mm.load import open_checkpoint

    if model is None:
        note(f"using the bundled {DEFAULT_MODEL}, made for emoji-like drawings; for photographs: --model {PHOTO_MODEL}")
    return open_checkpoint(model or DEFAULT_MODEL, revision=revision)


def require_name(model: str | None) -> str:
    """The name of the checkpoint that answers; InputError without one."""
    if model is None:
        raise InputError(
            f"No model is named, and the bundled ones do not answer; expected one that does. Pass -m {CHAT_MODEL}, "
            "or a folder that convert made of it."
        )
    return model


def open_generator(model: str, revision: str | None) -> Opened:
    """The checkpoint that answers; ModalityError where it does not."""
    from mlx_mm.load import open_checkpoint
    from mlx_mm.models.modalities import require_generator

    checkpoint = open_checkpoint(model, revision=revision)
    require_generator(checkpoint)
    return checkpoint


def modality_beside_text(checkpoint: Opened) -> "Modality":
    """What an encoder takes beside texts: "audio" or "image"."""
    return "audio" if "audio" in checkpoint.modalities else "image"
