"""Image processor settings of a checkpoint: Hugging Face's JSON files and the values they may hold."""

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypedDict, TypeVar

import numpy as np

from mlx_mm.errors import ConfigError, InputError, is_number, is_whole, shown
from mlx_mm.processing.files import read_json

# Keys of transformers' image processor files that change no pixel here.
_HARMLESS_KEYS = {
    "_processor_class",
    "_valid_processor_keys",
    "auto_map",
    "data_format",
    "device",
    "disable_grouping",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "return_tensors",
}
MAX_COUNT, MAX_FLOAT = 2**31 - 1, 3.4e38  # of an axis of an mlx array, of float32
# Of pictures as a model gets them: eight times the largest that any checkpoint asks for, and 200 MB
MAX_SIDE = 4096
# Keys that act only while a switch is on; a switch that is on must be known itself.
_SWITCHED_KEYS = {"crop_size": "do_center_crop", "pad_size": "do_pad"}


MOST = 2**31 - 1  # of counts and factors; above it are slips, and no size of arrays


@dataclass(frozen=True, kw_only=True)
class PixelSettings:
    """Settings that every image processor has, under Hugging Face's names; a family adds its geometry.

    do_convert_rgb is null in some of the hub's files, which transformers takes as off; here it means on.
    """

    resample: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    do_resize: bool = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    do_convert_rgb: bool = True


class ImageOptions(TypedDict, total=False):
    """What a call may set in place of a checkpoint's file; which of them a model has depends on its family."""

    do_resize: bool | None
    size: dict[str, int] | int | None
    resample: int | None
    do_center_crop: bool | None
    crop_size: dict[str, int] | int | None
    patch_size: int | None
    max_num_patches: int | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | tuple[float, ...] | list[float] | None
    image_std: float | tuple[float, ...] | list[float] | None
    do_convert_rgb: bool | None


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Settings = TypeVar("Settings", bound=_Dataclass)
# The value as settings keep it, None where it does not fit; what fits
Check: TypeAlias = tuple[Callable[[object], object], str]


def read_image_settings(folder: Path, known: Collection[str]) -> dict[str, object]:
    """The `known` settings of a checkpoint folder; those that are absent or null are left out.

    transformers 5.x nests them in processor_config.json, 4.x writes preprocessor_config.json; where both
    exist the nested ones stand alone, as in transformers. Raises ConfigError for other keys that could
    change pixels.
    """
    values = read_json(folder / "processor_config.json").get("image_processor")
    if not isinstance(values, dict):
        values = read_json(folder / "preprocessor_config.json")
    values = _spell_out_size(values)
    refuse_unknown(values, known, f"The image processor file in {folder}")
    return {key: values[key] for key in known if values.get(key) is not None}


def refuse_unknown(values: Mapping[str, object], known: Collection[str], where: str) -> None:
    """Raise ConfigError where a file has a key that could change pixels and is not known; where: "The … file in …"."""
    for key, value in values.items():
        off = value is None or (key.startswith("do_") and value is False)
        unused = key in _SWITCHED_KEYS and not values.get(_SWITCHED_KEYS[key])
        if key not in known and key not in _HARMLESS_KEYS and not off and not unused:
            raise ConfigError(
                f"{where} has {key}: {shown(value)}; expected only settings of this family. Remove the key if it "
                "changes nothing; otherwise the checkpoint cannot be run."
            )


def _spell_out_size(values: dict[str, object]) -> dict[str, object]:
    """`default_to_square`, where a file has it, says what one number as `size` means."""
    size, square = values.get("size"), values.get("default_to_square")
    values = {key: value for key, value in values.items() if key != "default_to_square"}
    if _count(size) and square is not None:
        values["size"] = {"height": size, "width": size} if square else {"shortest_edge": size}
    return values


def sides(value: object) -> tuple[int, int] | None:
    """{"height": H, "width": W}, or one number for both -> (height, width)."""
    if not isinstance(value, dict):
        value = {"height": value, "width": value}
    height, width = (_count(value.get(key), MAX_SIDE) for key in ("height", "width"))
    return (height, width) if height and width and len(value) == 2 else None


def sides_or_edge(value: object) -> tuple[int, int] | int | None:
    """{"height": H, "width": W} -> (height, width); {"shortest_edge": E} or a number -> E."""
    if isinstance(value, dict) and list(value) != ["shortest_edge"]:
        return sides(value)
    return _count(value["shortest_edge"] if isinstance(value, dict) else value, MAX_SIDE)


def _count(value: object, most: int = MAX_COUNT) -> int | None:
    return int(value) if is_whole(value) and 1 <= value <= most else None


def count_up_to(most: int) -> Check:
    """A whole number from 1 to `most`."""
    return functools.partial(_count, most=most), f"a whole number from 1 to {most:,}"


def _filter(value: object) -> int | None:
    return int(value) if is_whole(value) and 0 <= value <= 5 else None


def _factor(value: object) -> float | None:
    return float(value) if is_number(value) and abs(value) <= MAX_FLOAT else None


def _channels(value: object) -> tuple[float, ...] | None:
    value = value.tolist() if isinstance(value, np.ndarray) else value
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    fits = len(values) == 3 and all(is_number(part) and abs(part) <= MAX_FLOAT for part in values)
    return values if fits else None


def _divisors(value: object) -> tuple[float, ...] | None:
    values = _channels(value)
    return None if values is None or 0 in values else values


def _switch(value: object) -> bool | None:
    return bool(value) if isinstance(value, bool | np.bool_) else None


SIDES: Check = sides, '{"height": H, "width": W} or one whole number, from 1 to 4096'
SIDES_OR_EDGE: Check = (
    sides_or_edge,
    '{"height": H, "width": W}, {"shortest_edge": E} or one whole number, from 1 to 4096',
)
COUNT: tuple[Callable[[object], int | None], str] = _count, "a whole number of at least 1"
CHECKS: dict[str, Check] = {
    "size": SIDES,
    "crop_size": SIDES,
    "patch_size": COUNT,
    "max_num_patches": COUNT,
    "resample": (_filter, "0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box or 5 hamming"),
    "rescale_factor": (_factor, "a number"),
    "image_mean": (_channels, "one number or three"),
    "image_std": (_divisors, "one number or three, none of them 0"),
}
SWITCH: Check = _switch, "true or false"


def override(
    settings: Settings,
    given: Mapping[str, object],
    error: type[InputError] | type[ConfigError],
    checks: Mapping[str, Check] = CHECKS,
) -> Settings:
    """`settings` with the given values that are not None; `error` for a key they lack or a value that does not fit."""
    if not isinstance(given, Mapping):
        raise error(f"The options are {shown(given)}; expected a dict of them. Leave them out for the defaults.")
    known = [field.name for field in fields(settings)]
    values = {}
    for key, value in given.items():
        if value is None:
            continue
        if key not in known:
            raise error(
                f"{key} is {shown(value)}, but this model has no {key}; it has {', '.join(known)}. Leave it out."
            )
        check, expected = checks.get(key, SWITCH)
        values[key] = check(value)
        if values[key] is None:
            raise error(f"{key} is {shown(value)}; expected {expected}. Correct it, or leave it out for the default.")
    return replace(settings, **values)


def refuse_options(options: Mapping[str, object], kind: str = "images") -> None:
    """Raise InputError where a call without inputs of a kind sets something about them."""
    if given := [key for key, value in options.items() if value is not None]:
        raise InputError(f"{given[0]} was given without {kind}, where it cannot act. Pass {kind}=, or leave it out.")
