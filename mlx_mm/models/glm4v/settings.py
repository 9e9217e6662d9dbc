"""What the processor files of a checkpoint say about its images and videos, and what a call may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from mlx_mm.errors import ConfigError, InputError, is_number, shown
from mlx_mm.models.glm4v.config import ModelConfig, VisionConfig
from mlx_mm.models.glm4v.pixels import smart_resize
from mlx_mm.processing.files import read_json
from mlx_mm.processing.settings import (
    CHECKS,
    COUNT,
    Check,
    PixelSettings,
    count_up_to,
    override,
    read_image_settings,
    refuse_unknown,
)

IMAGE_BUDGET = (112 * 112, 28 * 28 * 15000)  # transformers' class defaults; checkpoints write smaller ones
VIDEO_BUDGET = (112 * 112, 28 * 28 * 2 * 30000)
_VIDEO_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
# Keys of a video file that change nothing: transformers' samplers of these models do not read them, and the size is
# never one number.
_UNREAD = {"default_to_square", "max_image_size", "num_frames", "return_metadata", "video_metadata"}
_UNREAD |= {"video_processor_type"}
_MLX_VLM = "Glm46VMoEProcessor"  # which its converter writes, for GLM-4.5V and 4.6V alike
_LATER_THETA = 100_000  # rope_theta is 500000 in GLM-4.6V, 10000 in 4.5V and 4.1V


@dataclass(frozen=True, kw_only=True)
class VisualSettings(PixelSettings):
    """size: the least and the most of frames × height × width, where an image counts as two frames.

    min_pixels, max_pixels: the least and the most of height × width, of an image or of one frame; of a call alone.
    """

    size: tuple[int, int]
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True, kw_only=True)
class FrameSampling:
    """How frames are chosen and labelled. fps and max_duration count only where `by_duration` is False.

    by_duration: GLM-4.6V's rule, otherwise that of 4.1V and 4.5V. decimals: labels like "0.5 seconds", otherwise "0".
    """

    by_duration: bool
    decimals: bool
    do_sample_frames: bool = True
    fps: float = 2
    max_duration: float = 300


class VisualOptions(TypedDict, total=False):
    """What a call may set in place of the checkpoint's files; None leaves the file's value."""

    size: dict[str, int] | None
    min_pixels: int | None
    max_pixels: int | None
    do_resize: bool | None
    resample: int | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | tuple[float, ...] | list[float] | None
    image_std: float | tuple[float, ...] | list[float] | None
    do_convert_rgb: bool | None


def _budget(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, dict) or value.keys() != {"shortest_edge", "longest_edge"}:
        return None
    least, most = (COUNT[0](value[key]) for key in ("shortest_edge", "longest_edge"))
    return (least, most) if least and most and least <= most and least <= VIDEO_BUDGET[1] else None


def _positive(value: object) -> float | None:
    return float(value) if is_number(value) and 0 < value < 1e9 else None


_POSITIVE: Check = _positive, "a number above 0"
VISUAL_CHECKS: dict[str, Check] = CHECKS | {
    "size": (_budget, '{"shortest_edge": LEAST, "longest_edge": MOST}, both pixels of all frames, or max_pixels'),
    "temporal_patch_size": COUNT,
    "merge_size": COUNT,
    "min_pixels": count_up_to(VIDEO_BUDGET[1]),  # to which small pictures are made larger
    "max_pixels": COUNT,
}
_SAMPLING_CHECKS: dict[str, Check] = {"fps": _POSITIVE, "max_duration": _POSITIVE}


def settings_of_images(folder: Path, config: VisionConfig) -> VisualSettings:
    """Those of still images; raises ConfigError for a folder without them, or with ones that cannot be honoured."""
    values = read_json(folder / "processor_config.json").get("image_processor")
    if not isinstance(values, dict) and not read_json(folder / "preprocessor_config.json"):
        raise ConfigError(
            f"{folder} has no settings for pictures; expected preprocessor_config.json, or processor_config.json with "
            "image_processor in it. Take that file from the checkpoint's hub repository."
        )
    return _settings(read_image_settings(folder, _file_keys()), IMAGE_BUDGET, config)


def settings_of_videos(folder: Path, config: ModelConfig) -> tuple[VisualSettings, FrameSampling]:
    """Those of videos, from the first of transformers' three places; the last is the file of images.

    Without a file of their own videos therefore get the budget of images, as in transformers.
    """
    nested = read_json(folder / "processor_config.json").get("video_processor")
    places = [nested if isinstance(nested, dict) else {}, *(read_json(folder / name) for name in _VIDEO_FILES)]
    values = {key: value for key, value in next(filter(None, places), {}).items() if value is not None}
    sampling_keys = [field.name for field in fields(FrameSampling) if field.name not in ("by_duration", "decimals")]
    refuse_unknown(values, [*_file_keys(), *sampling_keys, *_UNREAD], f"The video processor file in {folder}")
    settings = _settings(
        {key: values[key] for key in _file_keys() if key in values}, VIDEO_BUDGET, config.vision_config
    )
    given = {key: values[key] for key in sampling_keys if key in values}
    return settings, override(_read_rules(folder, config, values), given, ConfigError, _SAMPLING_CHECKS)


def _read_rules(folder: Path, config: ModelConfig, videos: Mapping[str, Any]) -> FrameSampling:
    """GLM-4.6V-Flash and 4.1V share a model type, so the names of transformers' classes decide.

    Labels are the processor's and the choice of frames is the video processor's. Where no file names a class, the
    base of the rotary positions tells the generations apart. The converter of mlx-vlm writes processor_config.json and
    tokenizer_config.json under its own names, and leaves the others as they are.
    """
    files = ("preprocessor_config.json", _VIDEO_FILES[0], "processor_config.json", "tokenizer_config.json")
    found = (read_json(folder / name).get("processor_class") for name in files)
    name = next((value for value in found if value and value != _MLX_VLM), None)
    names = {"Glm46VProcessor": True, "Glm4vProcessor": False, None: config.rope.rope_theta > _LATER_THETA}
    if name not in names:
        raise ConfigError(
            f"The processor files in {folder} name the class {shown(name)}; expected Glm46VProcessor or "
            "Glm4vProcessor, which decide how the frames of a video are labelled. Take them from the checkpoint's hub "
            "repository."
        )
    samplers = {"Glm46VVideoProcessor": True, "Glm4vVideoProcessor": False}
    return FrameSampling(
        by_duration=samplers.get(str(videos.get("video_processor_type")), names[name]), decimals=names[name]
    )


def _file_keys() -> list[str]:
    return [field.name for field in fields(VisualSettings) if field.name not in ("min_pixels", "max_pixels")]


def _settings(given: dict[str, Any], budget: tuple[int, int], config: VisionConfig) -> VisualSettings:
    default = VisualSettings(
        resample=3,
        image_mean=(0.48145466, 0.4578275, 0.40821073),  # of the pictures CLIP was trained on
        image_std=(0.26862954, 0.26130258, 0.27577711),
        size=budget,
        patch_size=config.patch_size,
        temporal_patch_size=config.temporal_patch_size,
        merge_size=config.spatial_merge_size,
    )
    settings = override(default, given, ConfigError, VISUAL_CHECKS)
    check_geometry(settings, default, ConfigError)
    return settings


def check_geometry(
    settings: VisualSettings, model: VisualSettings, error: type[InputError] | type[ConfigError]
) -> None:
    """Raise `error` where patches are not those that the model's weights were made for."""
    for key in ("patch_size", "temporal_patch_size", "merge_size"):
        if getattr(settings, key) != getattr(model, key):
            raise error(
                f"{key} is {getattr(settings, key)}; expected {getattr(model, key)}, which the model was made for. "
                "Leave it out, or use the files of one checkpoint."
            )


