"""Texts and pictures to the arrays of Jina CLIP v2.

A picture is cropped from its middle. A task is nothing but a sentence before the text. The published code drops
transparency and ignores a photo's EXIF orientation; here, as for every family, transparency is laid over white and
encoded pictures are turned upright.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
from PIL import Image

from mlx_mm.errors import ConfigError, InputError, shown
from mlx_mm.models.jina_clip.config import ModelConfig
from mlx_mm.models.modalities import present, require_text
from mlx_mm.processing.arguments import Texts, flag
from mlx_mm.processing.batch import Batch, collate, merge
from mlx_mm.processing.image import (
    ImageSource,
    as_images,
    open_resized,
    rescale_and_normalize,
    shortest_edge_size,
)
from mlx_mm.processing.settings import CHECKS, COUNT, Check, override, read_image_settings, refuse_options
from mlx_mm.processing.text import (
    OnCut,
    Tokenizer,
    as_texts,
    check_length,
    check_padding,
    prepare_texts,
    text_padding,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

TEXT_LENGTH = 512  # where encode_text of the published code cuts; the model has positions for far more
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "squash")


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """The names of the checkpoint's file, and what the published one says.

    size: pixels of both sides. resize_mode: "shortest" brings the shorter side to `size` and crops the longer one;
    "squash" ignores the aspect ratio. interpolation: "bicubic" or "bilinear".
    """

    size: int
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # of the pictures CLIP was trained on
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)


class ImageOptions(TypedDict, total=False):
    """What a call may set in place of the checkpoint's file."""

    size: int | None
    resize_mode: str | None
    interpolation: str | None
    mean: float | tuple[float, ...] | list[float] | None
    std: float | tuple[float, ...] | list[float] | None
    max_num_patches: int | None  # refused: it belongs to other families


def _resize_mode(value: object) -> str | None:
    return value if isinstance(value, str) and value in RESIZE_MODES else None


def _interpolation(value: object) -> str | None:
    return value if isinstance(value, str) and value in INTERPOLATIONS else None


IMAGE_CHECKS: dict[str, Check] = {
    "size": COUNT,
    "resize_mode": (_resize_mode, '"shortest" or "squash" ("longest" is not supported)'),
    "interpolation": (_interpolation, '"bicubic" or "bilinear"'),
    "mean": CHECKS["image_mean"],
    "std": CHECKS["image_std"],
}


