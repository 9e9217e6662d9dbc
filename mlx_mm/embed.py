"""Texts, images and audio in, NumPy vectors out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, TypeAlias, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_mm.backend.border import to_mlx, to_numpy
from mlx_mm.backend.parts import run_in_parts, run_row_by_row
from mlx_mm.errors import InputError, MediaError, whole_number
from mlx_mm.models.contracts import (
    AudioProcessor,
    Features,
    ImageProcessor,
    Model,
    Processor,
    TextProcessor,
)
from mlx_mm.models.modalities import features_of, unfit
from mlx_mm.processing.batch import Batch, as_items
from mlx_mm.processing.chunks import by_size, grouped
from mlx_mm.processing.read_ahead import OnError, read_ahead
from mlx_mm.progress import Progress, progressing

if TYPE_CHECKING:
    from mlx_mm.processing.audio import AudioSource
    from mlx_mm.processing.image import ImageSource

Vectors: TypeAlias = npt.NDArray[np.float32]

BATCHES_PER_WINDOW = 8  # that are prepared together, so that images of like size can share a batch


@dataclass(frozen=True)
class Running:
    """How items run, whatever they are: how many at a time, with a bar on stderr, what happens to those that cannot be
    read, and how many numbers of each vector are kept. Raises InputError for numbers that cannot be used."""

    batch_size: int
    progress: Progress = False
    on_error: OnError | None = None
    dim: int | None = None

    def __post_init__(self) -> None:
        whole_number("batch_size", self.batch_size)
        if self.dim is not None:
            whole_number("dim", self.dim, advice="Leave it out to keep all numbers.")


def encode_text(
    model: Model,
    processor: Processor,
    texts: str | Sequence[str],
    *,
    task: str | None = None,
    dim: int | None = None,
    normalize: bool = True,
    max_length: int | None = None,
    truncate: bool = True,
    batch_size: int = 32,
    progress: Progress = False,
) -> Vectors:
    """One vector per text, float32 (N, D); one str gives (D,).

    task: what the vectors are for, in families that distinguish it. dim: keep the first `dim` numbers. normalize:
    scale to length 1, after cutting. max_length: of a text in tokens, by default the family's. truncate: longer texts
    are cut, and one UserWarning counts them at the end; False refuses them. batch_size: texts at a time; fewer, where
    they are long. progress: show it on stderr, or a function that is called with (done, total).
    Raises ModalityError without a text tower, InputError for texts or options that cannot be used.
    """
    features = features_of(model, "text")
    running = Running(batch_size, progress, dim=dim)
    if processor.kind != "encoder" or not isinstance(processor, TextProcessor):
        raise unfit("texts")
    preparing = processor  # narrowed for good
    given, single = as_items(texts)
    items = [item for item in given if isinstance(item, str)]
    for index, item in enumerate(given):
        if not isinstance(item, str):
            kind = type(item).__name__
            raise InputError(f"Text number {index} is {kind}; expected str. Convert it or leave it out.")
    cut: list[tuple[int, int]] = []

    def prepare(index: int) -> Batch:
        counts: list[int] = []
        batch = preparing.text(
            [items[index]], task=task, max_length=max_length, truncation=truncate, on_cut=counts.append
        )
        cut.extend((count, batch["input_ids"].shape[1]) for count in counts)  # a text that is cut fills its row
        return batch

    result = run_items(features, model.modules_for("text"), len(items), prepare, processor.collate, running)
    if cut:
        _warn_of_cuts(cut, len(items))
    return _finish(result, single, normalize)


def encode_image(
    model: Model,
    processor: Processor,
    images: ImageSource | Sequence[ImageSource],
    *,
    dim: int | None = None,
    normalize: bool = True,
    batch_size: int = 8,
    max_num_patches: int | None = None,
    progress: Progress = False,
    on_error: OnError | None = None,
) -> Vectors:
    """One vector per image, float32 (N, D), in the order given; one image gives (D,).

    images: path, URL, bytes, open file, data URI, PIL image or NumPy array (H, W, 3) uint8, or a list of them.
    max_num_patches: the budget of NaFlex models, more keeps finer detail. on_error: called with the index and the
    MediaError of an image that cannot be read, whose row is then left out; by default the error is raised.
    Other arguments as in `encode_text`. Raises ModalityError, MediaError, InputError.
    """
    items, single = as_items(images)
    running = Running(batch_size, progress, on_error, dim)
    vectors = image_vectors(model, processor, cast("list[ImageSource]", items), running, max_num_patches)
    return _finish(vectors, single, normalize)


def encode_audio(
    model: Model,
    processor: Processor,
    audio: AudioSource | Sequence[AudioSource],
    *,
    truncation: str = "windows",
    dim: int | None = None,
    normalize: bool = True,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress = False,
    on_error: OnError | None = None,
) -> Vectors:
    """One vector per sound, float32 (N, D), in the order given; one sound gives (D,).

    audio: path, URL, bytes, open file, data URI, or (samples, sampling_rate), or a list of them; any length, any rate.
    truncation: what becomes of sounds longer than the model's 10 s. "windows" averages the unit vectors of consecutive
    windows, and so hears all of it; "rand_trunc" hears one crop, "fusion" three and the whole squeezed, drawn from
    `seed`. normalize=False leaves such an average, or the vector of a short sound, at its own length. batch_size:
    windows at a time. The same sound has the same vector in any batch: on a CPU to the last bit, on a GPU but for the
    last digits.
    Other arguments as in `encode_image`. Raises ModalityError, MediaError, InputError.
    """
    items, single = audio_items(audio)
    running = Running(batch_size, progress, on_error, dim)
    vectors = audio_vectors(model, processor, cast("list[AudioSource]", items), running, truncation, seed)
    return _finish(vectors, single, normalize)


def image_vectors(
    model: Model,
    processor: Processor,
    images: Sequence[ImageSource],
    running: Running,
    max_num_patches: int | None = None,
) -> Vectors:
    """(N, D) of the images that can be read, of any length."""
    features = features_of(model, "image")
    prepare, collate = preparing_images(processor, images, max_num_patches)
    return run_items(features, model.modules_for("image"), len(images), prepare, collate, running)


def audio_vectors(
    model: Model,
    processor: Processor,
    audio: Sequence[AudioSource],
    running: Running,
    truncation: str = "windows",
    seed: int = 0,
) -> Vectors:
    """(N, D) of the sounds that can be read, of any length."""
    features = features_of(model, "audio")
    if processor.kind != "encoder" or not isinstance(processor, AudioProcessor):
        raise unfit("audio")
    preparing = processor  # narrowed for good
    heard: dict[int, list[tuple[float, np.floating, Vectors]]] = {}
    broken: set[int] = set()  # those damaged further on have windows, and yet no vector

    def windows(index: int) -> Iterator[tuple[Batch, float]]:
        if truncation == "windows":
            yield from preparing.windows(audio[index])
        else:
            yield preparing.audio([audio[index]], truncation=truncation, seed=seed), 1.0

    def skip(index: int, error: MediaError) -> None:
        broken.add(index)
        if running.on_error is not None:
            running.on_error(index, error)

    def batches() -> Iterator[tuple[list[tuple[int, float]], mx.array]]:
        ready = read_ahead(len(audio), windows, on_error=skip if running.on_error else None)
        for chunk in grouped(ready, running.batch_size):
            batch = to_mlx(processor.collate([batch for _, (batch, _) in chunk]))
            vectors = run_row_by_row(_in_float32(features), batch, list(model.modules_for("audio")))
            _check_dim(running.dim, vectors)
            yield [(index, weight) for index, (_, weight) in chunk], vectors

    with progressing(running.progress, None, "embedding", "window") as advance:
        for chunk, vectors in to_numpy(batches()):
            lengths = [np.linalg.norm(vector) for vector in vectors]
            for (index, weight), length, vector in zip(chunk, lengths, _cut(vectors, running.dim), strict=True):
                heard.setdefault(index, []).append((weight, length, vector))
            advance(len(chunk))
    return _stack([_average(heard[index]) for index in sorted(heard) if index not in broken])


def run_items(
    features: Features,
    weights: Sequence[nn.Module | None],
    count: int,
    prepare: Callable[[int], Batch],
    collate: Callable[[Sequence[Batch]], Batch],
    running: Running,
) -> Vectors:
    """Prepare `count` items in threads, run them in batches of like size, return the rows in input order, (N, D).

    weights: what `features` computes with; of a lazily loaded model nothing else is read.
    """
    rows: dict[int, Vectors] = {}
    window = running.batch_size * BATCHES_PER_WINDOW

    def skip(index: int, error: MediaError) -> None:
        if running.on_error is not None:
            running.on_error(index, error)
        advance(1)

    def batches() -> Iterator[tuple[list[int], mx.array]]:
        ready = read_ahead(
            count,
            lambda index: iter([prepare(index)]),
            inputs_ahead=window,
            on_error=skip if running.on_error else None,
        )
        for items in grouped(ready, window):
            for chunk in by_size(items, running.batch_size):
                batch = to_mlx(collate([batch for _, batch in chunk]))
                vectors = run_in_parts(_in_float32(features), batch, list(weights))
                _check_dim(running.dim, vectors)
                yield [index for index, _ in chunk], vectors

    with progressing(running.progress, count, "embedding", "item") as advance:
        for chunk, vectors in to_numpy(batches()):
            rows.update(zip(chunk, _cut(vectors, running.dim), strict=True))
            advance(len(chunk))
    return _stack([rows[index] for index in sorted(rows)])


def preparing_images(
    processor: Processor, images: Sequence[ImageSource], max_num_patches: int | None = None
) -> tuple[Callable[[int], Batch], Callable[[Sequence[Batch]], Batch]]:
    """What prepares the image of an index, and what joins prepared ones; InputError for a processor of another kind."""
    if processor.kind != "encoder" or not isinstance(processor, ImageProcessor):
        raise unfit("images")
    preparing = processor  # narrowed for good
    options = {} if max_num_patches is None else {"max_num_patches": max_num_patches}
    return lambda index: preparing.images([images[index]], **options), processor.collate


def audio_items(audio: object) -> tuple[list[object], bool]:
    """What `as_items` says of sounds, of which a pair of samples and their rate is one."""
    pair = isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], Real)
    return ([audio], True) if pair else as_items(audio)


def unit_length(vectors: Vectors) -> Vectors:
    """(…, D) in the same directions; of nothing, nothing."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) if vectors.size else vectors


