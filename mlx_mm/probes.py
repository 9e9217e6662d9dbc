"""What a model is tried on when its rounding is measured: bundled texts, pictures, sounds and questions, or others."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import mlx.core as mx
import numpy as np

from mlx_mm.backend.border import to_mlx
from mlx_mm.backend.streams import compute
from mlx_mm.checkpoint.hub import BUNDLED
from mlx_mm.errors import InputError, foreign, shown
from mlx_mm.models.contracts import (
    AudioProcessor,
    ChatProcessor,
    Checked,
    EncoderProcessor,
    ImageProcessor,
    Modality,
    Model,
    Processor,
    TextProcessor,
)
from mlx_mm.models.modalities import features_of, unfit
from mlx_mm.processing.arguments import text_or_path
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.endings import AUDIO_ENDINGS, image_endings
from mlx_mm.processing.files import load_json, read_regular

if TYPE_CHECKING:
    from mlx_mm.processing.audio import AudioSource
    from mlx_mm.processing.image import ImageSource

Item = TypeVar("Item")

MOST = 64  # of each kind that are taken of a folder
MOST_TEXTS = 256  # which cost less
MOST_CHATS = 16  # which cost more: each is a prompt with its pictures
MOST_CHARACTERS = 2000  # of a text; what follows is left out
MOST_PIXELS = 512 * 512  # of a picture in a chat
MOST_BYTES = 64 << 20  # of a file of texts
PER_BATCH = {"text": 64, "image": 16, "audio": 16}
CHATS_PER_BATCH = 8
# Of what is rounded with, in all: tokens of texts, padding included, and numbers of 8192 patches of 16 x 16 pixels.
MOST_NUMBERS = {"text": 8192, "image": 8192 * 768, "audio": 8192 * 768}
LAST_TOKENS = 32  # of each prompt, after which the logits are kept: all of them would take 0.6 MB a token
FEW = 8  # items of a kind below which all of them serve both purposes
QUESTION = "What is in this picture?"  # of a picture that a generator is tried on
KINDS = {"text": "texts", "image": "pictures", "audio": "sounds"}


@dataclass(frozen=True)
class Chat:
    """A question with its pictures."""

    text: str
    images: tuple[ImageSource, ...] = ()


@dataclass(frozen=True)
class Probes:
    """What a model is tried on. name: "bundled", or the folder they are from. rounding_texts: bundled ones that are not
    measured with."""

    name: str
    texts: tuple[str, ...] = ()
    images: tuple[ImageSource, ...] = ()
    sounds: tuple[AudioSource, ...] = ()
    chats: tuple[Chat, ...] = ()
    rounding_texts: tuple[str, ...] = ()

    def halves(self) -> tuple[Probes, Probes]:
        """Every second item to round with, and the others to measure with; of fewer than 8 of a kind all to both.

        Any beginning of those to round with is spread evenly over them, with the rounding_texts behind other texts.
        """
        half = self._half(0)
        texts = scattered(half.texts) + scattered(self.rounding_texts)
        rounding = dataclasses.replace(half, texts=texts, images=scattered(half.images), sounds=scattered(half.sounds))
        return rounding, self._half(1)

    def _half(self, start: int) -> Probes:
        parts = _half(self.texts, start), _half(self.images, start), _half(self.sounds, start)
        return Probes(self.name, *parts, _half(self.chats, start))


def bundled_probes() -> Probes:
    """Those that come with the package: texts in 15 languages, its pictures, sounds, and questions about pictures."""
    values = cast("dict[str, object]", load_json(BUNDLED / "probes.json"))
    texts, rounding = (
        tuple(itertools.chain.from_iterable(cast("dict[str, list[str]]", values[name]).values()))
        for name in ("texts", "rounding")
    )
    chats = cast("list[dict[str, object]]", values["chats"])
    pictures = BUNDLED / "pictures"
    return Probes(
        "bundled",
        texts,
        tuple(sorted(pictures.glob("*.png"))),
        (*sorted((BUNDLED / "sounds").glob("*.flac")), *synthetic_sounds()),
        tuple(
            Chat(cast(str, chat["text"]), tuple(pictures / name for name in cast("list[str]", chat["images"])))
            for chat in chats
        ),
        rounding,
    )


def folder_probes(path: str | os.PathLike[str]) -> Probes:
    """A user's: the pictures and sounds in a folder and those below, texts of .txt (one a line) and chats of .jsonl.

    A line of .jsonl is a text, or {"text": question, "images": [paths, as seen from the file]}. Of more than 64 of a
    kind (256 texts, 16 chats) as many are taken, evenly spread over the sorted names; hidden files are passed over.
    Raises InputError for a folder that has none of them.
    """
    text_or_path("calibrate", path, "a folder with pictures, sounds or texts")
    folder = Path(path).expanduser()
    if not os.fspath(path) or not folder.is_dir():
        raise InputError(f"{shown(str(path))} is no folder; expected one with pictures, sounds, .txt or .jsonl files.")
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _hidden(file.relative_to(folder)))
    of = {ending: [file for file in files if file.suffix.lower() == ending] for ending in (".txt", ".jsonl")}
    items = [item for file in of[".jsonl"] for item in _items(file)]
    texts = [line for file in of[".txt"] for line in _lines(file)] + [item for item in items if isinstance(item, str)]
    chats = [item for item in items if isinstance(item, Chat)]
    images = [file for file in files if file.suffix.lower() in image_endings()]
    sounds = [file for file in files if file.suffix.lower() in AUDIO_ENDINGS]
    if not (texts or chats or images or sounds):
        raise InputError(
            f"{folder} holds {len(files)} files, none of which can be used; expected pictures, sounds, .txt files with "
            "a text a line, or .jsonl. Name another folder."
        )
    return Probes(
        str(folder),
        tuple(text[:MOST_CHARACTERS] for text in spread(texts, MOST_TEXTS)),
        tuple(spread(images, MOST)),
        tuple(spread(sounds, MOST)),
        tuple(spread(chats, MOST_CHATS)),
    )


def fitting(probes: Probes, model: Checked) -> Probes:
    """Those that a model takes, completed by bundled ones of the kinds that it takes and `probes` lack.

    Questions of a generator are made of texts and pictures where there are none. Raises InputError where all are of
    other kinds.
    """
    bundled = bundled_probes()
    if model.kind == "generator":
        made = [*map(Chat, probes.texts), *(Chat(QUESTION, (image,)) for image in probes.images)]
        chats = probes.chats or tuple(made)
        if not chats:
            raise _wrong_kind(probes, model)
        return Probes(probes.name, chats=tuple(spread(chats, max(MOST_CHATS, len(probes.chats)))))
    texts = probes.texts or tuple(chat.text for chat in probes.chats)
    images = probes.images or tuple(image for chat in probes.chats for image in chat.images)
    given = {"text": texts, "image": images, "audio": probes.sounds}
    own: dict[str, tuple[object, ...]] = {"text": bundled.texts, "image": bundled.images, "audio": bundled.sounds}
    if not any(given[modality] for modality in model.modalities):
        raise _wrong_kind(probes, model)
    taken = {modality: (given[modality] or own[modality]) for modality in model.modalities}
    return Probes(
        probes.name,
        cast("tuple[str, ...]", taken.get("text", ())),
        cast("tuple[ImageSource, ...]", taken.get("image", ())),
        cast("tuple[AudioSource, ...]", taken.get("audio", ())),
        rounding_texts=bundled.rounding_texts if "text" in taken else (),
    )


def prepared(probes: Probes, model: Checked, processor: Processor) -> dict[Modality, list[Batch]]:
    """The arrays of `probes`, by what they are, in a few batches each; `run` takes each of them.

    Of an encoder or classifier up to 16 items (64 texts) in a batch, padded where its processor pads, with an
    attention_mask where it has one. Of a generator "text" are prompts without pictures, "image" those with some, up to
    8 in a batch, padded on the left (attention_mask 0); logits_to_keep are the places of the last 32 tokens.
    """
    if processor.kind == "chat":
        return _chats(probes, processor)
    batches: dict[Modality, list[Batch]] = {}
    for modality in model.modalities:
        items: Sequence[object] = {"text": probes.texts, "image": probes.images, "audio": probes.sounds}[modality]
        if items and modality in processor.modalities:
            batches[modality] = [_encoded(modality, chunk, processor) for chunk in _chunks(items, PER_BATCH[modality])]
    return batches


def joined(batches: Mapping[Modality, Sequence[Batch]], processor: Processor) -> dict[Modality, Batch]:
    """What `prepared` gives, each kind in one batch of no more than MOST_NUMBERS, or 8 items, as rounding wants it; of
    a generator all prompts in one."""
    if processor.kind != "chat":
        return {modality: _fewer(processor.collate(some), MOST_NUMBERS[modality]) for modality, some in batches.items()}
    together = processor.collate([batch for some in batches.values() for batch in some])
    return {"image" if "image" in batches else "text": keep_last(together, LAST_TOKENS)}


def run(model: Model, modality: Modality, batch: Batch) -> mx.array:
    """Float32: vectors (B, D) of an encoder, scores (B, labels) of a classifier, logits (B, L, V) of a generator."""
    if model.kind == "generator":
        features = model.token_logits
    else:
        features = model.class_scores if model.kind == "classifier" else features_of(model, modality)
    arrays = to_mlx(batch)

    def compute_it() -> mx.array:
        result = features(**arrays).astype(mx.float32)
        mx.eval(result)
        return result

    return compute(compute_it, list(arrays.values()))


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]


def scattered(items: Sequence[Item]) -> tuple[Item, ...]:
    """All of them, in an order of which any beginning is spread evenly: by the bits of their numbers, turned round (van
    der Corput's sequence)."""
    digits = len(items).bit_length()
    return tuple(items[number] for number in sorted(range(len(items)), key=lambda number: f"{number:0{digits}b}"[::-1]))


@functools.cache
def synthetic_sounds() -> tuple[tuple[np.ndarray, int], ...]:
    """(samples, sampling_rate) of eight kinds of sound, 5 s each: tones, chords, sweeps, noises, beats."""
    rate = 48000
    time = np.arange(5 * rate) / rate
    noise = np.random.RandomState(0).standard_normal(len(time))  # frozen, unlike NumPy's default generator
    beats = np.exp(-20 * (time % 0.5))
    sounds = [
        np.sin(2 * np.pi * 440 * time),
        sum(np.sin(2 * np.pi * f * time) for f in (262, 330, 392)) / 3,
        np.sin(2 * np.pi * (200 + 400 * time) * time),
        np.sin(2 * np.pi * 900 * time + 8 * np.sin(2 * np.pi * 6 * time)),
        noise / 4,
        np.cumsum(noise) / np.abs(np.cumsum(noise)).max(),
        beats * noise / 4,
        beats * np.sin(2 * np.pi * 80 * time),
    ]
    return tuple(((0.5 * sound).astype(np.float32), rate) for sound in sounds)


def _half(items: Sequence[Item], start: int) -> tuple[Item, ...]:
    return tuple(items[start::2] if len(items) >= FEW else items)


def _chunks(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """As few as possible, of nearly equal length."""
    count = -(-len(items) // most)
    bounds = [len(items) * part // count for part in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


def _fewer(batch: Batch, most: int) -> Batch:
    """So many of its first items as have that many numbers in their largest arrays."""
    largest = max(batch.values(), key=lambda array: array.size)
    return {name: array[: max(FEW, most // largest[0].size)] for name, array in batch.items()}


def _encoded(modality: Modality, items: Sequence[object], processor: EncoderProcessor) -> Batch:
    if modality == "text" and isinstance(processor, TextProcessor):
        return processor.collate([processor.text([text]) for text in cast("Sequence[str]", items)])
    if modality == "image" and isinstance(processor, ImageProcessor):
        return processor.collate([processor.images([image]) for image in cast("Sequence[ImageSource]", items)])
    if modality == "audio" and isinstance(processor, AudioProcessor):
        return processor.collate([processor.audio([sound]) for sound in cast("Sequence[AudioSource]", items)])
    raise unfit(KINDS.get(modality, modality))


def _chats(probes: Probes, processor: ChatProcessor) -> dict[Modality, list[Batch]]:
    batches: dict[Modality, list[Batch]] = {}
    kinds: tuple[tuple[Modality, list[Chat]], ...] = (
        ("text", [chat for chat in probes.chats if not chat.images]),
        ("image", [chat for chat in probes.chats if chat.images]),
    )
    for modality, chats in kinds:
        if chats:
            rows = [[chat_batch(chat, processor) for chat in chunk] for chunk in _chunks(chats, CHATS_PER_BATCH)]
            batches[modality] = [keep_last(processor.collate(items), LAST_TOKENS) for items in rows]
    return batches


def keep_last(batch: Batch, count: int) -> Batch:
    """The same prompts (B, L), of which the last tokens alone get logits."""
    length = batch["input_ids"].shape[1]
    return batch | {"logits_to_keep": np.arange(max(0, length - count), length, dtype=np.int32)}


def chat_batch(chat: Chat, processor: ChatProcessor) -> Batch:
    """The prompt of one chat, answered at once where the model can think."""
    messages = [{"role": "user", "content": chat.text}]
    limit = MOST_PIXELS if chat.images else None
    return processor.chat(messages, images=list(chat.images), enable_thinking=False, max_pixels=limit)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _lines(file: Path) -> list[str]:
    """The lines of a file that say something."""
    with foreign(InputError, f"{file} cannot be read", "expected text in UTF-8. Take it out of the folder."):
        return [
            line.strip() for line in read_regular(file, MOST_BYTES).decode("utf-8-sig").splitlines() if line.strip()
        ]


def _items(file: Path) -> list[str | Chat]:
    """Texts and chats of a .jsonl file."""
    items: list[str | Chat] = []
    for number, line in enumerate(_lines(file), 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InputError(f"{file}, line {number} is not JSON ({error}). Mend it, or take the file out.") from error
        if isinstance(value, str):
            items.append(value)
            continue
        text = value.get("text") if isinstance(value, dict) else None
        images = value.get("images", []) if isinstance(value, dict) else None
        if not isinstance(text, str) or not isinstance(images, list) or not all(isinstance(i, str) for i in images):
            raise InputError(
                f'{file}, line {number} is {shown(line)}; expected a text, or {{"text", "images": [paths]}}. Mend it.'
            )
        items.append(Chat(text[:MOST_CHARACTERS], tuple(file.parent / image for image in images)))
    return items


def _wrong_kind(probes: Probes, model: Checked) -> InputError:
    counts = {"texts": probes.texts, "pictures": probes.images, "sounds": probes.sounds, "chats": probes.chats}
    found = " and ".join(f"{len(items)} {name}" for name, items in counts.items() if items)
    takes = " and ".join(KINDS[modality] for modality in model.modalities if modality in KINDS)
    return InputError(f"{probes.name} holds {found}, and this model takes {takes}. Name a folder that holds such.")
