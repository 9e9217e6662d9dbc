"""Prompts, pictures and videos to the arrays of GLM-4.6V, 4.5V and 4.1V.

A prompt has one placeholder for each picture and video. It is written out before it is tokenised: a token for every
2 × 2 patches, and between the frames of a video what second they are from. Sizes decide that, not pixels, so a prompt
that is too long is refused before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.defaults import Defaults
from mlx_mm.models.glm4v.media import (
    ONE_IMAGE,
    ONE_VIDEO,
    Clip,
    Picture,
    clip_arrays,
    measure_clips,
    measure_pictures,
    picture_arrays,
)
from mlx_mm.models.glm4v.prompt import (
    IMAGE,
    MARKERS,
    VIDEO,
    part_options,
    put_media,
    refuse_typed,
    token_types,
    write_out,
)
from mlx_mm.models.glm4v.settings import (
    PICTURE_CHECKS,
    PictureOptions,
    PictureSettings,
    Sampling,
    check_geometry,
    grid_of,
    read_pictures,
    read_videos,
)
from mlx_mm.models.modalities import present
from mlx_mm.processing.batch import Batch, as_list
from mlx_mm.processing.chat import ChatTemplate, Media
from mlx_mm.processing.image import ImageSource
from mlx_mm.processing.measure import measured
from mlx_mm.processing.settings import override, refuse_options
from mlx_mm.processing.text import Tokenizer
from mlx_mm.processing.video import VideoSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

ARRAYS = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


class Processor:
    """Prompts, pictures and videos in, NumPy arrays under the model's argument names out."""

    kind: Literal["chat"] = "chat"

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        pictures: PictureSettings,
        videos: tuple[PictureSettings, Sampling],
        template: ChatTemplate | None,
        defaults: Defaults,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.settings = pictures
        self.video_settings, self.sampling = videos
        self.template = template
        self.defaults = defaults
        self.modalities = present(text=tokenizer, image=pictures, video=videos)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> Processor:
        """Read the processor files of a Hugging Face folder, of transformers 4.x or 5.x; raises ConfigError.

        Only the chat template may be missing, which `chat` alone needs.
        """
        tokenizer = Tokenizer.from_folder(folder)
        pictures, videos = read_pictures(folder, config.vision_config), read_videos(folder, config)
        template, defaults = ChatTemplate.from_folder(folder), Defaults.read(folder, config, tokenizer)
        return cls(config, tokenizer, pictures, videos, template, defaults)

    def __call__(
        self,
        *,
        text: str | Sequence[str] | None = None,
        images: ImageSource | Sequence[ImageSource] | None = None,
        videos: VideoSource | Sequence[VideoSource] | None = None,
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        padding: bool | str = "longest",
        padding_side: str = "left",
        **options: Unpack[PictureOptions],
    ) -> Batch:
        """The arrays of prompts with their pictures and videos, or of either alone.

        text: prompts as the model reads them, with the placeholders <|image|> and <|video|>; across all prompts their
        numbers are those of images and videos, which take their places in order. Without text, pixels alone come out.
        Keys: input_ids, attention_mask (1 = real) and mm_token_type_ids (0 text, 1 image, 2 video), int32 (B, L), and
        those of `images` and `videos`, whose arguments the others are. padding: to the "longest" (or True), on the
        "left" or "right". Raises InputError, also for prompts of more tokens than the model has positions.
        """
        if text is None and images is None and videos is None:
            raise InputError("No text, images or videos were given; expected one of them. Pass text=.")
        if images is None and videos is None:
            refuse_options(options, "images or videos")
        if videos is None:
            refuse_options({"fps": fps, "do_sample_frames": do_sample_frames}, "videos")
        settings = self._settings(self.settings, options)
        moving = self._settings(self.video_settings, options)
        pictures, clips = list[Picture](), list[Clip]()
        if images is not None:
            pictures = list(measure_pictures(images, settings))
        if videos is not None:
            clips = list(measure_clips(videos, moving, self.sampling, fps, do_sample_frames))
        batch: Batch = {}
        if text is not None:
            batch = self._pad(self._rows(as_list(text, "texts", str), pictures, clips), padding, padding_side)
        return batch | picture_arrays(pictures, settings) | clip_arrays(clips, moving)

    def text(self, texts: str | Sequence[str], *, padding: bool | str = "longest", padding_side: str = "left") -> Batch:
        """input_ids, attention_mask and mm_token_type_ids of prompts without pictures; else as in a call."""
        return self(text=texts, padding=padding, padding_side=padding_side)

    def images(self, images: ImageSource | Sequence[ImageSource], **options: Unpack[PictureOptions]) -> Batch:
        """pixel_values float32 (patches of all pictures, 1176) and image_grid_thw int32 (n, 3); t is 1.

        size: {"shortest_edge", "longest_edge"}, which are not edges but the least and the most of
        frames × height × width, where a picture counts as two frames. min_pixels, max_pixels: the same as limits of
        height × width. Other options replace the setting of that name in the checkpoint's file.
        Raises MediaError for pictures that cannot be read, InputError for arguments and for sides whose lengths
        differ more than 200 times.
        """
        return self(images=images, **options)

    def videos(
        self,
        videos: VideoSource | Sequence[VideoSource],
        *,
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        **options: Unpack[PictureOptions],
    ) -> Batch:
        """pixel_values_videos float32 (patches of all frames, 1176) and video_grid_thw int32 (n, 3).

        videos: one or several of what `open_video` takes; a list of frames is one video inside a list of videos.
        fps: of frames that come without a rate. do_sample_frames: choose frames by the checkpoint's rule (which needs
        the fps), or take all of them. Options as in `images`; max_pixels holds for each frame, within the budget of
        the whole video. Raises like `images`.
        """
        return self(videos=videos, fps=fps, do_sample_frames=do_sample_frames, **options)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        images: ImageSource | Sequence[ImageSource] = (),
        videos: VideoSource | Sequence[VideoSource] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        **options: Unpack[PictureOptions],
    ) -> Batch:
        """A batch of one from messages in the OpenAI shape, through the checkpoint's own chat template.

        images, videos: stand before the text of the last message of the user, after what it holds already.
        tools, enable_thinking: as the template has them. fps, do_sample_frames and options as in `videos`; a part may
        have min_pixels, max_pixels and, of a video, fps of its own.
        Raises InputError for messages in which somebody typed a placeholder: it would be taken for a picture.
        """
        if self.template is None:
            raise ConfigError(
                f"{self.tokenizer.path.parent} has no chat template; expected chat_template.jinja. Take that file from "
                "the checkpoint's hub repository, or write the prompt yourself and pass text=."
            )
        refuse_typed(messages, tools)
        placed, media = _placed(messages, images, videos)
        prompt = self.template.render(
            placed, tools=tools, add_generation_prompt=add_generation_prompt, enable_thinking=enable_thinking
        )
        settings, moving = (self._settings(own, options) for own in (self.settings, self.video_settings))
        pictures, clips = list[Picture](), list[Clip]()
        for item in media:
            own = part_options(item)
            if item.kind == "image":
                pictures += measure_pictures([item.source], override(settings, own, InputError, PICTURE_CHECKS))
                continue
            rate = own.pop("fps", fps)
            narrowed = override(moving, own, InputError, PICTURE_CHECKS)
            clips += measure_clips([item.source], narrowed, self.sampling, rate, do_sample_frames)
        batch = self._pad(self._rows([prompt], pictures, clips), "longest", "left")
        return batch | picture_arrays(pictures, settings) | clip_arrays(clips, moving)

    def image_sizes(
        self, messages: Sequence[Mapping[str, Any]], *, images: ImageSource | Sequence[ImageSource] = ()
    ) -> list[tuple[int, int]]:
        """Height and width of the pictures of a chat as they were given, in the order in which the model sees them."""
        media = _placed(messages, images, ())[1]
        return [measured(item.source)[:2] for item in media if item.kind == "image"]

    def collate(self, items: Sequence[Batch]) -> Batch:
        """One batch from several, in order: prompts are padded on the left, and some may be without pictures."""
        if not items:
            raise InputError("No items were given; expected at least one. Leave the call out for an empty batch.")
        if len({"input_ids" in item for item in items}) > 1:
            raise InputError("Some items have a prompt and some have none; expected one kind. Collate each alone.")
        batch: Batch = {}
        if "input_ids" in items[0]:
            rows = [
                row[mask == 1].tolist()
                for item in items
                for row, mask in zip(item["input_ids"], item["attention_mask"], strict=True)
            ]
            batch = self._pad(rows, "longest", "left")
        for key in ARRAYS:
            if arrays := [item[key] for item in items if key in item]:
                batch[key] = np.concatenate(arrays)
        return batch

    def count_tokens(
        self,
        *,
        images: ImageSource | Sequence[ImageSource] = (),
        videos: VideoSource | Sequence[VideoSource] = (),
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        **options: Unpack[PictureOptions],
    ) -> dict[str, list[int]]:
        """{"images": tokens of each, "videos": tokens of each}, from their sizes, without decoding them.

        The two markers around a picture, and the markers and labels of a video's frames, are not counted.
        """
        settings, moving = (self._settings(own, options) for own in (self.settings, self.video_settings))
        pictures, clips = _several(images, ONE_IMAGE), _several(videos, ONE_VIDEO)
        grids = {
            "images": [item.grid for item in measure_pictures(pictures, settings)] if pictures else [],
            "videos": [item.grid for item in measure_clips(clips, moving, self.sampling, fps, do_sample_frames)]
            if clips
            else [],
        }
        merge = self.settings.merge_size**2
        return {kind: [t * h * w // merge for t, h, w in found] for kind, found in grids.items()}

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: PictureOptions | None = None) -> int:
        """Patches of a picture of that size; a quarter of it are tokens."""
        t, h, w = grid_of(self._settings(self.settings, images_kwargs or {}), None, height, width)
        return t * h * w

    def get_num_of_video_patches(
        self, num_frames: int, height: int, width: int, videos_kwargs: PictureOptions | None = None
    ) -> int:
        """Patches of a video of so many chosen frames of that size."""
        t, h, w = grid_of(self._settings(self.video_settings, videos_kwargs or {}), num_frames, height, width)
        return t * h * w

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids; tokens that the file calls special are left out unless skip_special_tokens is False."""
        return self.tokenizer.decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens)

    def batch_decode(self, rows: Iterable[Iterable[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """`decode` for each row."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]

    # --- sizes, then prompts

    def _settings(self, own: PictureSettings, options: PictureOptions) -> PictureSettings:
        settings = override(own, options, InputError, PICTURE_CHECKS)
        check_geometry(settings, own, InputError)
        return settings

    def _rows(self, texts: list[str], pictures: list[Picture], clips: list[Clip]) -> list[list[int]]:
        """Token ids of prompts whose placeholders are written out."""
        self._check_tokens()
        tokens = self.settings.merge_size**2
        texts = write_out(texts, [item.tokens(tokens) for item in pictures], [item.tokens(tokens) for item in clips])
        rows = [self.tokenizer.encode_prompt(text) for text in texts]
        limit, size = self.config.text_config.max_position_embeddings, self.config.text_config.vocab_size
        for row in rows:
            if not 0 < len(row) <= limit:
                shown = row.count(self.config.image_token_id)
                raise InputError(
                    f"A prompt has {len(row)} tokens, {shown} of them for pictures; expected 1 to {limit}, the "
                    "positions this model has. Shorten it, or pass fewer pictures or a lower max_pixels."
                )
            if max(row) >= size:
                raise ConfigError(
                    f"{self.tokenizer.path} gave the id {max(row)}; expected ids for the {size} rows of the model's "
                    "table. Use the tokenizer and the config.json of one checkpoint."
                )
        return rows

    def _check_tokens(self) -> None:
        """Hold the tokenizer against config.json: a mismatch would give nonsense without an error."""
        expected = {IMAGE: self.config.image_token_id, VIDEO: self.config.video_token_id}
        for mark in MARKERS:
            found = self.tokenizer.encode_prompt(mark)
            if len(found) != 1 or found[0] != expected.get(mark, found[0]):
                wanted = f"the id {expected[mark]}" if mark in expected else "a single token"
                raise ConfigError(
                    f"{self.tokenizer.path} turns {mark} into {found}; expected {wanted}. Use the tokenizer and the "
                    "config.json of one checkpoint."
                )

    def _pad(self, rows: list[list[int]], padding: bool | str, side: str) -> Batch:
        if padding not in (True, "longest") or side not in ("left", "right"):
            raise InputError(
                f'padding is {padding!r} on side {side!r}; expected "longest" on "left" or "right". Leave it out.'
            )
        pad = self.tokenizer.pad_id if self.config.pad_token_id is None else self.config.pad_token_id
        markers = [self.tokenizer.encode_prompt(mark)[0] for mark in MARKERS[:2]]
        types = [token_types(row, self.config.image_token_id, *markers) for row in rows]
        masks = [[1] * len(row) for row in rows]
        return {
            "input_ids": _padded(rows, pad, side),
            "attention_mask": _padded(masks, 0, side),
            "mm_token_type_ids": _padded(types, 0, side),
        }


def _placed(
    messages: Sequence[Mapping[str, Any]], images: Any, videos: Any
) -> tuple[list[Mapping[str, Any]], list[Media]]:
    """The messages with the pictures and videos that came beside them, and all of these in their order."""
    added = [Media("image", source, {}, "An image") for source in _several(images, ONE_IMAGE)]
    added += [Media("video", source, {}, "A video") for source in _several(videos, ONE_VIDEO)]
    return put_media(messages, added)


def _several(values: Any, single: tuple[type, ...]) -> list[Any]:
    """A list of pictures or videos, which may be empty here."""
    return [] if isinstance(values, list | tuple) and not values else as_list(values, "media", single)


def _padded(rows: list[list[int]], value: int, side: str) -> npt.NDArray[np.int32]:
    result = np.full((len(rows), max(map(len, rows))), value, np.int32)
    for line, row in zip(result, rows, strict=True):
        if side == "left":
            line[len(line) - len(row) :] = row
        else:
            line[: len(row)] = row
    return result
