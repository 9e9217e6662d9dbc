"""Pictures and sounds in, scores of labels out."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_mm.embed import (
    Batch,
    OnError,
    as_items,
    as_sounds,
    encode_audio,
    encode_image,
    encode_text,
    run_batches,
)
from mlx_mm.errors import InputError, ModalityError
from mlx_mm.models.contracts import Checked
from mlx_mm.models.modalities import refuse_generators, require_modality


def classify(
    model: Any,
    processor: Any,
    item: Any,
    labels: Sequence[str] | None = None,
    *,
    template: str | Sequence[str] | None = None,
    batch_size: int = 8,
    progress: bool = False,
    on_error: OnError | None = None,
) -> list[Any]:
    """Score a picture or a sound against labels: [(label, score), …], best first. A list gives a list of those.

    labels: the words to choose from; None uses the checkpoint's own classification head. template: sentence with
    {} for the label, by default the family's; of several, the vectors are averaged. SigLIP's scores are sigmoids:
    each says how well its label fits, and they do not add up to 1. Other arguments as in `encode_image` and
    `encode_audio`.
    Raises InputError without labels or for a template without {}.
    """
    refuse_generators(model)
    hears = "audio" in model.modalities
    items, single = as_sounds(item) if hears else as_items(item)
    if labels is None:
        scores, names = _head_scores(model, processor, items, template, batch_size, progress, on_error)
    else:
        targets = encode_labels(model, processor, labels, template)
        names = list(labels)
        encode = encode_audio if hears else encode_image
        vectors = encode(model, processor, items, batch_size=batch_size, progress=progress, on_error=on_error)
        scores = np.array(model.score(mx.array(vectors), mx.array(targets))) if len(vectors) else vectors
    rows = [sorted(zip(names, row.tolist(), strict=True), key=lambda pair: -pair[1]) for row in scores]
    return rows[0] if single and rows else rows


def check_labels(model: Checked, labels: Sequence[str] | None, template: str | Sequence[str] | None = None) -> None:
    """Raise ModalityError or InputError for labels that the checkpoint cannot tell apart, or a template it has no use
    for; labels None stands for its own."""
    refuse_generators(model)
    if labels is None:
        if model.kind != "classifier":
            raise InputError("This checkpoint has no classification head. Give the labels to choose from (--labels).")
        if template is not None:
            raise InputError("A classification head takes no template. Leave it out.")
    elif model.kind == "classifier":
        raise ModalityError("This checkpoint is a classifier with labels of its own. Leave the labels out.")
    elif isinstance(labels, str) or not labels:
        raise InputError("There are no labels to choose from. Give a list of one or more words.")
    else:
        require_modality(model, "text")


def encode_labels(
    model: Any, processor: Any, labels: Sequence[str], template: str | Sequence[str] | None = None
) -> np.ndarray:
    """Unit vectors of labels inside their template(s), float32 (N, D)."""
    check_labels(model, labels)
    templates = [model.prompt_template] if template is None else as_items(template)[0]
    if not templates:
        raise InputError("The list of templates is empty. Give one or more, or leave it out.")
    for text in templates:
        if "{}" not in text:
            raise InputError(f"The template {text!r} has no {{}}. Put {{}} where the label belongs.")
    texts = [text.replace("{}", label) for text in templates for label in labels]
    vectors = encode_text(model, processor, texts).reshape(len(templates), len(labels), -1).mean(axis=0)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _head_scores(
    model: Any,
    processor: Any,
    items: list[Any],
    template: Any,
    batch_size: int,
    progress: bool,
    on_error: OnError | None,
) -> tuple[np.ndarray, list[str]]:
    check_labels(model, None, template)

    def prepare(index: int) -> Batch:
        batch: Batch = processor.images([items[index]])
        return batch

    def scores(**batch: mx.array) -> mx.array:
        result: mx.array = model.class_scores(model(**batch).logits)
        return result

    rows = run_batches(model, "image", scores, len(items), prepare, processor, batch_size, progress, on_error)
    return rows, list(model.labels)
