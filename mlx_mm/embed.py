"""Texts, images and audio in, NumPy vectors out."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING, cast

import numpy as np

from mlx_mm.batches import Running, checked, cut, named, rows_of, run_items, stack
from mlx_mm.errors import MlxMmError, shown
from mlx_mm.models.contracts import AudioProcessor, ImageProcessor, Model, Processor, TextProcessor
from mlx_mm.models.modalities import check_loaded, features_of, unfit
from mlx_mm.processing.arguments import Texts, flag, strings, unpacked
from mlx_mm.processing.batch import Batch, as_items
from mlx_mm.processing.chunks import grouped
from mlx_mm.processing.read_ahead import OnError, read_ahead
from mlx_mm.processing.vectors import Vectors, unit_length
from mlx_mm.progress import Progress, progressing

if TYPE_CHECKING:
    from mlx_mm.processing.audio import AudioSource
    from mlx_mm.processing.image import ImageSource

PICTURE_AXES = 4  # of an array of several pictures


def encode_text(
    model: Model,
    processor: Processor,
    texts: Texts,
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

    texts: one, or any list, array, column or iterator of them. task: what the vectors are for, in families that
    distinguish it. dim: keep the first `dim` numbers. normalize: scale to length 1, after cutting. max_length: of a
    text in tokens, by default the family's. truncate: longer texts are cut, and one UserWarning counts them at the
    end; False refuses them. batch_size: texts at a time, 512 at most and fewer, where they are long. progress: show it
    on stderr, or a function that is called with (done, total) in the thread of the caller.
    Raises ModalityError without a text tower, InputError for texts or options that cannot be used, WeightsError for a
    vector that is not finite or has no length.
    """
    running, to_unit = Running(batch_size, progress, dim=dim), flag("normalize", normalize)
    check_loaded(model, processor)
    features, cutting = features_of(model, "text"), flag("truncate", truncate)
    if processor.kind != "encoder" or not isinstance(processor, TextProcessor):
        raise unfit("texts")
    preparing = processor  # narrowed for good
    items, single = strings(texts, "Text")
    cut: list[tuple[int, int]] = []

    def prepare(index: int) -> Batch:
        counts: list[int] = []
        batch = preparing.text(
            [items[index]], task=task, max_length=max_length, truncation=cutting, on_cut=counts.append
        )
        cut.extend((count, batch["input_ids"].shape[1]) for count in counts)  # a text that is cut fills its row
        return batch

    def name(index: int) -> str:
        return f"text number {index} ({shown(items[index])})"

    weights = model.modules_for("text")
    result = run_items(features, weights, len(items), prepare, processor.collate, running, name)
    if cut:
        _warn_of_cuts(cut, len(items))
    return _finish(result, single, to_unit)


def encode_image(
    model: Model,
    processor: Processor,
    images: ImageSource | Iterable[ImageSource],
    *,
    dim: int | None = None,
    normalize: bool = True,
    batch_size: int = 8,
    max_num_patches: int | None = None,
    fast_decode: bool = False,
    progress: Progress = False,
    on_error: OnError | None = None,
) -> Vectors:
    """One vector per image, float32 (N, D), in the order given; one image gives (D,).

    images: path, URL, bytes, open file, data URI, PIL image or NumPy array (H, W, 3) uint8, or several in a list, an
    array (N, H, W, 3), a column or an iterator. max_num_patches: the budget of NaFlex models, more keeps finer detail.
    fast_decode: large photos take a fifth of the time, and their vectors differ from the exact ones by about 1e-4
    in cosine. on_error: called, in the thread of the caller, with the index and the error of an image that cannot be
    read or has no vector, whose row is then left out; by default the error is raised. It is a MediaError, or an
    InputError or WeightsError that only this image meets; options that cannot be used are raised in any case.
    Other arguments as in `encode_text`. Raises ModalityError, MediaError, InputError, WeightsError.
    """
    running, to_unit = Running(batch_size, progress, on_error, dim), flag("normalize", normalize)
    items, single = as_items(unpacked(images, PICTURE_AXES))
    sources = cast("list[ImageSource]", items)
    return _finish(image_vectors(model, processor, sources, running, max_num_patches, fast_decode), single, to_unit)


