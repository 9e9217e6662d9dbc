"""Sizes of a stub model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_mm.models.config import FamilyConfig

END, IMAGE, THINK, END_THINK, VOCABULARY = 256, 257, 258, 259, 288  # beside the 256 bytes
IMAGE_TOKENS, PATCH_DIMS = 4, 192  # an image is 16 × 16 pixels, a token 8 × 8 of them


@dataclass(frozen=True)
class ModelConfig(FamilyConfig):
    """The keys of config.json that are read."""

    hidden_size: int
    num_heads: int
    num_layers: int
    max_length: int

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})
