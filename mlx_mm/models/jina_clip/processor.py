"""Texts and pictures to the arrays of Jina CLIP v2.

A picture is cropped from its middle. A task is nothing but a sentence before the text. The published code drops
transparency and ignores a photo's EXIF orientation; here, as for every family, transparency is laid over white and
encoded pictures are turned upright.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from PIL import Image

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.models.jina_clip.config import ModelConfig
from mlx_mm.models.modalities import lacking, present
from mlx_mm.processing.batch import Batch, as_list, collate
from mlx_mm.processing.image import ImageSource, open_image, rescale_and_normalize, resize, shortest_edge_size
from mlx_mm.processing.settings import CHECKS, COUNT, Check, override, read_image_settings, refuse_options
from mlx_mm.processing.text import (
    OnCut,
    Tokenizer,
    check_ends,
    check_length,
    check_vocabulary,
    text_batch,
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


def _resize_mode(value: Any) -> str | None:
    return value if value in RESIZE_MODES else None


def _interpolation(value: Any) -> str | None:
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
        text: str | Sequence[str] | None = None,
        images: ImageSource | Sequence[ImageSource] | None = None,
        task: str | None = None,
        max_length: int | None = None,
        padding: bool | str = "longest",
        truncation: bool = True,
        **options: Unpack[ImageOptions],
    ) -> Batch:
        """The arrays of `text` and `images` in one dict, text first. Arguments as in those methods."""
        batch: Batch = {}
        if text is not None:
            batch |= self.text(text, task=task, max_length=max_length, padding=padding, truncation=truncation)
        else:
            refuse_options({"task": task, "max_length": max_length}, "text")
        if images is not None:
            batch |= self.images(images, **options)
        else:
            refuse_options(options)
        if not batch:
            raise InputError("Neither text nor images was given; expected at least one of them. Pass text= or images=.")
        return batch

    def text(
        self,
        texts: str | Sequence[str],
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
        config, tokenizer = self.config.text_config, self.tokenizer
        if tokenizer is None:
            raise lacking("tokenizer file (tokenizer.json)", "text", self.modalities)
        instruction = self._instruction(task)
        longest = config.max_position_embeddings
        limit = check_length(min(TEXT_LENGTH, longest) if max_length is None else max_length, longest)
        check_ends(tokenizer, None)
        if tokenizer.pad_id != config.pad_token_id:
            raise ConfigError(
                f"{tokenizer.path} pads with {tokenizer.pad_id}; expected {config.pad_token_id}, the id that the model "
                "takes for padding, as config.json says. Use the files of one checkpoint."
            )
        # What is not a str is left for the tokenizer to refuse.
        items = [instruction + item if isinstance(item, str) else item for item in as_list(texts, "texts", str)]
        batch = text_batch(
            tokenizer, items, limit, padding=padding, truncation=truncation, do_lower_case=None, on_cut=on_cut
        )
        ids = batch["input_ids"]
        check_vocabulary(tokenizer, config.vocab_size, ids)
        return batch | {"attention_mask": (ids != config.pad_token_id).astype(np.int32)}

    def images(self, images: ImageSource | Sequence[ImageSource], **options: Unpack[ImageOptions]) -> Batch:
        """pixel_values float32 (B, size, size, 3); an option that is not None replaces the checkpoint's setting.

        Raises MediaError for pictures that cannot be read or are too long for their shorter side to become `size`,
        InputError for arguments.
        """
        settings = override(self.settings, options, InputError, IMAGE_CHECKS)
        items = as_list(images, "images", (str, bytes, bytearray, memoryview, np.ndarray))
        return self.collate([_process(item, settings) for item in items])

    def collate(self, items: Sequence[Batch]) -> Batch:
        """One batch from the results of several calls, in order; texts are padded to the longest.

        Raises InputError when the items differ in their keys or pictures in their size.
        """
        return collate(items, text_padding(self.tokenizer, items))

    def _instruction(self, task: str | None) -> str:
        """What stands before the texts of a task."""
        known, name = self.config.task_instructions, self.config.default_instruction_task if task is None else task
        if name is None:
            return ""
        if not isinstance(name, str) or name not in known:
            default = self.config.default_instruction_task
            without = "no instruction at all" if default is None else f"the default, {default!r}"
            tasks = f"one of {', '.join(map(repr, known))}" if known else "none, as config.json names no tasks"
            raise InputError(f"task is {name!r}; expected {tasks}. Leave task out (None) for {without}.")
        return known[name]


def _process(source: ImageSource, settings: ImageSettings) -> Batch:
    image, size = open_image(source), settings.size
    squash = settings.resize_mode == "squash"
    sides = (size, size) if squash else shortest_edge_size(image.height, image.width, size)
    image = resize(image, sides, INTERPOLATIONS[settings.interpolation])
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
