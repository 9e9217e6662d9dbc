"""Configuration of MetaCLIP 2, and of OpenAI's CLIP, which has the same keys.

A key that is absent has the default of transformers' MetaClip2Config classes, which is CLIP-B/32's.
"""

from dataclasses import dataclass, replace

from mlx_mm.errors import ConfigError
from mlx_mm.models.config import (
    BaseConfig,
    FamilyConfig,
    Layers,
    TokenId,
    TowerConfig,
    architecture,
    label_names,
    problem_type,
    tower_sections,
    widen_mlps,
)

# What CLIP's old files say; their texts end with <|endoftext|>, the highest id of the vocabulary
LEGACY_EOS = 2


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """Text tower. eos_token_id None: a text ends at its highest id."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: Layers = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: TokenId | None = 49407


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """Vision tower."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    @property
    def num_patches(self) -> int:
        """Rows of the position table, without the class token's."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class ProjectionConfig(BaseConfig):
    """The size of the vectors that texts and pictures share."""

    projection_dim: int = 512


@dataclass(frozen=True)
class ModelConfig(FamilyConfig):
    """Both towers, or one: the config of an absent tower is None.

    model_type: "metaclip_2" or "clip". projection_dim: None for a tower saved without its projection.
    labels, problem_type: of a classification head, as transformers has them.
    """

    model_type: str
    text_config: TextConfig | None
    vision_config: VisionConfig | None
    projection_dim: int | None
    labels: tuple[str, ...]
    problem_type: str | None

    @property
    def licence(self) -> str | None:
        """MetaCLIP 2's checkpoints are all for non-commercial use; CLIP's differ."""
        return "cc-by-nc-4.0" if self.model_type == "metaclip_2" else None

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "ModelConfig":
        """Read config.json, of a joint model, a classifier or a single tower; raises ConfigError.

        transformers lets `text_config_dict` and `vision_config_dict`, where a file has them, stand in for the
        sections without _dict, all defaults included (5.23, MetaClip2Config.__post_init__).
        """
        old = {
            key: values[f"{key}_dict"]
            for key in ("text_config", "vision_config")
            if isinstance(values.get(f"{key}_dict"), dict)
        }
        text, vision = tower_sections({**values, **old})
        model_type = str(values["model_type"]).removesuffix("_text_model").removesuffix("_vision_model")
        joint = text is not None and vision is not None
        projected = joint or "WithProjection" in architecture(values)
        return cls(
            model_type=model_type,
            text_config=None if text is None else _read_text(text, model_type),
            vision_config=None if vision is None else VisionConfig.from_dict(vision),
            projection_dim=ProjectionConfig.from_dict(values).projection_dim if projected else None,
            labels=label_names(values),
            problem_type=problem_type(values),
        )

    @classmethod
    def widened(cls, values: dict[str, object], multiple: int) -> tuple[dict[str, object], dict[str, list[int]]]:
        return widen_mlps(values, cls.from_dict(values), multiple)


def _read_text(values: dict[str, object], model_type: str) -> TextConfig:
    config = TextConfig.from_dict(values)
    if config.eos_token_id is None:
        raise ConfigError(
            "text_config has eos_token_id null; expected the id of the token that ends a text, whose vector is the "
            "text's. Use the config.json of the checkpoint's hub repository."
        )
    legacy = model_type == "clip" and config.eos_token_id == LEGACY_EOS
    return replace(config, eos_token_id=None) if legacy else config
