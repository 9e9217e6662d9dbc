"""Texts, pictures and sounds in, NumPy vectors or named scores out."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Real
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from tqdm import tqdm

from mlx_mm.backend.parts import run_in_parts, run_row_by_row
from mlx_mm.errors import InputError, MediaError
from mlx_mm.models.contracts import Modality
from mlx_mm.models.modalities import require_encoder
from mlx_mm.processing.read_ahead import prefetch

Batch = dict[str, np.ndarray]
OnError = Callable[[int, MediaError], None]
TOKENS = 16_384  # of a batch of texts, padding included: 32 texts of 512, or 2 of 8192; more only takes more memory
WINDOW = 8  # batches that are prepared together, so that pictures of like size can share a batch
WORKERS = 2  # threads that decode and resize; Pillow releases the interpreter lock


def to_mlx(batch: Batch) -> dict[str, mx.array]:
    """A processor's NumPy arrays as mlx arrays under the same keys; 64-bit numbers become 32-bit ones."""
    narrow = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}
    return {key: mx.array(value.astype(narrow.get(value.dtype, value.dtype))) for key, value in batch.items()}


def encode_text(
    model: Any,
    processor: Any,
    texts: str | Sequence[str],
    *,
    task: str | None = None,
    dim: int | None = None,
    normalize: bool = True,
    max_length: int | None = None,
    truncate: bool = True,
    batch_size: int = 32,
    progress: bool = False,
) -> np.ndarray:
    """One vector per text, float32 (N, D); one str gives (D,).

    task: what the vectors are for, in families that distinguish it. dim: keep the first `dim` numbers. normalize:
    scale to length 1, after cutting. max_length: of a text in tokens, by default the family's. truncate: longer texts
    are cut, and one UserWarning counts them at the end; False refuses them. batch_size: texts at a time; fewer, where
    they are long. progress: show a bar on stderr.
    Raises ModalityError without a text tower, InputError for texts or options that cannot be used.
    """
    require_encoder(model, "text")
    _check_options(batch_size, dim)
    items, single = as_items(texts)
    if strangers := [index for index, item in enumerate(items) if not isinstance(item, str)]:
        kind = type(items[strangers[0]]).__name__
        raise InputError(f"Text number {strangers[0]} is {kind}; expected str. Convert it or leave it out.")

    options = {"task": task, "max_length": max_length, "truncation": truncate}
    cut: list[tuple[int, int]] = []

    def prepare(index: int) -> Batch:
        counts: list[int] = []
        batch: Batch = processor.text([items[index]], on_cut=counts.append, **options)
        cut.extend((count, batch["input_ids"].shape[1]) for count in counts)  # a text that is cut fills its row
        return batch

    result = run_batches(
        model, "text", model.get_text_features, len(items), prepare, processor, batch_size, progress, dim=dim
    )
    if cut:
        _warn_of_cuts(cut, len(items))
    return _finish(result, single, normalize)


def encode_image(
    model: Any,
    processor: Any,
    images: Any,
    *,
    dim: int | None = None,
    normalize: bool = True,
    batch_size: int = 8,
    max_num_patches: int | None = None,
    progress: bool = False,
    on_error: OnError | None = None,
) -> np.ndarray:
    """One vector per picture, float32 (N, D), in the order given; one picture gives (D,).

    images: path, URL, bytes, data URI, PIL image or NumPy array (H, W, 3) uint8, or a list of them.
    max_num_patches: the budget of NaFlex models, more keeps finer detail. on_error: called with the index and the
    MediaError of a picture that cannot be read, whose row is then left out; by default the error is raised.
    Other arguments as in `encode_text`. Raises ModalityError, MediaError, InputError.
    """
    require_encoder(model, "image")
    _check_options(batch_size, dim)
    items, single = as_items(images)
    options = {} if max_num_patches is None else {"max_num_patches": max_num_patches}

    def prepare(index: int) -> Batch:
        batch: Batch = processor.images([items[index]], **options)
        return batch

    features = model.get_image_features
    result = run_batches(model, "image", features, len(items), prepare, processor, batch_size, progress, on_error, dim)
    return _finish(result, single, normalize)


def encode_audio(
    model: Any,
    processor: Any,
    audio: Any,
    *,
    truncation: str = "windows",
    dim: int | None = None,
    normalize: bool = True,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = False,
    on_error: OnError | None = None,
) -> np.ndarray:
    """One vector per sound, float32 (N, D), in the order given; one sound gives (D,).

    audio: path, encoded bytes, or (samples, sampling_rate), or a list of them; any length, any rate.
    truncation: what becomes of sounds longer than the model's 10 s. "windows" averages the unit vectors of consecutive
    windows, and so hears all of it; "rand_trunc" hears one crop, "fusion" three and the whole squeezed, drawn from
    `seed`. normalize=False leaves such an average, or the vector of a short sound, at its own length. batch_size:
    windows at a time. The same sound has the same vector in any batch, to the last bit.
    Other arguments as in `encode_image`. Raises ModalityError, MediaError, InputError.
    """
    require_encoder(model, "audio")
    _check_options(batch_size, dim)
    items, single = as_sounds(audio)

    def windows(index: int) -> Iterator[tuple[Batch, float]]:
        if truncation == "windows":
            yield from processor.windows(items[index])
        else:
            yield processor.audio([items[index]], truncation=truncation, seed=seed), 1.0

    weights = _weights(model, "audio")
    rows: dict[int, list[tuple[float, np.floating, np.ndarray]]] = {}
    waiting: list[tuple[int, Batch, float]] = []

    def run() -> None:
        batch = to_mlx(processor.collate([batch for _, batch, _ in waiting]))
        vectors = np.array(run_row_by_row(model.get_audio_features, batch, weights).astype(mx.float32))
        lengths = [np.linalg.norm(vector) for vector in vectors]
        for (index, _, weight), length, vector in zip(waiting, lengths, _cut(vectors, dim), strict=True):
            if index in rows:
                rows[index].append((weight, length, vector))
        bar.update(len(waiting))
        waiting.clear()

    with tqdm(disable=not progress, unit="window", desc="embedding") as bar:
        for index, item in prefetch(len(items), windows):
            if isinstance(item, BaseException):
                if on_error is None or not isinstance(item, MediaError):
                    raise item
                rows.pop(index, None)  # a file that is damaged further on has no vector
                on_error(index, item)
                continue
            rows.setdefault(index, [])
            waiting.append((index, *item))
            if len(waiting) == batch_size:
                run()
        if waiting:
            run()
    vectors = [_average(rows[index]) for index in sorted(rows)]
    return _finish(np.stack(vectors) if vectors else np.zeros((0, 0), np.float32), single, normalize)