def _in_float32(features: Features) -> Features:
    """The numbers as they are copied out: turning them then would wait for what was submitted meanwhile."""
    return lambda **batch: features(**batch).astype(mx.float32)


def _check_dim(dim: int | None, vectors: mx.array) -> None:
    count = vectors.shape[1]
    if dim is not None and dim > count:
        raise InputError(
            f"dim is {dim}; the vectors have {count} numbers, so expected 1 to {count}. Leave it out to keep them all."
        )


def _cut(vectors: Vectors, dim: int | None) -> Vectors:
    """The first `dim` numbers of each of (N, D), copied, so that the others do not stay in memory."""
    return vectors if dim is None else vectors[:, :dim].copy()


def _average(windows: list[tuple[float, np.floating, Vectors]]) -> Vectors:
    """Of vectors divided by their lengths, by their weights; a single window stays as it is.

    windows: weight, length before cutting, vector.
    """
    if len(windows) == 1:
        return windows[0][2]
    total = sum(weight * vector / length for weight, length, vector in windows)
    return np.asarray(total, np.float32)


def _stack(rows: list[Vectors]) -> Vectors:
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _finish(vectors: Vectors, single: bool, normalize: bool) -> Vectors:
    vectors = unit_length(vectors) if normalize else vectors
    return vectors[0] if single and len(vectors) else vectors  # a single image that on_error let pass gives no row


def _warn_of_cuts(cut: list[tuple[int, int]], count: int) -> None:
    """One warning about the texts that were cut, given their tokens and the limit, out of `count` texts."""
    longest, limit = max(cut)
    verbs, most = ("is", "was"), f"it has {longest}"
    if len(cut) > 1:
        verbs, most = ("are", "were"), f"the longest has {longest}"
    warnings.warn(
        f"{len(cut)} of {count} texts {verbs[0]} longer than {limit} tokens ({most}) and {verbs[1]} cut there. "
        "Where the model allows it, a higher max_length keeps more; truncate=False refuses such texts.",
        stacklevel=3,
    )