def grid_of(settings: VisualSettings, frames: int | None, height: int, width: int) -> tuple[int, int, int]:
    """(t, h, w) in patches of an image (frames None) or of a video, after the resizing that the settings ask for."""
    patch, factor = settings.patch_size, settings.patch_size * settings.merge_size
    count = settings.temporal_patch_size if frames is None else frames
    if settings.do_resize:
        budget = _call_budget(settings, frames, count)
        height, width = smart_resize(
            count, height, width, *budget, factor=factor, temporal=settings.temporal_patch_size
        )
    elif height % factor or width % factor:
        raise InputError(
            f"A picture is {height}x{width} and do_resize is False; expected sides that {factor} divides. "
            "Resize it, or leave do_resize on."
        )
    return -(-count // settings.temporal_patch_size), height // patch, width // patch


def _call_budget(settings: VisualSettings, frames: int | None, count: int) -> tuple[int, int]:
    """The budget in frames × height × width; limits per image replace an image's and narrow a video's."""
    least, most = settings.size
    low, high = settings.min_pixels, settings.max_pixels
    if low is not None and high is not None and low > high:
        raise InputError(f"min_pixels is {low} and max_pixels {high}; expected a lower and a higher one. Correct them.")
    if high is not None:
        most = count * high if frames is None else min(most, count * high)
        least = min(least, most)
    if low is not None:
        least = count * low if frames is None else min(max(least, count * low), most)
        most = max(least, most)
    return least, most