def run_batches(
    model: Any,
    modality: Modality,
    features: Callable[..., mx.array],
    count: int,
    prepare: Callable[[int], Batch],
    processor: Any,
    batch_size: int,
    progress: bool,
    on_error: OnError | None = None,
    dim: int | None = None,
) -> np.ndarray:
    """Prepare `count` items in threads, run them in batches of like size, return the rows in input order."""
    weights = _weights(model, modality)
    rows: dict[int, np.ndarray] = {}
    with tqdm(total=count, disable=not progress, unit="item", desc="embedding") as bar:
        for window in _windows(count, prepare, batch_size * WINDOW):
            ready: list[tuple[int, Batch]] = []
            for index, future in window:
                try:
                    ready.append((index, future.result()))
                except MediaError as error:
                    if on_error is None:
                        raise
                    on_error(index, error)
                    bar.update()
            ready.sort(key=lambda pair: sum(array.size for array in pair[1].values()))
            for chunk in _batches(ready, batch_size):
                output = run_in_parts(features, to_mlx(processor.collate([batch for _, batch in chunk])), weights)
                vectors = _cut(np.array(output.astype(mx.float32)), dim)
                rows.update(zip((index for index, _ in chunk), vectors, strict=True))
                bar.update(len(chunk))
    return np.stack([rows[index] for index in sorted(rows)]) if rows else np.zeros((0, 0), np.float32)


def _batches(ready: list[tuple[int, Batch]], batch_size: int) -> Iterator[list[tuple[int, Batch]]]:
    """The items in order, at most `batch_size` at a time; of texts only as many as TOKENS allows, but one always."""
    chunk: list[tuple[int, Batch]] = []
    longest = 0
    for index, batch in ready:
        tokens = batch["input_ids"].shape[1] if "input_ids" in batch else 0
        longest = max(longest, tokens)
        if chunk and (len(chunk) == batch_size or (len(chunk) + 1) * longest > TOKENS):
            yield chunk
            chunk, longest = [], tokens
        chunk.append((index, batch))
    if chunk:
        yield chunk


def _windows(count: int, prepare: Callable[[int], Batch], size: int) -> Iterator[list[tuple[int, Future[Batch]]]]:
    """Windows of prepared items; the next one is in preparation while the caller uses the last."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        window: list[tuple[int, Future[Batch]]] = []
        for start in range(0, count, size):
            following = [(i, pool.submit(prepare, i)) for i in range(start, min(start + size, count))]
            if window:
                yield window
            window = following
        if window:
            yield window
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cut(vectors: np.ndarray, dim: int | None) -> np.ndarray:
    """The first `dim` numbers of each of (N, D), copied, so that the others do not stay in memory."""
    if dim is None:
        return vectors
    count = vectors.shape[1]
    if dim > count:
        raise InputError(
            f"dim is {dim}; the vectors have {count} numbers, so expected 1 to {count}. Leave it out to keep them all."
        )
    return vectors[:, :dim].copy()


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


def _finish(vectors: np.ndarray, single: bool, normalize: bool) -> np.ndarray:
    single = single and len(vectors) > 0  # a single picture that on_error let pass gives no row
    if normalize and vectors.size:
        vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors[0] if single else vectors


def as_items(items: Any) -> tuple[list[Any], bool]:
    """`items` as a list, and whether it was a single one."""
    if isinstance(items, list | tuple | Iterator):
        return list(items), False
    return [items], True


def as_sounds(audio: Any) -> tuple[list[Any], bool]:
    """The same, where a pair of samples and their rate is one sound."""
    if isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], Real):
        return [audio], True
    return as_items(audio)


def _average(windows: list[tuple[float, np.floating, np.ndarray]]) -> np.ndarray:
    """Of vectors divided by their lengths, by their weights; a single window stays as it is.

    windows: weight, length before cutting, vector.
    """
    if len(windows) == 1:
        return windows[0][2]
    total = sum(weight * vector / length for weight, length, vector in windows)
    return np.asarray(total, np.float32)


def _weights(model: Any, modality: Modality) -> list[nn.Module]:
    """What the features of a modality are computed with; of a lazily loaded model nothing else is read."""
    return [module for module in model.modules_for(modality) if module is not None]


def _check_options(batch_size: int, dim: Any) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected 1 or more.")
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1):
        raise InputError(f"dim is {dim!r}; expected a whole number of 1 or more. Leave it out to keep all numbers.")
