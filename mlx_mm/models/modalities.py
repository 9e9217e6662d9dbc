"""Which kinds of input a checkpoint takes, and the errors for those that it does not."""

import os
from typing import TypeVar

from mlx_mm.errors import InputError, ModalityError, shown
from mlx_mm.models.contracts import (
    AudioEncoder,
    Checked,
    Features,
    ImageEncoder,
    Modality,
    Model,
    TextEncoder,
)

Value = TypeVar("Value")
Config = TypeVar("Config")


def present(
    *, text: object = None, image: object = None, audio: object = None, video: object = None
) -> tuple[Modality, ...]:
    """The modalities whose part is not None."""
    parts: dict[Modality, object] = {"text": text, "image": image, "audio": audio, "video": video}
    return tuple(name for name, part in parts.items() if part is not None)


def check_loaded(model: object, processor: object) -> None:
    """Raise InputError unless these are a model and its processor, as `load` gives them."""
    if _is_processor(model) and not _is_model(model) and _is_model(processor):
        raise InputError("model and processor are exchanged; expected the model first. Pass them as `load` gives them.")
    for name, value, fits in (("model", model, _is_model(model)), ("processor", processor, _is_processor(processor))):
        if not fits:
            named = isinstance(value, str | os.PathLike)
            found, source = (shown(value),) * 2 if named else (f"a {type(value).__name__}", "...")
            raise InputError(
                f"{name} is {found}; expected the {name} that `load` gives. Load it first: "
                f"model, processor = mlx_mm.load({source})."
            )
    configs = getattr(model, "config", None), getattr(processor, "config", None)
    if None not in configs and type(configs[0]) is not type(configs[1]):
        of_model, of_processor = (type(config).__module__.split(".")[-2] for config in configs)
        raise InputError(
            f"The model is of the family {of_model} and the processor of {of_processor}; expected both of one "
            "checkpoint. Pass what one call of `load` gives."
        )


def _is_model(value: object) -> bool:
    return hasattr(value, "kind") and hasattr(value, "modules_for")


def _is_processor(value: object) -> bool:
    return hasattr(value, "kind") and (hasattr(value, "collate") or hasattr(value, "chat"))


def require_text(config: Config | None, tokenizer: Value | None, modalities: tuple[str, ...]) -> tuple[Config, Value]:
    """A text tower's config and its tokenizer; ModalityError for a processor that lacks one of them."""
    if config is None or tokenizer is None:
        part = "text tower" if config is None else "tokenizer file (tokenizer.json)"
        raise lacking(part, "text", modalities)
    return config, tokenizer


def no_words(model: Checked) -> ModalityError:
    """The error of a checkpoint that is asked for an answer and gives none."""
    return ModalityError(
        f"This checkpoint takes {' and '.join(model.modalities)} and gives vectors, no words. Use "
        f"{', '.join(f'encode_{modality}' for modality in model.modalities)} or classify, or a checkpoint that "
        "generates."
    )


def require_generator(model: Checked) -> None:
    """Raise ModalityError unless the checkpoint answers in words."""
    if model.kind != "generator":
        raise no_words(model)


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


def features_of(model: Model, modality: Modality) -> Features:
    """What gives the vectors of a modality; ModalityError where nothing does."""
    require_encoder(model, modality)
    if modality == "text" and isinstance(model, TextEncoder):
        return model.get_text_features
    if modality == "image" and isinstance(model, ImageEncoder):
        return model.get_image_features
    if modality == "audio" and isinstance(model, AudioEncoder):
        return model.get_audio_features
    raise ModalityError(f"This checkpoint gives no {modality} vectors. Use one that does.")


def unfit(inputs: str) -> InputError:
    """The error of a processor that does not prepare the inputs of its model, such as "audio"."""
    return InputError(f"The processor does not prepare {inputs}. Use the one that `load` gives with the model.")
