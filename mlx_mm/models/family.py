"""What a family is: its configuration, its classes and its processor, tied together where mypy sees that they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mlx_mm.errors import UnsupportedModelError, shown
from mlx_mm.models.config import FamilyConfig
from mlx_mm.models.contracts import Model, Processor, Share

Config = TypeVar("Config", bound=FamilyConfig)


@dataclass(frozen=True)
class Family(Generic[Config]):
    """The `FAMILY` of models/<name>/family.py.

    config: what `from_dict` reads of config.json. architectures: `architectures[0]` of config.json -> class, "" for
    files that name none. processor: reads the processor files of a folder. share: of config, rank, number of ranks and
    the most numbers that are quantised together, what a rank has of a model; None where it cannot be divided. stages:
    of config, bytes of each parameter and memory of each rank, what the ranks have of one that is divided by layers.
    """

    name: str
    config: type[Config]
    architectures: Mapping[str, Callable[[Config], Model]]
    processor: Callable[[Path, Config], Processor]
    share: Callable[[Config, int, int, int], Share] | None = None
    stages: Callable[[Config, Mapping[str, int], Sequence[int]], Sequence[Share]] | None = None

    def architecture(self, names: object) -> Callable[[Config], Model]:
        """The class for `architectures` of config.json, a list of which the first counts, or nothing.

        UnsupportedModelError lists the known ones.
        """
        wanted = "" if names is None or names == [] else names[0] if isinstance(names, list) else names
        if not isinstance(wanted, str) or wanted not in self.architectures:
            raise UnsupportedModelError(
                f"config.json names the architecture {shown(wanted)}; {self.name} runs "
                f"{', '.join(sorted(name for name in self.architectures if name))}."
            )
        return self.architectures[wanted]
