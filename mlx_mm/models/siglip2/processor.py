"""Texts and pictures to the arrays of SigLIP 1 and 2.

FixRes squeezes a picture into one square size. NaFlex keeps its shape: it searches the size that fills a
budget of patches and cuts it up.
"""

import math
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mlx_mm.errors import ConfigError, InputError, ModalityError
from mlx_mm.models.siglip2.config import ModelConfig
from mlx_mm.processing.image import ImageSource, open_image, patchify, rescale_and_normalize, resize
from mlx_mm.processing.settings import check_setting, read_image_settings, read_json
from mlx_mm.processing.text import Tokenizer

Batch = dict[str, npt.NDArray[Any]]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model")

_FIXRES_ONLY = ("size",)
_NAFLEX_ONLY = ("patch_size", "max_num_patches")

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class ImageSettings:
    """Settings of one call, under Hugging Face's names.

    size (height, width) is FixRes's, patch_size and max_num_patches are NaFlex's; the others are None.
    """

    do_resize: bool
    resample: int
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    do_convert_rgb: bool
    size: tuple[int, int] | None
    patch_size: int | None
    max_num_patches: int | None


class Processor:
    """Texts and pictures in, NumPy arrays under the model's argument names out.

    modalities: those of "text" and "image" that the checkpoint has a tower and files for.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        settings: ImageSettings | None,
        *,
        do_lower_case: bool,
        canonicalize: bool,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.settings = settings
        self.do_lower_case = do_lower_case
        self.canonicalize = canonicalize
        present = {"text": tokenizer, "image": settings}
        self.modalities = tuple(name for name, part in present.items() if part is not None)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> "Processor":
        """Read the processor files of a Hugging Face folder, of transformers 4.x or 5.x; raises ConfigError.

        Settings that the files leave out have the defaults of transformers' classes (for FixRes bicubic,
        which is SigLIP 1's; SigLIP 2's hub files all say bilinear) and the sizes of the model's config.
        """
        tokenizer, canonicalize, do_lower_case = None, False, True
        if config.text_config is not None and any((folder / name).is_file() for name in _TOKENIZER_FILES):
            tokenizer = Tokenizer.from_folder(folder)
            values = read_json(folder / "tokenizer_config.json")
            canonicalize = values.get("tokenizer_class") in ("SiglipTokenizer", "SiglipTokenizerFast")
            do_lower_case = values.get("do_lower_case") is not False
        settings = _read_settings(folder, config) if config.vision_config is not None else None
        return cls(config, tokenizer, settings, do_lower_case=do_lower_case, canonicalize=canonicalize)

    def __call__(
        self,
        *,
        text: str | Sequence[str] | None = None,
        images: ImageSource | Sequence[ImageSource] | None = None,
        max_length: int | None = None,
        do_lower_case: bool | None = None,
        patch_size: int | None = None,
        max_num_patches: int | None = None,
        size: dict[str, int] | int | None = None,
        do_resize: bool | None = None,
        resample: int | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        do_convert_rgb: bool | None = None,
    ) -> Batch:
        """The arrays of `text` and `images` in one dict, text first. Arguments as in those methods."""
        if text is None and images is None:
            raise InputError("Neither text nor images was given; expected at least one of them. Pass text= or images=.")
        batch: Batch = {}
        if text is not None:
            batch |= self.text(text, max_length=max_length, do_lower_case=do_lower_case)
        if images is not None:
            batch |= self.images(
                images,
                patch_size=patch_size,
                max_num_patches=max_num_patches,
                size=size,
                do_resize=do_resize,
                resample=resample,
                do_rescale=do_rescale,
                rescale_factor=rescale_factor,
                do_normalize=do_normalize,
                image_mean=image_mean,
                image_std=image_std,
                do_convert_rgb=do_convert_rgb,
            )
        return batch

    def text(
        self,
        texts: str | Sequence[str],
        *,
        task: str | None = None,
        max_length: int | None = None,
        do_lower_case: bool | None = None,
    ) -> Batch:
        """input_ids int32 (B, L), padded or cut to L = max_length, by default the model's text length.

        There is no attention mask: the model was trained to see the padding. Text is lower-cased, as it was
        in training, also where transformers 5.23 does not (FixRes). Raises InputError and ModalityError.
        """
        if self.config.text_config is None or self.tokenizer is None:
            lacks = "text tower" if self.config.text_config is None else "tokenizer file (tokenizer.json)"
            raise ModalityError(
                f"This checkpoint has no {lacks}; it takes {self._taken()}. "
                "Load a checkpoint with both towers and its tokenizer to use text."
            )
        if task is not None:
            raise InputError(f"task={task!r} was given; SigLIP has no tasks. Leave task out.")
        longest = self.config.text_config.max_position_embeddings
        length = longest if max_length is None else max_length
        if not 1 <= length <= longest:
            raise InputError(
                f"max_length is {length}; expected 1 to {longest}, the positions this model has. Leave max_length out."
            )
        lower = self.do_lower_case if do_lower_case is None else do_lower_case
        texts = _as_list(texts, "texts", str)
        if self.canonicalize:
            texts = [_canonicalize(text, lower) if isinstance(text, str) else text for text in texts]
        return {"input_ids": self.tokenizer.encode(texts, length, do_lower_case=lower)}

    def images(
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        patch_size: int | None = None,
        max_num_patches: int | None = None,
        size: dict[str, int] | int | None = None,
        do_resize: bool | None = None,
        resample: int | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        do_convert_rgb: bool | None = None,
    ) -> Batch:
        """Pictures as the model's arrays; an argument that is not None replaces the checkpoint's setting.

        FixRes: pixel_values float32 (B, H, W, 3).
        NaFlex: pixel_values float32 (B, P, p·p·3), P the patches of the largest picture of this batch, zeros
        after the patches of the others; pixel_attention_mask int32 (B, P), 1 = real; spatial_shapes int32
        (B, 2), the rows and columns of patches.
        Raises MediaError for pictures that cannot be read, InputError and ModalityError for arguments.
        """
        if self.settings is None:
            raise ModalityError(
                f"This checkpoint has no vision tower; it takes {self._taken()}. "
                "Load a checkpoint with both towers to use images."
            )
        given = {
            "patch_size": patch_size,
            "max_num_patches": max_num_patches,
            "size": size,
            "do_resize": do_resize,
            "resample": resample,
            "do_rescale": do_rescale,
            "rescale_factor": rescale_factor,
            "do_normalize": do_normalize,
            "image_mean": image_mean,
            "image_std": image_std,
            "do_convert_rgb": do_convert_rgb,
        }
        settings = _override(self.settings, given, InputError)
        process = _fixres if settings.size is not None else _naflex
        opened = _as_list(images, "images", (str, bytes, bytearray, memoryview, np.ndarray))
        return self.collate([process(image, settings) for image in opened])

    def collate(self, items: Sequence[Batch]) -> Batch:
        """One batch from the results of several calls, in order; NaFlex pictures are padded to the largest.

        Raises InputError when the items differ in their keys, or in a size that padding cannot make equal.
        """
        if not items:
            raise InputError("No items were given; expected at least one. Leave the call out for an empty batch.")
        if any(item.keys() != items[0].keys() for item in items):
            raise InputError("The items hold different arrays; expected the same keys in all. Collate each kind alone.")
        batch = {}
        for key in items[0]:
            arrays = [item[key] for item in items]
            if "pixel_attention_mask" in items[0] and key in ("pixel_values", "pixel_attention_mask"):
                arrays = _pad_patches(arrays)
            shapes = sorted({array.shape[1:] for array in arrays})
            if len(shapes) > 1:
                raise InputError(
                    f"{key} has the shapes {', '.join(map(str, shapes))} per item; expected one. "
                    "Use the same settings for all items of a batch."
                )
            batch[key] = np.concatenate(arrays)
        return batch

    def _taken(self) -> str:
        return " and ".join(self.modalities) or "nothing"


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


def _fixres(source: ImageSource, settings: ImageSettings) -> Batch:
    assert settings.size is not None
    image = open_image(source, do_convert_rgb=settings.do_convert_rgb)
    height, width = settings.size
    if settings.do_resize:
        image = resize(image, settings.size, settings.resample)
    elif image.size != (width, height):
        raise InputError(
            f"do_resize is False and an image is {image.height}x{image.width} pixels; expected "
            f"{height}x{width}. Resize it, or leave do_resize on."
        )
    return {"pixel_values": _to_float(image, settings)[None]}


def _naflex(source: ImageSource, settings: ImageSettings) -> Batch:
    assert settings.patch_size is not None
    assert settings.max_num_patches is not None
    image = open_image(source, do_convert_rgb=settings.do_convert_rgb)
    patch, budget = settings.patch_size, settings.max_num_patches
    if settings.do_resize:
        image = resize(image, target_size(image.height, image.width, patch, budget), settings.resample)
    rows, cols = image.height // patch, image.width // patch
    if (rows * patch, cols * patch) != (image.height, image.width) or rows * cols > budget:
        raise InputError(
            f"do_resize is False and an image is {image.height}x{image.width} pixels; expected multiples of "
            f"{patch} and at most {budget} patches. Resize it, or leave do_resize on."
        )
    return {
        "pixel_values": patchify(_to_float(image, settings), patch)[None],
        "pixel_attention_mask": np.ones((1, rows * cols), np.int32),
        "spatial_shapes": np.array([[rows, cols]], np.int32),
    }


def _to_float(image: Image.Image, settings: ImageSettings) -> npt.NDArray[np.float32]:
    return rescale_and_normalize(
        np.asarray(image),
        rescale_factor=settings.rescale_factor if settings.do_rescale else None,
        mean=settings.image_mean if settings.do_normalize else None,
        std=settings.image_std if settings.do_normalize else None,
    )


def _pad_patches(arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Zeros after axis 1 up to the longest; in normalised pixels zero is mid-grey, and the mask hides it."""
    longest = max(array.shape[1] for array in arrays)
    return [np.pad(array, [(0, 0), (0, longest - array.shape[1])] + [(0, 0)] * (array.ndim - 2)) for array in arrays]


