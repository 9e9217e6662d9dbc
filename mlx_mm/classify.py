"""Images and audio in, scores of labels out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast, overload

import mlx.core as mx
import numpy as np

from mlx_mm.backend.streams import compute
from mlx_mm.batches import Running, named, run_items
from mlx_mm.embed import (
    PICTURE_AXES,
    audio_items,
    audio_vectors,
    encode_text,
    image_vectors,
    preparing_images,
)
from mlx_mm.errors import InputError, ModalityError, shown
from mlx_mm.models.contracts import Checked, Encoder, Model, Processor
from mlx_mm.models.modalities import check_loaded, refuse_generators, require_modality
from mlx_mm.processing.arguments import Texts, flag, strings, unpacked
from mlx_mm.processing.batch import as_items
from mlx_mm.processing.read_ahead import OnError
from mlx_mm.processing.vectors import Vectors, unit_length, unusable, usable
from mlx_mm.progress import Progress

if TYPE_CHECKING:
    from mlx_mm.processing.audio import AudioSource
    from mlx_mm.processing.image import ImageSource

    Source = TypeVar("Source", bound=ImageSource | AudioSource)

Scores: TypeAlias = list[tuple[str, float]]


@overload
def classify(
    model: Model,
    processor: Processor,
    item: ImageSource | AudioSource,
    labels: Iterable[str] | None = None,
    *,
    template: Texts | None = None,
    batch_size: int = 8,
    fast_decode: bool = False,
    progress: Progress = False,
    on_error: OnError | None = None,
) -> Scores: ...


@overload
def classify(
    model: Model,
    processor: Processor,
    item: list[Source],
    labels: Iterable[str] | None = None,
    *,
    template: Texts | None = None,
    batch_size: int = 8,
    fast_decode: bool = False,
    progress: Progress = False,
    on_error: OnError | None = None,
) -> list[Scores]: ...


def classify(
    model: Model,
    processor: Processor,
    item: ImageSource | AudioSource | list[Source],
    labels: Iterable[str] | None = None,
    *,
    template: Texts | None = None,
    batch_size: int = 8,
    fast_decode: bool = False,
    progress: Progress = False,
    on_error: OnError | None = None,
) -> Scores | list[Scores]:
    """Score an image or a sound against labels: [(label, score), …], best first. A list gives a list of those.

    labels: the words to choose from, in a list, array or column; None uses the checkpoint's own classification head.
    template: sentence with {} for the label, by default the family's; of several, the vectors are averaged. SigLIP's
    scores are sigmoids: each says how well its label fits, and they do not add up to 1. Other arguments as in
    `encode_image` and `encode_audio`.
    Raises InputError without labels or for a template without {}, WeightsError for scores that are not finite.
    """
    running, fast = Running(batch_size, progress, on_error), flag("fast_decode", fast_decode)
    check_loaded(model, processor)
    labels = None if labels is None else _labels(labels)
    template = None if template is None else strings(template, "Template")[0]
    check_labels(model, labels, template)
    hears = "audio" in model.modalities
    if hears and fast:
        raise InputError("fast_decode is about pictures, and this model takes sounds; expected none. Leave it out.")
    items, single = audio_items(item) if hears else as_items(unpacked(item, PICTURE_AXES))
    images, audio = cast("list[ImageSource]", items), cast("list[AudioSource]", items)  # one of them
    if model.kind == "classifier":
        prepare, collate = preparing_images(processor, images, fast=fast)
        weights, name = model.modules_for("image"), named("image", images)
        scores = run_items(model.class_scores, weights, len(images), prepare, collate, running, name, scores=True)
        names = list(model.labels)
    elif model.kind == "encoder" and labels is not None:
        names = list(labels)
        targets = encode_labels(model, processor, labels, template)
        if hears:
            vectors = audio_vectors(model, processor, audio, running)
        else:
            vectors = image_vectors(model, processor, images, running, fast=fast)
        scores = score_vectors(model, vectors, targets) if len(vectors) else vectors
        if not (good := usable(scores, scores=True)).all():
            raise unusable("scores that the model gives vectors have", scores[good.argmin()])
    rows = [sorted(zip(names, row.tolist(), strict=True), key=lambda pair: -pair[1]) for row in scores]
    return rows[0] if single and rows else rows


def score_vectors(model: Encoder, vectors: Vectors, targets: Vectors) -> Vectors:
    """Scores (N, M) of vectors (N, D) of any length against unit vectors of labels (M, D)."""
    return compute(lambda: np.array(model.score(mx.array(unit_length(vectors)), mx.array(targets))), model)


def _labels(labels: object) -> list[str]:
    """Labels as a list; InputError for a single word, which would be taken for the list of its letters."""
    found, single = strings(labels, "Label")
    if single:
        raise InputError(
            f"labels is {shown(labels)}; expected a list of one or more words. Put a single one in a list."
        )
    return found


def check_labels(model: Checked, labels: Sequence[str] | None, template: str | Sequence[str] | None = None) -> None:
    """Raise ModalityError or InputError for labels that the checkpoint cannot tell apart, or a template it has no use
    for; labels None stands for its own."""
    refuse_generators(model)
    if labels is None:
        if model.kind != "classifier":
            raise InputError(
                "This checkpoint has no classification head, and no labels were given; expected some. Give the labels "
                "to choose from (--labels)."
            )
        if template is not None:
            raise InputError("A classification head takes no template; expected none. Leave it out.")
    elif model.kind == "classifier":
        raise ModalityError(
            "This checkpoint is a classifier with labels of its own; expected no others. Leave them out."
        )
    elif not labels:
        raise InputError("There are no labels to choose from; expected one or more. Give a list of words.")
    else:
        require_modality(model, "text")


def encode_labels(
    model: Encoder, processor: Processor, labels: Iterable[str], template: Texts | None = None
) -> Vectors:
    """Unit vectors of labels inside their template(s), float32 (N, D)."""
    labels = _labels(labels)
    templates = [model.prompt_template] if template is None else strings(template, "Template")[0]
    if not templates:
        raise InputError("The list of templates is empty; expected one at least. Give one, or leave it out.")
    for text in templates:
        if "{}" not in text:
            raise InputError(f"The template {shown(text)} has no {{}}; expected one. Put {{}} where the label belongs.")
    texts = [text.replace("{}", label) for text in templates for label in labels]
    means = encode_text(model, processor, texts).reshape(len(templates), len(labels), -1).mean(axis=0)
    if not (good := usable(means)).all():
        place = int(good.argmin())
        raise unusable(f"mean over the templates of label number {place} ({shown(labels[place])}) has", means[place])
    return unit_length(means)
