"""Which part of each tensor of the text model a rank has, by tensor parallelism (Shoeybi et al., arXiv 1909.08053).

Rows of what makes queries, keys, values and gates, columns of what reads them: then a layer needs two sums over all
ranks. Keys and values have few heads: ranks beyond their number have copies. Each expert is divided as an MLP is, so
that every rank works on every token. The table of tokens and the head are divided by tokens. Norms, the router and the
vision tower are whole on each rank.

Widths need not divide evenly: ranks have whole groups of numbers that are quantised together, some one more than
others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from mlx_mm.backend.ranks import Group
from mlx_mm.checkpoint.parts import NOTHING, Part
from mlx_mm.errors import InputError
from mlx_mm.models.contracts import Layers
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.language import LanguageModel
from mlx_mm.models.glm4v.model import Model
from mlx_mm.models.glm4v.sharded import ShardedLanguageModel, ShardedVisionTower
from mlx_mm.models.glm4v.vision import VisionTower

KINDS = ("weight", "scales", "biases", "bias")
ROWS, COLUMNS = "rows", "columns"
TEXT = ("language_model.", "lm_head.")


@dataclass(frozen=True)
class Own:
    """From `first` to `end` of `size` numbers."""

    first: int
    end: int
    size: int

    @property
    def count(self) -> int:
        return self.end - self.first

    def times(self, factor: int) -> "Own":
        """The same of `factor` as many."""
        return Own(self.first * factor, self.end * factor, self.size * factor)


@dataclass(frozen=True)
class Share:
    """What one of several ranks has. group_size: the most numbers of a row that are quantised together; 1 for floats.

    Raises InputError for a number of ranks among whom the model cannot be divided.
    """

    whole: ModelConfig
    rank: int
    ranks: int
    group_size: int = 1

    def __post_init__(self) -> None:
        if not self._divides(self.ranks):
            text = self.whole.text_config
            fitting = [str(ranks) for ranks in range(2, text.num_attention_heads + 1) if self._divides(ranks)]
            raise InputError(
                f"There are {self.ranks} ranks, and {text.num_attention_heads} heads of {text.head_dim} numbers, "
                f"{text.num_key_value_heads} for keys, in groups of {self.group_size}, which do not divide; expected "
                f"{' or '.join(fitting) or 'other groups'}. Start as many, convert with a smaller group size, "
                "or divide it by layers, which is pipeline."
            )

    def _divides(self, ranks: int) -> bool:
        text = self.whole.text_config
        heads, keys = text.num_attention_heads, text.num_key_value_heads
        return (
            heads % ranks == 0
            and (keys % ranks == 0 or ranks % keys == 0)
            and heads // ranks * text.head_dim % self.group_size == 0
            and min(map(self._units, self._widths)) >= ranks
        )

    @property
    def _widths(self) -> list[int]:
        moe = self.whole.moe
        return [self.whole.text_config.intermediate_size, *([] if moe is None else [moe.moe_intermediate_size])]

    def _units(self, width: int) -> int:
        return width // math.gcd(width, self.group_size)

    def _of_width(self, width: int, rank: int | None = None) -> Own:
        rank, units = self.rank if rank is None else rank, self._units(width)
        first, end = (units * place // self.ranks for place in (rank, rank + 1))
        return Own(first, end, units).times(width // units)

    @cached_property
    def vocabulary(self) -> list[Own]:
        """Of each rank."""
        size = self.whole.text_config.vocab_size
        return [Own(size * rank // self.ranks, size * (rank + 1) // self.ranks, size) for rank in range(self.ranks)]

    @property
    def _heads(self) -> Own:
        size = self.whole.text_config.num_attention_heads
        each = size // self.ranks
        return Own(self.rank * each, (self.rank + 1) * each, size)

    @property
    def _key_heads(self) -> Own:
        size = self.whole.text_config.num_key_value_heads
        each = max(1, size // self.ranks)
        first = self.rank * size // self.ranks
        return Own(first, first + each, size)

    @cached_property
    def config(self) -> ModelConfig:
        """Of a model with the sizes that this rank has."""
        text, moe = self.whole.text_config, self.whole.moe
        if moe is not None:
            moe = replace(moe, moe_intermediate_size=self._of_width(moe.moe_intermediate_size).count)
        return replace(
            self.whole,
            moe=moe,
            text_config=replace(
                text,
                vocab_size=self.vocabulary[self.rank].count,
                num_attention_heads=self._heads.count,
                num_key_value_heads=self._key_heads.count,
                intermediate_size=self._of_width(text.intermediate_size).count,
            ),
        )

    @cached_property
    def _layers(self) -> Mapping[str, tuple[str, Own, int]]:
        """How the path of a layer ends -> what is divided, by whose numbers, and how many such parts it has."""
        text, moe = self.whole.text_config, self.whole.moe
        queries, keys = self._heads.times(text.head_dim), self._key_heads.times(text.head_dim)
        found = {
            "embed_tokens": (ROWS, self.vocabulary[self.rank], 1),
            "lm_head": (ROWS, self.vocabulary[self.rank], 1),
            ".self_attn.q_proj": (ROWS, queries, 1),
            ".self_attn.k_proj": (ROWS, keys, 1),
            ".self_attn.v_proj": (ROWS, keys, 1),
            ".self_attn.o_proj": (COLUMNS, queries, 1),
            **_mlp(".mlp", self._of_width(text.intermediate_size)),
        }
        if moe is not None:
            width = self._of_width(moe.moe_intermediate_size)
            found |= _mlp(".shared_experts", width.times(moe.n_shared_experts)) | _mlp(".switch_mlp", width)
            found |= _mlp(".experts", width)
        return found

    def part(self, name: str, shape: tuple[int, ...]) -> Part | None:
        """The part of a tensor in the files, of our names or Hugging Face's; None for all of it. What a model has no
        use for is not taken."""
        name = name.removeprefix("model.")
        if not name.startswith(TEXT) or not shape:
            return None
        if f".layers.{self.whole.text_config.num_hidden_layers}." in name:
            return NOTHING
        layer, _, kind = name.rpartition(".")
        if kind not in KINDS:  # of a live model, whose experts are tensors and no layers
            layer = name
        path = ".".join(part for part in layer.split(".")[-3:] if not part.isdecimal())
        found = next((rule for end, rule in self._layers.items() if f".{path}".endswith(end)), None)
        return None if found is None else _part(shape, *found)

    @property
    def described(self) -> dict[str, str]:
        """What is divided -> how much of it this rank has."""
        text, moe = self.whole.text_config, self.whole.moe
        parts = {
            "heads": self._heads,
            "heads of keys": self._key_heads,
            "width of MLPs": self._of_width(text.intermediate_size),
            **({} if moe is None else {"width of each expert": self._of_width(moe.moe_intermediate_size)}),
            "tokens of the table and head": self.vocabulary[self.rank],
        }
        return {what: f"{own.count} of {own.size}" for what, own in parts.items()} | {"vision tower": "whole"}

    @property
    def token_numbers(self) -> int:
        """Keys and values of a token."""
        text = self.whole.text_config
        return 2 * text.num_hidden_layers * self._key_heads.count * text.head_dim

    def divide(self, model: Layers, group: Group) -> None:
        """Let a model of the sizes of `config` compute with the other ranks."""
        assert isinstance(model, Model)  # the family's own, which was built whole
        assert isinstance(model.language_model, LanguageModel)
        assert isinstance(model.vision_tower, VisionTower)
        rows = [own.count for own in self.vocabulary]
        merge = self.whole.vision_config.spatial_merge_size
        model.language_model = ShardedLanguageModel(model.language_model, self.config, rows, group)
        model.vision_tower = ShardedVisionTower(model.vision_tower, group, merge)
        model.group = group


def _mlp(path: str, width: Own) -> dict[str, tuple[str, Own, int]]:
    return {
        f"{path}.gate_up_proj": (ROWS, width, 2),
        f"{path}.gate_proj": (ROWS, width, 1),
        f"{path}.up_proj": (ROWS, width, 1),
        f"{path}.down_proj": (COLUMNS, width, 1),
    }


def _part(shape: tuple[int, ...], divided: str, own: Own, parts: int) -> Part | None:
    """None for a tensor that is not as long as it should be; the strict match names it."""
    axis = max(len(shape) - 2, 0) if divided == ROWS else len(shape) - 1
    size = shape[axis] // parts  # of packed numbers, and of groups, there are fewer
    ends = own.first * size, own.end * size
    if shape[axis] % parts or any(end % own.size for end in ends):
        return None
    first, end = (end // own.size for end in ends)
    return Part(axis, tuple((first + number * size, end + number * size) for number in range(parts)))
