"""Configuration of SigLIP 1 and 2.

The hub's files are sparse: a key that is absent has the default of transformers' SiglipConfig and
Siglip2Config classes, repeated here.
"""

import math
from dataclasses import dataclass

from mlx_mm.errors import ConfigError
from mlx_mm.models.config import (
    FamilyConfig,
    Layers,
    TowerConfig,
    label_names,
    problem_type,
    tower_sections,
    widen_mlps,
)


@dataclass(frozen=True)
class EncoderConfig(TowerConfig):
    """What both towers have, with the same defaults."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class TextConfig(EncoderConfig):
    """Text tower. projection_size None means hidden_size."""

    vocab_size: int = 32000
    max_position_embeddings: int = 64
    projection_size: int | None = None


@dataclass(frozen=True)
class VisionConfig(EncoderConfig):
    """Vision tower for pictures of one size (`model_type` siglip)."""

    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    vision_use_head: bool = True

    @property
    def num_patches(self) -> int:
        """Rows of the position table; pixels beyond the last whole patch are dropped."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class NaflexVisionConfig(EncoderConfig):
    """Vision tower for pictures of any aspect ratio (`model_type` siglip2)."""

    num_channels: int = 3
    num_patches: int = 256
    patch_size: int = 16
    vision_use_head: bool = True

    def validate(self) -> None:
        super().validate()
        if math.isqrt(self.num_patches) ** 2 != self.num_patches:
            raise ConfigError(
                f"vision_config has num_patches {self.num_patches}; the position table is a square grid, "
                "so expected a square number such as 256."
            )


@dataclass(frozen=True)
class ModelConfig(FamilyConfig):
    """Both towers, or one: the config of an absent tower is None.

    labels: names of the classification head's outputs. problem_type: transformers' "multi_label_classification" or
    None, for the scores of that head.
    """

    text_config: TextConfig | None
    vision_config: VisionConfig | NaflexVisionConfig | None
    labels: tuple[str, ...]
    problem_type: str | None

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "ModelConfig":
        """Read config.json, of a joint model, a classifier or a single tower; raises ConfigError."""
        naflex = str(values["model_type"]).startswith("siglip2")
        vision_class = NaflexVisionConfig if naflex else VisionConfig
        text, vision = tower_sections(values)
        return cls(
            text_config=TextConfig.from_dict(text) if text is not None else None,
            vision_config=vision_class.from_dict(vision) if vision is not None else None,
            labels=label_names(values),
            problem_type=problem_type(values),
        )

    @property
    def without_vectors(self) -> tuple[str, ...]:
        return ("image",) if self.vision_config is not None and not self.vision_config.vision_use_head else ()

    @classmethod
    def widened(cls, values: dict[str, object], multiple: int) -> tuple[dict[str, object], dict[str, list[int]]]:
        return widen_mlps(values, cls.from_dict(values), multiple)
