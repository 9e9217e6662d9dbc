"""Prompts, images and videos to the arrays of GLM-4.6V, 4.5V and 4.1V.

A prompt has one placeholder for each image and video. It is written out before it is tokenised: a token for every
2 × 2 patches, and between the frames of a video what second they are from. Sizes decide that, not pixels, so a prompt
that is too long is refused before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, cast

import numpy as np

from mlx_mm.errors import ConfigError, InputError, at_place, shown, whole_number
from mlx_mm.generation.defaults import GenerationDefaults
from mlx_mm.models.contracts import Modality
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.defaults import generation_defaults
from mlx_mm.models.glm4v.media import (
    PICTURE_AXES,
    VIDEO_AXES,
    MeasuredImage,
    MeasuredVideo,
    image_arrays,
    measure_images,
    measure_videos,
    video_arrays,
)
from mlx_mm.models.glm4v.prompt import part_options, put_media, refuse_typed, without_markers
from mlx_mm.models.glm4v.response import THINK, StreamParser
from mlx_mm.models.glm4v.settings import (
    VISUAL_CHECKS,
    FrameSampling,
    VisualOptions,
    VisualSettings,
    check_geometry,
    grid_of,
    settings_of_images,
    settings_of_videos,
)
from mlx_mm.models.glm4v.tokens import TokenRows
from mlx_mm.processing import template_process
from mlx_mm.processing.arguments import Texts, flag, listed, optional_flag, unpacked
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.chat import ChatTemplate, Messages, Tools, fill_media, with_sources
from mlx_mm.processing.image import ImageSource
from mlx_mm.processing.measure import measured
from mlx_mm.processing.messages import MediaPart
from mlx_mm.processing.settings import override, refuse_options
from mlx_mm.processing.text import Tokenizer, as_texts
from mlx_mm.processing.video import VideoSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

ARRAYS = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
MOST_ID = 2**32 - 1  # that tokenizers take
IDS = "Pass a list or an array of ids."
TAIL = 4  # tokens of a prompt among which it can open a think block

Kind: TypeAlias = Literal["image", "video"]
Item = TypeVar("Item")


class Processor:
    """Prompts, images and videos in, NumPy arrays under the model's argument names out; answers taken apart."""

    kind: Literal["chat"] = "chat"
    modalities: tuple[Modality, ...] = ("text", "image", "video")

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        images: VisualSettings,
        videos: tuple[VisualSettings, FrameSampling],
        template: ChatTemplate | None,
        defaults: GenerationDefaults,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.settings = images
        self.video_settings, self.frame_sampling = videos
        self.template = template
        self.defaults = defaults
        self._prompts = TokenRows(config, tokenizer)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> Processor:
        """Read the processor files of a Hugging Face folder, of transformers 4.x or 5.x; raises ConfigError.

        Only the chat template may be missing, which `chat` alone needs.
        """
        template_process.start()  # it gets ready while the vocabulary is read
        tokenizer = Tokenizer.from_folder(folder)
        images, videos = settings_of_images(folder, config.vision_config), settings_of_videos(folder, config)
        defaults, template = generation_defaults(folder, config, tokenizer), ChatTemplate.from_folder(folder)
        return cls(config, tokenizer, images, videos, template, defaults)

    def __call__(
        self,
        *,
        text: Texts | None = None,
        images: ImageSource | Iterable[ImageSource] | None = None,
        videos: VideoSource | Iterable[VideoSource] | None = None,
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        padding: bool | str = "longest",
        padding_side: str = "left",
        **options: Unpack[VisualOptions],
    ) -> Batch:
        """The arrays of prompts with their images and videos, or of either alone.

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
        measured_images, measured_videos = list[MeasuredImage](), list[MeasuredVideo]()
        if images is not None:
            measured_images = list(measure_images(images, settings))
        if videos is not None:
            measured_videos = list(measure_videos(videos, moving, self.frame_sampling, fps, do_sample_frames))
        batch: Batch = {}
        if text is not None:
            rows = self._prompts.rows(as_texts(text), measured_images, measured_videos)
            batch = self._prompts.pad(rows, padding, padding_side)
        return batch | image_arrays(measured_images, settings) | video_arrays(measured_videos, moving)

    def text(self, texts: Texts, *, padding: bool | str = "longest", padding_side: str = "left") -> Batch:
        """input_ids, attention_mask and mm_token_type_ids of prompts without images; else as in a call."""
        return self(text=texts, padding=padding, padding_side=padding_side)

    def images(self, images: ImageSource | Iterable[ImageSource], **options: Unpack[VisualOptions]) -> Batch:
        """pixel_values float32 (patches of all images, 1176) and image_grid_thw int32 (n, 3); t is 1.

        size: {"shortest_edge", "longest_edge"}, which are not edges but the least and the most of
        frames × height × width, where an image counts as two frames. min_pixels, max_pixels: the same as limits of
        height × width. Other options replace the setting of that name in the checkpoint's file.
        Raises MediaError for images that cannot be read, InputError for arguments and for sides whose lengths
        differ more than 200 times.
        """
        return self(images=images, **options)

    def videos(
        self,
        videos: VideoSource | Iterable[VideoSource],
        *,
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        **options: Unpack[VisualOptions],
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
        messages: Messages,
        *,
        images: ImageSource | Iterable[ImageSource] | None = (),
        videos: VideoSource | Iterable[VideoSource] | None = (),
        tools: Tools | None = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        **options: Unpack[VisualOptions],
    ) -> Batch:
        """A batch of one from messages in the OpenAI shape, through the checkpoint's own chat template.

        images, videos: fill the parts of the messages that have no source, in reading order; where there are none, they
        stand before the text of the last message of the user, after what it holds already.
        tools, enable_thinking: as the template has them. fps, do_sample_frames and options as in `videos`; a part may
        have min_pixels, max_pixels and, of a video, fps of its own.
        Raises InputError for messages in which somebody typed a placeholder: it would be taken for an image.
        """
        if self.template is None:
            raise ConfigError(
                f"{self.tokenizer.path.parent} has no chat template; expected chat_template.jinja. Take that file from "
                "the checkpoint's hub repository, or write the prompt yourself and pass text=."
            )
        refuse_typed(messages, tools)
        given: dict[Kind, list[object]] = {"image": listed(images, PICTURE_AXES), "video": listed(videos, VIDEO_AXES)}
        placed, media = _placed(messages, given)
        with_sources(media)
        prompt = self.template.render(
            placed,
            tools=tools,
            add_generation_prompt=flag("add_generation_prompt", add_generation_prompt),
            enable_thinking=optional_flag("enable_thinking", enable_thinking),
        )
        settings, moving = (self._settings(own, options) for own in (self.settings, self.video_settings))
        measured_images, measured_videos = list[MeasuredImage](), list[MeasuredVideo]()
        for item in media:
            own = part_options(item)
            with at_place(item.where):
                if item.kind == "image":
                    narrowed = override(settings, own, InputError, VISUAL_CHECKS)
                    [image] = measure_images([item.source], narrowed)
                    measured_images.append(replace(image, place=item.where))
                    continue
                rate = cast("float | None", own.pop("fps", fps))  # which `measure_videos` checks
                narrowed = override(moving, own, InputError, VISUAL_CHECKS)
                [video] = measure_videos([item.source], narrowed, self.frame_sampling, rate, do_sample_frames)
                measured_videos.append(replace(video, place=item.where))
        batch = self._prompts.pad(self._prompts.rows([prompt], measured_images, measured_videos), "longest", "left")
        return batch | image_arrays(measured_images, settings) | video_arrays(measured_videos, moving)

    def response(self, prompt_ids: Sequence[int], *, tools: Tools | None = None) -> StreamParser:
        """What takes the answer to a prompt apart. tools: the schemas that were offered."""
        end = self.decode(prompt_ids[-TAIL:], skip_special_tokens=False).rstrip()
        return StreamParser(thinking_open=end.endswith(THINK), tools=tools)

    def without_markers(self, text: str) -> str:
        """What the model said, as it may stand in a message: it could otherwise be taken for an image."""
        return without_markers(text)

    def image_sizes(
        self, messages: Messages, *, images: ImageSource | Iterable[ImageSource] | None = ()
    ) -> list[tuple[int, int]]:
        """Height and width of the images of a chat as they were given, in the order in which the model sees them."""
        media = [item for item in _placed(messages, {"image": listed(images, PICTURE_AXES)})[1] if item.kind == "image"]
        return [measured(item.source)[:2] for item in with_sources(media)]

    def collate(self, items: Sequence[Batch]) -> Batch:
        """One batch from several, in order: prompts are padded on the left, and some may be without images."""
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
            batch = self._prompts.pad(rows, "longest", "left")
        for key in ARRAYS:
            if arrays := [item[key] for item in items if key in item]:
                batch[key] = np.concatenate(arrays)
        return batch

    def count_tokens(
        self,
        *,
        images: ImageSource | Iterable[ImageSource] | None = (),
        videos: VideoSource | Iterable[VideoSource] | None = (),
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        **options: Unpack[VisualOptions],
    ) -> dict[str, list[int]]:
        """{"images": tokens of each, "videos": tokens of each}, from their sizes, without decoding them.

        The two markers around a picture, and the markers and labels of a video's frames, are not counted.
        """
        settings, moving = (self._settings(own, options) for own in (self.settings, self.video_settings))
        grids: dict[str, list[tuple[int, int, int]]] = {"images": [], "videos": []}
        all_images = cast("list[ImageSource]", listed(images, PICTURE_AXES))
        all_videos = cast("list[VideoSource]", listed(videos, VIDEO_AXES))
        if all_images:
            grids["images"] = [item.grid for item in measure_images(all_images, settings)]
        if all_videos:
            found = measure_videos(all_videos, moving, self.frame_sampling, fps, do_sample_frames)
            grids["videos"] = [item.grid for item in found]
        merge = self.settings.merge_size**2
        return {kind: [t * h * w // merge for t, h, w in found] for kind, found in grids.items()}

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: VisualOptions | None = None) -> int:
        """Patches of an image of that size; a quarter of it are tokens."""
        height, width = whole_number("height", height), whole_number("width", width)
        t, h, w = grid_of(self._settings(self.settings, images_kwargs or {}), None, height, width)
        return t * h * w

    def get_num_of_video_patches(
        self, num_frames: int, height: int, width: int, videos_kwargs: VisualOptions | None = None
    ) -> int:
        """Patches of a video of so many chosen frames of that size."""
        height, width = whole_number("height", height), whole_number("width", width)
        num_frames = whole_number("num_frames", num_frames)
        t, h, w = grid_of(self._settings(self.video_settings, videos_kwargs or {}), num_frames, height, width)
        return t * h * w

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids; tokens that the file calls special are left out unless skip_special_tokens is False."""
        numbers = [whole_number("A token id", token, least=0, most=MOST_ID, advice=IDS) for token in _list(ids)]
        return self.tokenizer.decode(numbers, skip_special_tokens=flag("skip_special_tokens", skip_special_tokens))

    def batch_decode(self, rows: Iterable[Iterable[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """`decode` for each row."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in _list(rows)]

    def _settings(self, own: VisualSettings, options: VisualOptions) -> VisualSettings:
        settings = override(own, options, InputError, VISUAL_CHECKS)
        check_geometry(settings, own, InputError)
        return settings


def _placed(
    messages: Messages, given: Mapping[Kind, Sequence[object]]
) -> tuple[list[Mapping[str, object]], list[MediaPart]]:
    """The messages with the media that came beside them, and all media in their order.

    They fill the parts of their kind that have no source; where there are none, they stand before the last text of the
    user.
    """
    added: list[MediaPart] = []
    for kind, sources in given.items():
        messages, rest = fill_media(messages, kind, sources)
        added += [MediaPart(kind, source, {}, f"The {kind} that was given") for source in rest]
    return put_media(messages, added)


def _list(values: Iterable[Item]) -> list[Item]:
    """The items of an array of any library, or of a list; InputError for what has none."""
    values = cast("Iterable[Item]", unpacked(values.tolist() if hasattr(values, "tolist") else values))
    if isinstance(values, list | tuple):
        return list(values)
    raise InputError(f"{shown(values)} is given as token ids; expected several. {IDS}")
