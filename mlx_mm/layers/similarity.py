"""Vectors of two towers, compared."""

from collections.abc import Callable

import mlx.core as mx

from mlx_mm.errors import InputError
from mlx_mm.layers.outputs import ImageTextOutput, TowerOutput, pooled


def unit_length(x: mx.array) -> mx.array:
    """(…, D) -> the same directions with Euclidean length 1, float32: a length in bfloat16 would be 0.4 % off."""
    x = x.astype(mx.float32)
    return x / mx.linalg.norm(x, axis=-1, keepdims=True)


def check_inputs(text: object, other: object, name: str) -> None:
    """Raise InputError where a joint model is called with neither input. name: the argument of the other tower."""
    if text is None and other is None:
        raise InputError(f"The model was called without input_ids and without {name}; give at least one.")


def check_pairs(texts: mx.array | None, items: mx.array | None, kind: str) -> None:
    """Raise InputError where a loss is asked for without pairs of vectors. kind: what the texts belong to."""
    if texts is None or items is None or len(texts) != len(items):
        found = "one kind only" if texts is None or items is None else f"{len(texts)} and {len(items)}"
        raise InputError(f"return_loss compares pairs: expected as many texts as {kind}, found {found}.")


def compare(
    text: TowerOutput | None,
    vision: TowerOutput | None,
    logits: Callable[[mx.array, mx.array], mx.array],
    loss: Callable[[mx.array], mx.array] | None,
) -> ImageTextOutput:
    """What a joint model returns for the pooled vectors of its towers; None: that input was not given.

    logits: unit vectors (N, D) and (M, D) -> (N, M). loss: of the square logits of pairs, or None.
    Raises InputError without any input, or where a loss is asked for without pairs.
    """
    check_inputs(text, vision, "pixel_values")
    text_embeds = None if text is None else unit_length(pooled(text))
    image_embeds = None if vision is None else unit_length(pooled(vision))
    if loss is not None:
        check_pairs(text_embeds, image_embeds, "images")
    per_text = None if text_embeds is None or image_embeds is None else logits(text_embeds, image_embeds)
    return ImageTextOutput(
        loss=None if loss is None or per_text is None else loss(per_text),
        logits_per_image=None if per_text is None else per_text.T,
        logits_per_text=per_text,
        text_embeds=text_embeds,
        image_embeds=image_embeds,
        text_model_output=text,
        vision_model_output=vision,
    )
