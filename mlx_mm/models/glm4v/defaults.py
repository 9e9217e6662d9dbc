"""How answers end, and how tokens are chosen where nobody says: generation_config.json, and what it leaves out."""

from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any

from mlx_mm.errors import ConfigError
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.processing.answer import END_THINK, THINK
from mlx_mm.processing.settings import read_json
from mlx_mm.processing.text import Tokenizer

FILE = "generation_config.json"
# Published files of this family have lacked some; without <|user|> a model goes on with a turn of its own.
STOPS = ("<|endoftext|>", "<|user|>", "<|observation|>")

GROUP_SIZES = (64, 32)  # of those that MLX has, mlx_lm's usual one first


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. temperature: 0 takes the likeliest. None: that step is left out."""

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True)
class Defaults:
    """What generating needs to know of a checkpoint beside its model.

    stop_ids: tokens that end an answer. think_ids: of <think> and </think>, None where they are no tokens.
    context_length: the most tokens of a prompt and its answer. kv_group_size: numbers of a key that share a scale in a
    quantised cache, None where no size fits.
    """

    sampling: Sampling
    stop_ids: frozenset[int]
    think_ids: tuple[int, int] | None
    context_length: int
    kv_group_size: int | None

    @classmethod
    def read(cls, folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> "Defaults":
        """Of a checkpoint's folder, whose generation_config.json may be missing; raises ConfigError."""
        values = read_json(folder / FILE)
        stops = {*_ids(values.get("eos_token_id"), folder), *config.eos_token_ids}
        stops.update(single for stop in STOPS if (single := _single(tokenizer, stop)) is not None)
        opening, closing = _single(tokenizer, THINK), _single(tokenizer, END_THINK)
        think = None if opening is None or closing is None else (opening, closing)
        text = config.text_config
        group = next((size for size in GROUP_SIZES if text.head_dim % size == 0), None)
        return cls(_sampling(values, folder), frozenset(stops), think, text.max_position_embeddings, group)


def _sampling(values: dict[str, Any], folder: Path) -> Sampling:
    """As transformers reads it: do_sample False is greedy whatever else is there, True samples at 1.0 if need be."""
    found = {f.name: values[f.name] for f in fields(Sampling) if values.get(f.name) is not None}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int if name == "top_k" else Real) or value < 0:
            raise ConfigError(
                f"{folder / FILE} has {name} {value!r}; expected a number. Take the checkpoint's own file."
            )
    if values.get("do_sample") is True:
        found = {"temperature": 1.0, **found}
    elif values.get("do_sample") is False:
        found["temperature"] = 0.0
    return Sampling(**found)


def _ids(value: Any, folder: Path) -> list[int]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise ConfigError(
            f"{folder / FILE} has eos_token_id {value!r}; expected a token id or a list of them. Take the checkpoint's "
            "own file."
        )
    return list(ids)


def _single(tokenizer: Tokenizer, text: str) -> int | None:
    ids = tokenizer.encode_prompt(text)
    return ids[0] if len(ids) == 1 else None
