"""Which layers of the text model a rank has where it is divided by layers, for machines of unlike size.

The first rank has the table of tokens, the vision tower and the head besides: pictures and tokens go in and come out
there, and between ranks there are hidden states alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from mlx_mm.backend.ranks import Group
from mlx_mm.checkpoint.parts import NOTHING, Part
from mlx_mm.errors import InputError
from mlx_mm.models.contracts import Layers
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.language import LanguageModel
from mlx_mm.models.glm4v.model import Model
from mlx_mm.models.glm4v.staged import AbsentVisionTower, StagedLanguageModel

LAYER = re.compile(r"(?:model\.)?language_model\.(?:model\.)?layers\.(\d+)\.")
LAST_NORM = re.compile(r"(?:model\.)?language_model\.(?:model\.)?norm\.")


@dataclass(frozen=True)
class Stage:
    """What one of several ranks has: layers from `first` to `end`, and rank 0 all that is no layer."""

    config: ModelConfig
    rank: int
    first: int
    end: int

    def part(self, name: str, _shape: tuple[int, ...]) -> Part | None:
        """All or nothing of a tensor in the files, of our names or Hugging Face's."""
        if found := LAYER.match(name):
            return None if self.first <= int(found[1]) < self.end else NOTHING
        return None if self.rank == 0 or LAST_NORM.match(name) else NOTHING

    @property
    def described(self) -> dict[str, str]:
        """What is divided -> how much of it this rank has."""
        count = self.config.text_config.num_hidden_layers
        layers = {"layers": f"{self.end - self.first} of {count}"}
        return layers | ({} if self.rank else {"table, head and vision tower": "whole"})

    @property
    def token_numbers(self) -> int:
        """Keys and values of a token."""
        text = self.config.text_config
        return 2 * (self.end - self.first) * text.num_key_value_heads * text.head_dim

    def divide(self, model: Layers, group: Group) -> None:
        """Let a model without numbers be that of this rank."""
        assert isinstance(model, Model)  # the family's own, which was built whole
        assert isinstance(model.language_model, LanguageModel)
        if not model.has_head:
            raise InputError("A model without a head is divided by layers; expected one that answers. Load it whole.")
        model.language_model = StagedLanguageModel(model.language_model, self.config, self.first, self.end, group)
        if self.rank:
            model.vision_tower = AbsentVisionTower(self.config.vision_config)
        model.group = group


def stages(config: ModelConfig, sizes: Mapping[str, int], memory: Sequence[int]) -> list[Stage]:
    """What each rank has, so that the fullest has as much room left as can be.

    sizes: bytes of each parameter. memory: of each rank, in any unit. Raises InputError where there are more ranks than
    layers.
    """
    count = config.text_config.num_hidden_layers
    if len(memory) > count:
        raise InputError(f"There are {len(memory)} ranks and {count} layers; expected a layer for each. Start fewer.")
    layers, rest = [0] * count, 0
    for name, size in sizes.items():
        if found := LAYER.match(name):
            layers[int(found[1])] += size
        else:
            rest += size
    ends = _deal([rest, *accumulate(layers, initial=rest)][1:], memory)
    return [Stage(config, rank, first, end) for rank, (first, end) in enumerate(zip([0, *ends], ends, strict=False))]


def _deal(sums: Sequence[int], memory: Sequence[int]) -> tuple[int, ...]:
    """Where the layers of each rank end. sums: bytes of rank 0 with so many layers, from none to all."""
    # Of each number of layers that the ranks so far have: how full the fullest is, how evenly, and the ends
    best: dict[int, tuple[float, float, tuple[int, ...]]]
    best = {end: (sums[end] / memory[0], (sums[end] / memory[0]) ** 2, (end,)) for end in range(1, len(sums))}
    for size in memory[1:]:
        further: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        for start, (fullest, squares, ends) in best.items():
            for end in range(start + 1, len(sums)):
                full = (sums[end] - sums[start]) / size
                found = max(fullest, full), squares + full**2, (*ends, end)
                further[end] = min(found, further.get(end, found))
        best = further
    return best[len(sums) - 1][2]
