"""Which checkpoint a command uses; whether it can, is known before gigabytes are read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mlx_mm.checkpoint.bundled import ANSWERS, PICTURES, SOUNDS, Bundled
from mlx_mm.cli.files import ending_of, endings_of, find_files, modality_of
from mlx_mm.cli.notes import note

if TYPE_CHECKING:
    from mlx_mm.backend.ranks import Group
    from mlx_mm.models.contracts import Kind, Modality, Model, Processor


class Opened(Protocol):
    """A checkpoint whose configuration was read, and whose weights were not."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> "Kind": ...
    @property
    def modalities(self) -> "tuple[Modality, ...]": ...
    def load(
        self, *, group: "Group | None" = None, pipeline: bool | Sequence[int] = False
    ) -> "tuple[Model, Processor]": ...


def note_bundled(used: Bundled) -> None:
    """Say in a line which bundled checkpoint is used, what it was made for, and how to take another one."""
    note(f"using the bundled {used.name}, made for {used.knows}; for {used.others}: --model {used.advised}")


def open_encoder(model: str | None, revision: str | None, fitting: Bundled = PICTURES) -> Opened:
    """The checkpoint that makes vectors: the named one, or with a note about it the bundled one that fits."""
    from mlx_mm.load import open_checkpoint

    if model is None:
        note_bundled(fitting)
    return open_checkpoint(model or fitting.name, revision=revision)


def open_generator(model: str | None, revision: str | None) -> Opened:
    """The checkpoint that answers: the named one, or with a note about it the bundled one; ModalityError where it does
    not."""
    from mlx_mm.load import open_checkpoint
    from mlx_mm.models.modalities import require_generator

    if model is None:
        note_bundled(ANSWERS)
    checkpoint = open_checkpoint(model or ANSWERS.name, revision=revision)
    require_generator(checkpoint)
    return checkpoint


def fitting_encoder(inputs: Sequence[str]) -> Bundled:
    """The bundled checkpoint for what a user names: that of sounds where there are some, and no pictures.

    Where there are both it is that of pictures, and a note says how to get the sounds.
    """
    modality = modality_of(inputs)
    if modality is None:
        sounds, pictures = (_are_among(inputs, kind) for kind in ("audio", "image"))
        if sounds and pictures:
            note(f"there are pictures and sounds, and this run takes the pictures; for the sounds: -m {SOUNDS.name}")
        modality = "audio" if sounds and not pictures else "image"
    return SOUNDS if modality == "audio" else PICTURES


def modality_beside_text(checkpoint: Opened) -> "Modality":
    """What an encoder takes beside texts: "audio" or "image"."""
    return "audio" if "audio" in checkpoint.modalities else "image"


def _are_among(inputs: Sequence[str], modality: "Modality") -> bool:
    endings = endings_of(modality)
    return any(ending_of(name) in endings for name in find_files(inputs, modality).files)