def encode_audio(
    model: Model,
    processor: Processor,
    audio: AudioSource | Iterable[AudioSource],
    *,
    truncation: str | None = "windows",
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
    windows at a time; progress counts sounds. The same sound has the same vector in any batch: on a CPU to the last
    bit, on a GPU but for the last digits.
    Other arguments as in `encode_image`. Raises ModalityError, MediaError, InputError, WeightsError.
    """
    running, to_unit = Running(batch_size, progress, on_error, dim), flag("normalize", normalize)
    items, single = audio_items(audio)
    vectors = audio_vectors(model, processor, cast("list[AudioSource]", items), running, truncation, seed)
    return _finish(vectors, single, to_unit)


def image_vectors(
    model: Model,
    processor: Processor,
    images: Sequence[ImageSource],
    running: Running,
    patches: int | None = None,
    fast: bool = False,
) -> Vectors:
    """(N, D) of the images that can be read, of any length above 0."""
    check_loaded(model, processor)
    features = features_of(model, "image")
    prepare, collate = preparing_images(processor, images, patches, fast)
    name = named("image", images)
    return run_items(features, model.modules_for("image"), len(images), prepare, collate, running, name)


def audio_vectors(
    model: Model,
    processor: Processor,
    audio: Sequence[AudioSource],
    running: Running,
    truncation: str | None = "windows",
    seed: int = 0,
) -> Vectors:
    """(N, D) of the sounds that can be read, of any length above 0."""
    check_loaded(model, processor)
    features = features_of(model, "audio")
    if processor.kind != "encoder" or not isinstance(processor, AudioProcessor):
        raise unfit("audio")
    preparing = processor  # narrowed for good
    whole = truncation in (None, "windows")
    preparing.check_audio(seed=seed, truncation=None if whole else truncation)
    heard: dict[int, list[tuple[float, np.floating, Vectors]]] = {}
    broken: set[int] = set()  # those damaged further on have windows, and yet no vector
    rows: dict[int, Vectors] = {}
    name = named("sound", audio)

    def windows(index: int) -> Iterator[tuple[Batch, float]]:
        if whole:
            yield from preparing.windows(audio[index])
        else:
            yield preparing.audio([audio[index]], truncation=truncation, seed=seed), 1.0

    def skip(index: int, error: MlxMmError) -> None:
        broken.add(index)
        if running.on_error is not None:
            running.on_error(index, error)
        advance(1)

    def finish(end: int) -> None:
        """The sounds before that index have no more windows."""
        for index in [index for index in heard if index < end]:
            average = _average(heard.pop(index))
            if index not in broken:
                rows.update(checked([index], average[None], running, name))
                advance(1)

    with (
        progressing(running.progress, len(audio), "embedding", "sound") as advance,
        contextlib.closing(
            read_ahead(len(audio), windows, on_error=None if running.on_error is None else skip)
        ) as ready,
    ):
        pieces = (((index, weight), batch) for index, (batch, weight) in ready)
        chunks = grouped(pieces, running.at_once)
        weights = model.modules_for("audio")
        for keys, vectors in rows_of(features, weights, chunks, processor.collate, running.dim, row_by_row=True):
            with np.errstate(over="ignore", invalid="ignore"):
                lengths = [np.linalg.norm(vector) for vector in vectors]
            for (index, weight), length, vector in zip(keys, lengths, cut(vectors, running.dim), strict=True):
                heard.setdefault(index, []).append((weight, length, vector))
            finish(keys[-1][0])
        finish(len(audio))
    return stack([rows[index] for index in sorted(rows)])


def preparing_images(
    processor: Processor, images: Sequence[ImageSource], patches: int | None = None, fast: bool = False
) -> tuple[Callable[[int], Batch], Callable[[Sequence[Batch]], Batch]]:
    """What prepares the image of an index, and what joins prepared ones; InputError for a processor of another kind."""
    if processor.kind != "encoder" or not isinstance(processor, ImageProcessor):
        raise unfit("images")
    preparing = processor  # narrowed for good
    preparing.check_images(max_num_patches=patches, fast_decode=fast)
    return lambda index: preparing.images([images[index]], max_num_patches=patches, fast_decode=fast), processor.collate


def audio_items(audio: object) -> tuple[list[object], bool]:
    """What `as_items` says of sounds, of which a pair of samples and their rate is one."""
    pair = isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], Real)
    return ([audio], True) if pair else as_items(unpacked(audio))


def _average(windows: list[tuple[float, np.floating, Vectors]]) -> Vectors:
    """Of vectors divided by their lengths, by their weights; a single window stays as it is.

    windows: weight, length before cutting, vector.
    """
    if len(windows) == 1:
        return windows[0][2]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # what is not finite is refused
        total = sum(weight * vector / length for weight, length, vector in windows)
    return np.asarray(total, np.float32)


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
