"""Configuration of SigLIP 1 and 2.

The hub's files are sparse: a key that is absent has the default of transformers' SiglipConfig and
Siglip2Config classes, repeated here.
"""

import math
from dataclasses import dataclass
from typing import Any

from mlx_mm.errors import ConfigError
from mlx_mm.models.base import BaseConfig, require_divisible


@dataclass(frozen=True)
class TowerConfig(BaseConfig):
    """What the encoders of all towers have."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    def validate(self) -> None:
        require_divisible(self.hidden_size, self.num_attention_heads)


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """Text tower. projection_size None means hidden_size."""

    vocab_size: int = 32000
    max_position_embeddings: int = 64
    projection_size: int | None = None


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
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
class NaflexVisionConfig(TowerConfig):
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
class ModelConfig:
    """Both towers, or one: the config of an absent tower is None.

    model_type: "siglip" (FixRes) or "siglip2" (NaFlex). labels: names of the classification head's outputs.
    problem_type: transformers' "multi_label_classification" or None, for the scores of that head.
    """

    model_type: str
    text_config: TextConfig | None
    vision_config: VisionConfig | NaflexVisionConfig | None
    labels: tuple[str, ...]
    problem_type: str | None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Read config.json, of a joint model, a classifier or a single tower; raises ConfigError."""
        model_type, _, tower = values["model_type"].partition("_")
        vision_class = NaflexVisionConfig if model_type == "siglip2" else VisionConfig
        text, vision = values.get("text_config"), values.get("vision_config")
        if tower == "text_model":
            text = values
        elif tower == "vision_model":
            vision = values
        elif missing := [key for key in ("text_config", "vision_config") if not isinstance(values.get(key), dict)]:
            raise ConfigError(
                f"config.json lacks {' and '.join(missing)}; a {model_type} model needs both towers. "
                "Use the complete config.json of the checkpoint."
            )
        return cls(
            model_type=model_type,
            text_config=TextConfig.from_dict(text) if text is not None else None,
            vision_config=vision_class.from_dict(vision) if vision is not None else None,
            labels=_label_names(values),
            problem_type=values.get("problem_type"),
        )


def _label_names(values: dict[str, Any]) -> tuple[str, ...]:
    """`id2label` in the order of its ids; transformers' default is two labels, LABEL_0 and LABEL_1."""
    names = values.get("id2label")
    if names is None:
        count = values.get("num_labels", 2)
        if not isinstance(count, int) or count < 1:
            raise ConfigError(f"config.json has num_labels = {count!r}; expected a whole number above 0.")
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(names, dict) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise ConfigError("config.json has an id2label that does not name every label from 0 on, each once.")
    return tuple(str(names[key]) for key in sorted(names, key=int))
