"""Image processor settings of a checkpoint: Hugging Face's JSON files and the values they may hold."""

import json
import math
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from mlx_mm.errors import ConfigError, InputError

# Keys of transformers' image processor files that change no pixel here.
_HARMLESS_KEYS = {
    "_processor_class",
    "_valid_processor_keys",
    "auto_map",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "return_tensors",
}
# Keys that act only while a switch is on; a switch that is on must be known itself.
_SWITCHED_KEYS = {"crop_size": "do_center_crop", "pad_size": "do_pad"}


def read_image_settings(folder: Path, known: Collection[str]) -> dict[str, Any]:
    """The `known` settings of a checkpoint folder; those that are absent or null are left out.

    transformers 5.x nests them in processor_config.json, 4.x writes preprocessor_config.json; where both
    exist the nested ones stand alone, as in transformers. Raises ConfigError for other keys that could
    change pixels.
    """
    values = read_json(folder / "processor_config.json").get("image_processor")
    if not isinstance(values, dict):
        values = read_json(folder / "preprocessor_config.json")
    for key, value in values.items():
        off = value is None or (key.startswith("do_") and value is False)
        unused = key in _SWITCHED_KEYS and not values.get(_SWITCHED_KEYS[key])
        if key not in known and key not in _HARMLESS_KEYS and not off and not unused:
            raise ConfigError(
                f"The image processor file in {folder} has {key}: {value!r}; expected only settings of this "
                "family. Remove the key if it changes nothing; otherwise the checkpoint cannot be run."
            )
    return {key: values[key] for key in known if values.get(key) is not None}


def check_setting(key: str, value: Any, error: type[InputError] | type[ConfigError]) -> Any:
    """The value in the form ImageSettings keeps it."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if key == "size":
        sides: tuple[Any, Any] = (value, value)
        if isinstance(value, dict):
            sides = value.get("height"), value.get("width")
        if all(_whole(side) and side >= 1 for side in sides):
            return int(sides[0]), int(sides[1])
        expected = '{"height": H, "width": W} or one whole number, at least 1'
    elif key in ("patch_size", "max_num_patches"):
        if _whole(value) and value >= 1:
            return int(value)
        expected = "a whole number of at least 1"
    elif key == "resample":
        if _whole(value) and 0 <= value <= 5:
            return int(value)
        expected = "0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box or 5 hamming"
    elif key == "rescale_factor":
        if number and math.isfinite(value):
            return float(value)
        expected = "a number"
    elif key in ("image_mean", "image_std"):
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3
        numbers = len(values) == 3 and all(isinstance(part, Real) and math.isfinite(part) for part in values)
        if numbers and not (key == "image_std" and 0 in values):
            return values
        expected = "one number or three" + (", none of them 0" if key == "image_std" else "")
    else:
        if isinstance(value, bool):
            return value
        expected = "true or false"
    raise error(f"{key} is {value!r}; expected {expected}. Correct it, or leave it out for the default.")


def _whole(value: Any) -> bool:
    """NumPy's integers too; True and 2.0 are more likely slips than numbers."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no such file; raises ConfigError for anything else."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); expected JSON. Download it again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected a JSON object. Download it again.")
    return values
