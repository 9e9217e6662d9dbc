"""Which kinds of input a checkpoint takes, and the errors for those that it does not."""

from typing import TypeVar

from mlx_mm.errors import ModalityError
from mlx_mm.models.contracts import Checked, Modality

Value = TypeVar("Value")


def present(
    *, text: object = None, image: object = None, audio: object = None, video: object = None
) -> tuple[Modality, ...]:
    """The modalities whose part is not None."""
    parts: dict[Modality, object] = {"text": text, "image": image, "audio": audio, "video": video}
    return tuple(name for name, part in parts.items() if part is not None)


def require_generator(model: Checked) -> None:
    """Raise ModalityError unless the checkpoint answers in words."""
    if model.kind != "generator":
        raise ModalityError(
            f"This checkpoint takes {' and '.join(model.modalities)} and gives vectors, no words. Use "
            f"{', '.join(f'encode_{modality}' for modality in model.modalities)} or classify, or a checkpoint that "
            "generates."
        )


def require_tower(tower: Value | None, kind: str, other: str) -> Value:
    """`tower` unless it is None: ModalityError then says that the checkpoint lacks its `kind` ("text")."""
    if tower is None:
        raise ModalityError(f"This checkpoint has no {kind} tower; it takes {other} only. Use a joint checkpoint.")
    return tower


def lacking(part: str, kind: str, modalities: tuple[str, ...]) -> ModalityError:
    """The error of a processor that is asked for a kind of input ("text") and lacks a part ("text tower") for it."""
    return ModalityError(
        f"This checkpoint has no {part}; it takes {' and '.join(modalities) or 'nothing'}. "
        f"Load a checkpoint with both towers and its files to use {kind}."
    )


def require_encoder(model: Checked, modality: Modality) -> None:
    """Raise ModalityError unless the checkpoint gives vectors of that modality."""
    require_modality(model, modality)
    if model.kind == "classifier":
        raise ModalityError(
            f"This checkpoint is a classifier and gives no {modality} vectors. Use classify, or a joint checkpoint."
        )


def require_modality(model: Checked, modality: Modality) -> None:
    """Raise ModalityError unless the checkpoint gives vectors or scores of that modality."""
    refuse_generators(model)
    if modality not in model.modalities:
        raise ModalityError(
            f"This checkpoint has no {modality} encoder; it takes {' and '.join(model.modalities)}. "
            f"Use one that takes {modality}."
        )


def refuse_generators(model: Checked) -> None:
    """Raise ModalityError for a checkpoint that answers in words."""
    if model.kind == "generator":
        raise ModalityError("This checkpoint answers in words and gives no vectors or scores. Use generate or chat.")
