"""Texts and pictures to the arrays of SigLIP 1 and 2.

FixRes squeezes a picture into one square size. NaFlex keeps its shape: it searches the size that fills a
budget of patches and cuts it up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.models.modalities import lacking, present, require_text
from mlx_mm.models.siglip2.config import ModelConfig, NaflexVisionConfig, VisionConfig
from mlx_mm.processing.arguments import Texts, flag, optional_flag
from mlx_mm.processing.batch import Batch, collate, merge
from mlx_mm.processing.image import ImageSource, as_images, open_resized, patchify, to_pixels
from mlx_mm.processing.settings import ImageOptions, PixelSettings, override, read_image_settings, refuse_options
from mlx_mm.processing.text import OnCut, Tokenizer, as_texts, check_length, check_vocabulary, refuse_task

if TYPE_CHECKING:
    from typing_extensions import Unpack

NAFLEX_PADDING = {"pixel_values": 0, "pixel_attention_mask": 0}  # zero is mid-grey, and the mask hides it


@dataclass(frozen=True, kw_only=True)
class FixResSettings(PixelSettings):
    """Every picture is squeezed into size (height, width)."""

    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class NaflexSettings(PixelSettings):
    """A picture becomes at most max_num_patches patches of patch_size × patch_size pixels."""

    patch_size: int
    max_num_patches: int


class Processor:
    """Texts and pictures in, NumPy arrays under the model's argument names out.

    modalities: those of "text" and "image" that the checkpoint has a tower and files for.
    """

    kind: Literal["encoder"] = "encoder"

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        settings: FixResSettings | NaflexSettings | None,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.settings = settings
        self.modalities = present(text=tokenizer, image=settings)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> Processor:
        """Read the processor files of a Hugging Face folder, of transformers 4.x or 5.x; raises ConfigError.

        Settings that the files leave out have the defaults of transformers' classes (for FixRes bicubic,
        which is SigLIP 1's; SigLIP 2's hub files all say bilinear) and the sizes of the model's config.
        """
        vision = config.vision_config
        tokenizer = None if config.text_config is None else Tokenizer.find(folder)
        return cls(config, tokenizer, None if vision is None else _read_settings(folder, vision))

    def __call__(
        self,
        *,
        text: Texts | None = None,
        images: ImageSource | Iterable[ImageSource] | None = None,
        max_length: int | None = None,
        truncation: bool = True,
        do_lower_case: bool | None = None,
        fast_decode: bool = False,
        **options: Unpack[ImageOptions],
    ) -> Batch:
        """The arrays of `text` and `images` in one dict, text first. Arguments as in those methods."""
        texts = pixels = None
        if text is not None:
            texts = self.text(text, max_length=max_length, truncation=truncation, do_lower_case=do_lower_case)
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
        truncation: bool = True,
        do_lower_case: bool | None = None,
        on_cut: OnCut | None = None,
    ) -> Batch:
        """input_ids int32 (B, L), padded or cut to L = max_length, by default the model's text length.

        There is no attention mask: the model was trained to see the padding. Text is lower-cased, as it was
        in training, also where transformers 5.23 does not (FixRes). truncation: longer texts are cut and keep their
        end token; False refuses them. on_cut: called with the tokens of each text that is cut.
        Raises InputError and ModalityError.
        """
        config, tokenizer = require_text(self.config.text_config, self.tokenizer, self.modalities)
        refuse_task(task)
        length = check_length(max_length, config.max_position_embeddings)
        lower, cutting = optional_flag("do_lower_case", do_lower_case), flag("truncation", truncation)
        lower = tokenizer.do_lower_case if lower is None else lower
        ids = tokenizer.encode(as_texts(texts), length, do_lower_case=lower, truncation=cutting, on_cut=on_cut)
        check_vocabulary(tokenizer, config.vocab_size, ids)
        return {"input_ids": ids}

    def images(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        fast_decode: bool = False,
        **options: Unpack[ImageOptions],
    ) -> Batch:
        """Pictures as the model's arrays; an option that is not None replaces the checkpoint's setting.

        FixRes: pixel_values float32 (B, H, W, 3).
        NaFlex: pixel_values float32 (B, P, p·p·3), P the patches of the largest picture of this batch, zeros
        after the patches of the others; pixel_attention_mask int32 (B, P), 1 = real; spatial_shapes int32
        (B, 2), the rows and columns of patches.
        fast_decode: not to the last bit, and several times as fast for photos of many megapixels.
        Raises MediaError for pictures that cannot be read, InputError and ModalityError for arguments.
        """
        settings, fast = self._settings(options), flag("fast_decode", fast_decode)
        if isinstance(settings, FixResSettings):
            return self.collate([_fixres(item, settings, fast) for item in as_images(images)])
        return self.collate([_naflex(item, settings, fast) for item in as_images(images)])

    def check_images(self, *, fast_decode: bool = False, **options: Unpack[ImageOptions]) -> None:
        """Raise what `images` does for options that cannot be used, whatever the pictures."""
        flag("fast_decode", fast_decode)
        self._settings(options)

    def collate(self, items: Sequence[Batch]) -> Batch:
        """One batch from the results of several calls, in order; NaFlex pictures are padded to the largest.

        Raises InputError when the items differ in their keys, or in a size that padding cannot make equal.
        """
        return collate(items, NAFLEX_PADDING if isinstance(self.settings, NaflexSettings) else {})

    def _settings(self, options: ImageOptions) -> FixResSettings | NaflexSettings:
        if self.settings is None:
            raise lacking("vision tower", "images", self.modalities)
        return override(self.settings, options, InputError)


def target_size(height: int, width: int, patch_size: int, max_num_patches: int) -> tuple[int, int]:
    """(height, width), multiples of patch_size, that fill the budget at about the picture's aspect ratio.

    The bisection of transformers' Siglip2ImageProcessor, step for step in double precision: bounds 1e-6 and
    100, tolerance 1e-5. Small pictures are enlarged, up to 100 times.
    """
    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        scale = (low + high) / 2
        rows, cols = _tiles(height, scale, patch_size), _tiles(width, scale, patch_size)
        if rows * cols <= max_num_patches:
            low = scale
        else:
            high = scale
    return _tiles(height, low, patch_size) * patch_size, _tiles(width, low, patch_size) * patch_size


def _tiles(side: int, scale: float, patch_size: int) -> int:
    return max(1, math.ceil(side * scale / patch_size))


def _fixres(source: ImageSource, settings: FixResSettings, fast: bool) -> Batch:
    height, width = settings.size
    image = _opened(source, settings, lambda *_: settings.size, fast)
    if image.size != (width, height):
        raise InputError(
            f"do_resize is False and an image is {image.height}x{image.width} pixels; expected "
            f"{height}x{width}. Resize it, or leave do_resize on."
        )
    return {"pixel_values": to_pixels(image, settings)[None]}


def _naflex(source: ImageSource, settings: NaflexSettings, fast: bool) -> Batch:
    patch, budget = settings.patch_size, settings.max_num_patches
    image = _opened(source, settings, lambda height, width: target_size(height, width, patch, budget), fast)
    rows, cols = image.height // patch, image.width // patch
    if (rows * patch, cols * patch) != (image.height, image.width) or rows * cols > budget:
        raise InputError(
            f"do_resize is False and an image is {image.height}x{image.width} pixels; expected multiples of "
            f"{patch} and at most {budget} patches. Resize it, or leave do_resize on."
        )
    return {
        "pixel_values": patchify(to_pixels(image, settings), patch)[None],
        "pixel_attention_mask": np.ones((1, rows * cols), np.int32),
        "spatial_shapes": np.array([[rows, cols]], np.int32),
    }


def _opened(
    source: ImageSource, settings: PixelSettings, size: Callable[[int, int], tuple[int, int]], fast: bool
) -> Image.Image:
    convert, wanted = settings.do_convert_rgb, size if settings.do_resize else None
    return open_resized(source, wanted, settings.resample, do_convert_rgb=convert, fast=fast)


def _read_settings(folder: Path, config: VisionConfig | NaflexVisionConfig) -> FixResSettings | NaflexSettings:
    settings = _default_settings(config)
    given = read_image_settings(folder, [field.name for field in fields(settings)])
    return override(settings, given, ConfigError)


def _default_settings(config: VisionConfig | NaflexVisionConfig) -> FixResSettings | NaflexSettings:
    """The defaults of transformers' SiglipImageProcessor and Siglip2ImageProcessor classes."""
    half = (0.5, 0.5, 0.5)
    if isinstance(config, NaflexVisionConfig):
        patch = config.patch_size
        return NaflexSettings(resample=2, image_mean=half, image_std=half, patch_size=patch, max_num_patches=256)
    size = config.image_size, config.image_size
    return FixResSettings(resample=3, image_mean=half, image_std=half, size=size)
