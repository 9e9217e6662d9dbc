"""Texts and pictures to the arrays of MetaCLIP 2 and CLIP.

A checkpoint's file says whether a picture is squeezed into a square or cropped from its middle. Texts are padded
to the longest of the call: a causal tower does not see what comes after the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.models.metaclip_2.config import ModelConfig, TextConfig
from mlx_mm.models.modalities import lacking, present, require_text
from mlx_mm.processing.arguments import Texts, flag, optional_flag
from mlx_mm.processing.batch import Batch, collate, merge
from mlx_mm.processing.image import (
    ImageSource,
    as_images,
    center_crop,
    open_resized,
    shortest_edge_size,
    to_pixels,
)
from mlx_mm.processing.settings import (
    CHECKS,
    SIDES_OR_EDGE,
    ImageOptions,
    PixelSettings,
    override,
    read_image_settings,
    refuse_options,
)
from mlx_mm.processing.text import (
    OnCut,
    Tokenizer,
    check_length,
    prepare_texts,
    refuse_task,
    text_padding,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

IMAGE_CHECKS = CHECKS | {"size": SIDES_OR_EDGE}


@dataclass(frozen=True, kw_only=True)
class ImageSettings(PixelSettings):
    """size: (height, width) to squeeze into, or the length of the shorter side; crop_size (height, width)."""

    size: tuple[int, int] | int
    crop_size: tuple[int, int]
    do_center_crop: bool = True


class Processor:
    """Texts and pictures in, NumPy arrays under the model's argument names out.

    modalities: those of "text" and "image" that the checkpoint has a tower and files for.
    """

    kind: Literal["encoder"] = "encoder"

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        settings: ImageSettings | None,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.settings = settings
        self.modalities = present(text=tokenizer, image=settings)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> Processor:
        """Read the processor files of a Hugging Face folder, of transformers 4.x or 5.x; raises ConfigError.

        Settings that the files leave out have the defaults of transformers' CLIPImageProcessor.
        """
        tokenizer = None if config.text_config is None else Tokenizer.find(folder)
        return cls(config, tokenizer, None if config.vision_config is None else _read_settings(folder))

    def __call__(
        self,
        *,
        text: Texts | None = None,
        images: ImageSource | Iterable[ImageSource] | None = None,
        max_length: int | None = None,
        padding: bool | str = "longest",
        truncation: bool = True,
        do_lower_case: bool | None = None,
        fast_decode: bool = False,
        **options: Unpack[ImageOptions],
    ) -> Batch:
        """The arrays of `text` and `images` in one dict, text first. Arguments as in those methods."""
        texts = pixels = None
        if text is not None:
            lower = do_lower_case
            texts = self.text(text, max_length=max_length, padding=padding, truncation=truncation, do_lower_case=lower)
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
        do_lower_case: bool | None = None,
        on_cut: OnCut | None = None,
    ) -> Batch:
        """input_ids and attention_mask, int32 (B, L), 1 = real.

        max_length: of a text with its begin and end token, by default the model's. padding: to the "longest" of
        this call (or True), or to "max_length". truncation: longer texts are cut and keep their end token; False
        refuses them. do_lower_case: by default as the tokenizer's files say. on_cut: called with the number of tokens
        of each text that is cut.
        Raises InputError for arguments, ModalityError without a text tower, ConfigError for files that do not fit
        the model.
        """
        config, tokenizer = require_text(self.config.text_config, self.tokenizer, self.modalities)
        refuse_task(task)
        limit = check_length(max_length, config.max_position_embeddings)
        _check_end(tokenizer, config)
        return prepare_texts(
            tokenizer,
            texts,
            limit,
            config.vocab_size,
            padding=padding,
            truncation=flag("truncation", truncation),
            do_lower_case=optional_flag("do_lower_case", do_lower_case),
            on_cut=on_cut,
        )

    def images(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        fast_decode: bool = False,
        **options: Unpack[ImageOptions],
    ) -> Batch:
        """pixel_values float32 (B, H, W, 3); an option that is not None replaces the checkpoint's setting.

        size: {"height", "width"}, which squeezes, or {"shortest_edge"} or a number, which keeps the aspect ratio.
        fast_decode: not to the last bit, and several times as fast for photos of many megapixels.
        Raises MediaError for pictures that cannot be read, InputError and ModalityError for arguments.
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
        if self.settings is None:
            raise lacking("vision tower", "images", self.modalities)
        return override(self.settings, options, InputError, IMAGE_CHECKS)


def _process(source: ImageSource, settings: ImageSettings, fast: bool) -> Batch:
    def sides(height: int, width: int) -> tuple[int, int]:
        size = settings.size
        return shortest_edge_size(height, width, size) if isinstance(size, int) else size

    convert, wanted = settings.do_convert_rgb, sides if settings.do_resize else None
    image = open_resized(source, wanted, settings.resample, do_convert_rgb=convert, fast=fast)
    if settings.do_center_crop:
        image = center_crop(image, settings.crop_size)
    return {"pixel_values": to_pixels(image, settings)[None]}


def _read_settings(folder: Path) -> ImageSettings:
    default = ImageSettings(
        resample=3,
        image_mean=(0.48145466, 0.4578275, 0.40821073),  # of the pictures CLIP was trained on
        image_std=(0.26862954, 0.26130258, 0.27577711),
        size=224,
        crop_size=(224, 224),
    )
    given = read_image_settings(folder, [field.name for field in fields(ImageSettings)])
    return override(default, given, ConfigError, IMAGE_CHECKS)


def _check_end(tokenizer: Tokenizer, config: TextConfig) -> None:
    """Hold a tokenizer against its model: a mismatch would give wrong vectors without an error."""
    if config.eos_token_id not in (None, tokenizer.eos_id):
        raise ConfigError(
            f"{tokenizer.path} ends texts with the id {tokenizer.eos_id}, and text_config says eos_token_id "
            f"{config.eos_token_id}, where the model reads a text's vector; expected the same. Use the files of one "
            'checkpoint; of OpenAI\'s CLIP, whose files say 2, the model_type is "clip".'
        )