def _canonicalize(text: str, do_lower_case: bool) -> str:
    """Lower case, no ASCII punctuation, single spaces: SigLIP 1's SiglipTokenizer.canonicalize_text.

    Doing it here is right whether or not the checkpoint's tokenizer.json repeats it.
    """
    text = text.lower() if do_lower_case else text
    return re.sub(r"\s+", " ", text.translate(_PUNCTUATION)).strip()


def _read_settings(folder: Path, config: ModelConfig) -> ImageSettings:
    known = [field.name for field in fields(ImageSettings)]
    return _override(_default_settings(config), read_image_settings(folder, known), ConfigError)


def _default_settings(config: ModelConfig) -> ImageSettings:
    """The defaults of transformers' SiglipImageProcessor and Siglip2ImageProcessor classes.

    do_convert_rgb is null in the hub's files, which transformers takes as off; here it means on.
    """
    vision: Any = config.vision_config
    naflex = config.model_type == "siglip2"
    return ImageSettings(
        do_resize=True,
        resample=2 if naflex else 3,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        do_convert_rgb=True,
        size=None if naflex else (vision.image_size, vision.image_size),
        patch_size=vision.patch_size if naflex else None,
        max_num_patches=256 if naflex else None,
    )


def _override(
    settings: ImageSettings, given: dict[str, Any], error: type[InputError] | type[ConfigError]
) -> ImageSettings:
    """Settings with the given values that are not None, each checked."""
    given = {key: value for key, value in given.items() if value is not None}
    foreign, variant = (_NAFLEX_ONLY, "FixRes") if settings.size is not None else (_FIXRES_ONLY, "NaFlex")
    for key in foreign:
        if key in given:
            raise error(f"{key} is {given[key]!r}, but this is a {variant} model, which has no {key}. Leave it out.")
    for key, value in given.items():
        given[key] = check_setting(key, value, error)
    return replace(settings, **given)


def _as_list(values: Any, name: str, single: type | tuple[type, ...]) -> list[Any]:
    """A single item is a batch of one."""
    items = list(values) if isinstance(values, Iterable) and not isinstance(values, single) else [values]
    if not items:
        raise InputError(f"The list of {name} is empty; expected at least one. Leave the call out for an empty batch.")
    return items
