"""How answers end, and how tokens are chosen where nobody says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from mlx_mm.errors import ConfigError, is_number, is_whole, shown
from mlx_mm.processing.files import read_json

FILE = "generation_config.json"
MAX_ID = 2**31 - 1
# Option -> its range, both ends included
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (0, math.inf),
    "min_p": (0, 1),
    "repetition_penalty": (0, 100),
}


@dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen. temperature: 0 takes the likeliest. None: that step is left out."""

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True)
class GenerationDefaults:
    """What generating needs to know of a checkpoint beside its model.

    stop_ids: tokens that end an answer. think_ids: of the tokens that open and close reasoning, None where there are
    none. context_length: the most tokens of a prompt and its answer. kv_group_size: numbers of a key that share a
    scale in a quantised cache, None where no size fits. kv_numbers: of the keys and values of one token in all layers
    together, 0 where nobody says.
    """

    sampling: SamplingParams
    stop_ids: frozenset[int]
    think_ids: tuple[int, int] | None
    context_length: int
    kv_group_size: int | None
    kv_numbers: int = 0


def read_generation_config(folder: Path) -> tuple[SamplingParams, frozenset[int]]:
    """Sampling and end tokens of a checkpoint's generation_config.json, which may be missing; raises ConfigError."""
    values = read_json(folder / FILE)
    return _sampling(values, folder), _stop_ids(values.get("eos_token_id"), folder)


def _sampling(values: Mapping[str, object], folder: Path) -> SamplingParams:
    """As transformers reads it: do_sample False is greedy whatever else is there, True samples at 1.0 if need be."""
    found = {f.name: values[f.name] for f in fields(SamplingParams) if values.get(f.name) is not None}
    for name, value in found.items():
        low, high = RANGES[name]
        fits = is_number(value) and low <= value <= high and (name != "top_k" or is_whole(value))
        if not fits or (name == "repetition_penalty" and value == 0):
            raise ConfigError(
                f"{folder / FILE} has {name} {shown(value)}; expected a number from {low} to {high}. "
                "Take the checkpoint's own file."
            )
    if values.get("do_sample") is True:
        found = {"temperature": 1.0, **found}
    elif values.get("do_sample") is False:
        found["temperature"] = 0.0
    return SamplingParams(**found)  # type: ignore[arg-type]


def _stop_ids(value: object, folder: Path) -> frozenset[int]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(is_whole(token) and -1 <= token <= MAX_ID for token in ids):
        raise ConfigError(
            f"{folder / FILE} has eos_token_id {shown(value)}; expected a token id or a list of them. Take the "
            "checkpoint's own file."
        )
    return frozenset(ids)