class Processor:
    """Texts and pictures in, NumPy arrays under the model's argument names out.

    modalities: those of "text" and "image" that the checkpoint has files for.
    """

    kind: Literal["encoder"] = "encoder"

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer | None, settings: ImageSettings) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.settings = settings
        self.modalities = present(text=tokenizer, image=settings)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> Processor:
        """Read the processor files of a Hugging Face folder; raises ConfigError.

        Settings that the files leave out are those of the published checkpoint, for this model's size.
        """
        return cls(config, Tokenizer.find(folder), _read_settings(folder, config.vision_config.image_size))

    def __call__(
        self,
        *,
        text: Texts | None = None,
        images: ImageSource | Iterable[ImageSource] | None = None,
        task: str | None = None,
        max_length: int | None = None,
        padding: bool | str = "longest",
        truncation: bool = True,
        fast_decode: bool = False,
        **options: Unpack[ImageOptions],
    ) -> Batch:
        """The arrays of `text` and `images` in one dict, text first. Arguments as in those methods."""
        texts = pixels = None
        if text is None:
            refuse_options({"task": task, "max_length": max_length}, "text")
        else:
            texts = self.text(text, task=task, max_length=max_length, padding=padding, truncation=truncation)
        if images is None:
            refuse_options({"fast_decode": fast_decode or None, **options})
        else:
            pixels = self.images(images, fast_decode=fast_decode, **options)
        return merge(texts, pixels, "images")

    def text(
        self,
        texts: Texts,
        *,
        task: str | None = None,
        max_length: int | None = None,
        padding: bool | str = "longest",
        truncation: bool = True,
        on_cut: OnCut | None = None,
    ) -> Batch:
        """input_ids and attention_mask, int32 (B, L), 1 = real; a "<pad>" typed in a text is hidden like padding.

        task: of config.json's `task_instructions`, whose sentence is put before each text; None is that file's
        `default_instruction_task`, in the published one no sentence at all. max_length: of a text with its begin and
        end token and that sentence, by default 512; up to the model's longest. padding: to the "longest" of this call
        (or True), or to "max_length". truncation: longer texts are cut and keep their end token; False refuses them.
        on_cut: called with the number of tokens of each text that is cut.
        Raises InputError for arguments, ModalityError without a tokenizer, ConfigError for files that do not fit
        the model.
        """
        config, tokenizer = require_text(self.config.text_config, self.tokenizer, self.modalities)
        instruction = self._instruction(task)
        limit = check_length(max_length, config.max_position_embeddings, usual=TEXT_LENGTH)
        check_padding(tokenizer, config.pad_token_id)
        items, rows = [instruction + item for item in as_texts(texts)], config.vocab_size
        cutting = flag("truncation", truncation)
        batch = prepare_texts(tokenizer, items, limit, rows, padding=padding, truncation=cutting, on_cut=on_cut)
        return batch | {"attention_mask": (batch["input_ids"] != config.pad_token_id).astype(np.int32)}

    def images(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        fast_decode: bool = False,
        **options: Unpack[ImageOptions],
    ) -> Batch:
        """pixel_values float32 (B, size, size, 3); an option that is not None replaces the checkpoint's setting.

        fast_decode: not to the last bit, and several times as fast for photos of many megapixels.
        Raises MediaError for pictures that cannot be read or are too long for their shorter side to become `size`,
        InputError for arguments.
        """
        settings, fast = self._settings(options), flag("fast_decode", fast_decode)
        return self.collate([_process(item, settings, fast) for item in as_images(images)])

    def check_images(self, *, fast_decode: bool = False, **options: Unpack[ImageOptions]) -> None:
        """Raise what `images` does for options that cannot be used, whatever the pictures."""
        flag("fast_decode", fast_decode)
        self._settings(options)

    def collate(self, items: Sequence[Batch]) -> Batch:
        """One batch from the results of several calls, in order; texts are padded to the longest.

        Raises InputError when the items differ in their keys or pictures in their size.
        """
        return collate(items, text_padding(self.tokenizer, items))

    def _settings(self, options: ImageOptions) -> ImageSettings:
        return override(self.settings, options, InputError, IMAGE_CHECKS)

    def _instruction(self, task: str | None) -> str:
        """What stands before the texts of a task."""
        known, name = self.config.task_instructions, self.config.default_instruction_task if task is None else task
        if name is None:
            return ""
        if not isinstance(name, str) or name not in known:
            default = self.config.default_instruction_task
            without = "no instruction at all" if default is None else f"the default, {default!r}"
            tasks = f"one of {', '.join(map(repr, known))}" if known else "none, as config.json names no tasks"
            raise InputError(f"task is {shown(name)}; expected {tasks}. Leave task out (None) for {without}.")
        return known[name]


def _process(source: ImageSource, settings: ImageSettings, fast: bool) -> Batch:
    size = settings.size

    def sides(height: int, width: int) -> tuple[int, int]:
        return (size, size) if settings.resize_mode == "squash" else shortest_edge_size(height, width, size)

    image = open_resized(source, sides, INTERPOLATIONS[settings.interpolation], fast=fast)
    pixels = np.asarray(_middle(image, size))
    values = rescale_and_normalize(pixels, rescale_factor=1 / 255, mean=settings.mean, std=settings.std)
    return {"pixel_values": values[None]}


def _middle(image: Image.Image, size: int) -> Image.Image:
    """A square from the middle, whose corner is rounded half to even, as in torchvision; in transformers it is cut."""
    left, top = (round((edge - size) / 2) for edge in image.size)
    return image.crop((left, top, left + size, top + size))


def _read_settings(folder: Path, image_size: int) -> ImageSettings:
    known = [field.name for field in fields(ImageSettings)]
    given = read_image_settings(folder, [*known, "fill_color"])
    given.pop("fill_color", None)  # the border of "longest" alone
    settings = override(ImageSettings(size=image_size), given, ConfigError, IMAGE_CHECKS)
    if settings.size != image_size:
        raise ConfigError(
            f"The image processor file in {folder} says size {settings.size}; expected {image_size}, the image_size "
            "of config.json. Use the files of one checkpoint."
        )
    return settings
