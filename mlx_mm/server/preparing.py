"""What requests are turned into before the engine's thread gets them: decoded, tokenised, checked. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np

from mlx_mm.batches import check_dim
from mlx_mm.classify import Scores, check_labels, score_vectors
from mlx_mm.embed import average_windows, preparing_images
from mlx_mm.errors import InputError, at_place, shown, whole_number
from mlx_mm.models.contracts import AudioProcessor, Modality, TextProcessor
from mlx_mm.models.modalities import features_of, unfit
from mlx_mm.processing.arguments import Texts, flag, strings
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.read_ahead import read_ahead
from mlx_mm.processing.vectors import Vectors, unit_length, unusable, usable
from mlx_mm.server.encodings import Encoding, Portion, Rows, Tower
from mlx_mm.server.models import Loaded, Slot
from mlx_mm.server.tickets import Done, Ticket

if TYPE_CHECKING:
    from mlx_mm.processing.audio import AudioSource
    from mlx_mm.processing.image import ImageSource

TEXTS, PICTURES, WINDOWS = 32, 8, 8  # in one turn


class EmbedOptions(TypedDict, total=False):
    """Those of `encode_text`, `encode_image` and `encode_audio`; the kind decides which may be given."""

    task: str | None
    dim: int | None
    normalize: bool
    max_length: int | None
    truncate: bool
    max_num_patches: int | None
    fast_decode: bool
    truncation: str | None
    seed: int


OPTIONS: dict[Modality, tuple[str, ...]] = {
    "text": ("dim", "normalize", "task", "max_length", "truncate"),
    "image": ("dim", "normalize", "max_num_patches", "fast_decode"),
    "audio": ("dim", "normalize", "truncation", "seed"),
}
Prepare = Callable[[int], list[tuple[Batch, float]]]  # number of an item -> batches of one, each with its weight


def embedding(
    ticket: Ticket[Vectors], slot: Slot, kind: Modality, items: Sequence[object], options: EmbedOptions
) -> Encoding[Vectors]:
    """A request for vectors, whose items are decoded here. Raises what `encode_text` and its like do."""
    dim, to_unit = options.get("dim"), flag("normalize", options.get("normalize", True))
    if dim is not None:
        whole_number("dim", dim, advice="Leave it out to keep all numbers.")
    if idle := sorted(set(options) - set(OPTIONS.get(kind, ()))):
        raise InputError(f"{idle[0]} is given, and the items are {kind}; expected none. Leave it out.")
    loaded = slot.load()
    texts = _Texts()
    tower, prepare = _preparing(loaded, slot.name, kind, items, options, texts)
    portions = _portions(ticket, tower, len(items), prepare)

    def finish(rows: Rows) -> Done[Vectors]:
        vectors = np.stack(_means(rows, kind, dim)) if rows else np.zeros((0, 0), np.float32)
        slot.dimensions = slot.dimensions or (vectors.shape[1] if rows and dim is None else None)
        return Done(unit_length(vectors) if to_unit else vectors, texts.tokens, cut=tuple(sorted(texts.cut)))

    return Encoding(ticket, portions, finish)


def classifying(
    ticket: Ticket[list[Scores]],
    slot: Slot,
    items: Sequence[object],
    labels: Sequence[str] | None,
    template: Texts | None,
) -> Encoding[list[Scores]]:
    """A request for scores, whose items are decoded here. Raises what `mlx_mm.classify` does."""
    words = None if labels is None else strings(list(labels), "Label")[0]
    given = None if template is None else strings(template, "Template")[0]
    loaded = slot.load()
    model = loaded.model
    check_labels(model, words, given)
    if model.kind == "classifier":
        prepare, collate = preparing_images(loaded.processor, cast("list[ImageSource]", items))
        tower = Tower((slot.name, "scores"), model.class_scores, model.modules_for("image"), collate, PICTURES)
        portions = _portions(ticket, tower, len(items), lambda index: [(prepare(index), 1.0)])
        names = list(model.labels)
        return Encoding(ticket, portions, lambda rows: Done(_sorted(names, [row for ((_, row),) in _ordered(rows)])))
    assert model.kind == "encoder"
    assert words is not None
    encoder, chosen = model, words  # narrowed for good
    templates = given if given is not None else [encoder.prompt_template]
    if not templates or any("{}" not in text for text in templates):
        raise InputError(
            f"The template is {shown(template)}; expected one with {{}}. Put {{}} where the label belongs."
        )
    kind: Modality = "audio" if "audio" in encoder.modalities else "image"
    sentences = [text.replace("{}", label) for text in templates for label in chosen]
    portions = []
    parts: Sequence[object]
    role: Modality
    for first, role, parts in ((0, kind, list(items)), (len(items), "text", list(sentences))):
        tower, preparing = _preparing(loaded, slot.name, role, parts, {}, _Texts())
        portions += _portions(ticket, tower, len(parts), preparing, first)

    def finish(rows: Rows) -> Done[list[Scores]]:
        vectors = _means({item: rows[item] for item in range(len(items))}, kind, None)
        of_texts = _means({item: rows[len(items) + item] for item in range(len(sentences))}, "text", None)
        targets = unit_length(np.stack(of_texts)).reshape(len(templates), len(chosen), -1).mean(axis=0)
        if not usable(targets).all():
            raise unusable("mean over the templates of a label has", targets[usable(targets).argmin()])
        if not vectors:
            return Done([])
        return Done(_sorted(chosen, list(score_vectors(encoder, np.stack(vectors), unit_length(targets)))))

    return Encoding(ticket, portions, finish)


class _Texts:
    """What is to learn of texts while they are tokenised. cut: numbers of those that were."""

    def __init__(self) -> None:
        self.tokens = 0
        self.cut: set[int] = set()


def _preparing(
    loaded: Loaded, name: str, kind: Modality, items: Sequence[object], options: EmbedOptions, texts: _Texts
) -> tuple[Tower, Prepare]:
    model, processor = loaded.model, loaded.processor
    features = features_of(model, kind)
    if processor.kind != "encoder":
        raise unfit("items")
    weights, key = model.modules_for(kind), (name, kind)
    if kind == "image":
        patches, fast = options.get("max_num_patches"), flag("fast_decode", options.get("fast_decode", False))
        one, collate = preparing_images(processor, cast("list[ImageSource]", items), patches, fast)
        return Tower(key, features, weights, collate, PICTURES), lambda index: [(one(index), 1.0)]
    if kind == "audio":
        if not isinstance(processor, AudioProcessor):
            raise unfit("audio")
        return Tower(key, features, weights, processor.collate, WINDOWS, exact=True), _sounds(processor, items, options)
    if not isinstance(processor, TextProcessor):
        raise unfit("texts")
    reading = processor  # narrowed for good
    words, truncate = strings(list(items), "Text")[0], flag("truncate", options.get("truncate", True))

    def tokenise(index: int) -> list[tuple[Batch, float]]:
        batch = reading.text(
            [words[index]],
            task=options.get("task"),
            max_length=options.get("max_length"),
            truncation=truncate,
            on_cut=lambda _: texts.cut.add(index),
        )
        mask = batch.get("attention_mask")
        texts.tokens += int(batch["input_ids"].size if mask is None else mask.sum())
        return [(batch, 1.0)]

    return Tower(key, features, weights, processor.collate, TEXTS), tokenise


def _sounds(processor: AudioProcessor, items: Sequence[object], options: EmbedOptions) -> Prepare:
    truncation, seed = options.get("truncation", "windows"), options.get("seed", 0)
    whole = truncation in (None, "windows")
    processor.check_audio(seed=seed, truncation=None if whole else truncation)
    sounds = cast("list[AudioSource]", items)

    def hear(index: int) -> list[tuple[Batch, float]]:
        if whole:
            return list(processor.windows(sounds[index]))
        return [(processor.audio([sounds[index]], truncation=truncation, seed=seed), 1.0)]

    return hear


def _portions(
    ticket: Ticket[Vectors] | Ticket[list[Scores]], tower: Tower, count: int, prepare: Prepare, first: int = 0
) -> list[Portion]:
    """Of all items, several of which are decoded at once; of a request that nobody waits for, fewer."""

    def make(index: int) -> Iterator[tuple[Batch, float]]:
        if not ticket.cancelled:
            with at_place(first + index):
                yield from prepare(index)

    pieces = [(0, piece) for piece in make(0)] if count == 1 else read_ahead(count, make)
    return [Portion(tower, first + index, batch, weight) for index, (batch, weight) in pieces]


def _ordered(rows: Rows) -> list[list[tuple[float, Vectors]]]:
    return [rows[item] for item in sorted(rows)]


def _means(rows: Rows, kind: Modality, dim: int | None) -> list[Vectors]:
    """A vector of each item, as long as asked for, of any length above 0."""
    means = []
    for item, windows in enumerate(_ordered(rows)):
        check_dim(dim, len(windows[0][1]))
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [(weight, np.linalg.norm(row), row[:dim].copy()) for weight, row in windows]
        mean = average_windows(parts)
        if not usable(mean[None]).all():
            raise unusable(f"vector of {kind} number {item} has", mean)
        means.append(mean)
    return means


def _sorted(names: Sequence[str], scores: Sequence[Vectors]) -> list[Scores]:
    for row in scores:
        if not usable(row[None], scores=True).all():
            raise unusable("scores that the model gives vectors have", row)
    return [sorted(zip(names, row.tolist(), strict=True), key=lambda pair: -pair[1]) for row in scores]
