"""Configuration of Jina CLIP v2.

The text tower is that of jina-embeddings-v3, whose config.json the original code fetches; its values stand here as
defaults (read from that file as printed while jina-clip-v2 was loaded, xorbitsai/inference issue 3201, and from
transformers 5.23, JinaEmbeddingsV3Config). The checkpoint's own `hf_model_config_kwargs` win over them.
"""

import math
from dataclasses import dataclass

from mlx_mm.errors import ConfigError, shown
from mlx_mm.models.config import (
    BaseConfig,
    FamilyConfig,
    Layers,
    Limit,
    TokenId,
    TowerConfig,
    tower_sections,
    widen_mlps,
)

TEXT_MODEL = "jinaai/jina-embeddings-v3"
COMPLETE = "Use the complete config.json of the checkpoint."
# What the published checkpoint says and what is computed here; another value would ask for another computation.
FIXED: dict[str, dict[str, object]] = {
    "config.json": {"add_projections": False},
    "text_config": {"hf_model_name_or_path": TEXT_MODEL, "pooler_type": "mean_pooler", "proj_type": None},
    "vision_config": {
        "intp_freq": True,
        "ls_init_value": None,
        "naive_swiglu": True,
        "post_norm": False,
        "proj_type": None,
        "qkv_bias": True,
        "rope_embeddings": True,
        "subln": True,
    },
}


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """Text tower: XLM-RoBERTa with rotary positions."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: Layers = 24
    num_attention_heads: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    vocab_size: int = 250002
    type_vocab_size: int = 1
    max_position_embeddings: Limit = 8194
    pad_token_id: TokenId = 1
    rotary_emb_base: float = 20000.0

    def validate(self) -> None:
        super().validate()
        head_width = self.hidden_size // self.num_attention_heads
        if head_width % 2 or not self.rotary_emb_base > 0:
            raise ConfigError(
                f"config.json has heads of {head_width} numbers and rotary_emb_base {self.rotary_emb_base} for texts; "
                f"expected an even number, as they turn in pairs, and a base above 0. {COMPLETE}"
            )


@dataclass(frozen=True)
class LoraConfig(BaseConfig):
    """Low-rank matrices that training added to the text tower (Hu et al., arXiv 2106.09685)."""

    lora_rank: int
    lora_alpha: float

    @property
    def scale(self) -> float:
        """What their product is multiplied with (section 4.1)."""
        return self.lora_alpha / self.lora_rank


@dataclass(frozen=True)
class VisionConfig(BaseConfig):
    """Vision tower: EVA02 (Fang et al., arXiv 2303.11331) as in EVA-CLIP, whose keys these are.

    intermediate_size: columns of the MLP's last matrix; those from `mlp_width` on are zeros, which let a group of
    quantised weights divide it. None of the published files has it.
    """

    width: int
    layers: Layers
    head_width: int
    image_size: int
    patch_size: int
    mlp_ratio: float
    pt_hw_seq_len: Limit
    intermediate_size: int
    layer_norm_eps: float = 1e-6

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "VisionConfig":
        """As BaseConfig; the MLP's width follows from `mlp_ratio` where the file does not name another."""
        width, ratio = values.get("width"), values.get("mlp_ratio")
        if isinstance(width, int) and isinstance(ratio, int | float) and math.isfinite(ratio):
            values = {"intermediate_size": int(width * ratio), **values}
        else:  # the missing or wrong one is what the error should name
            values = {"intermediate_size": 1, **values}
        return super().from_dict(values)

    @property
    def mlp_width(self) -> int:
        """Units of the MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def validate(self) -> None:
        if self.width % self.head_width or self.head_width % 4:
            raise ConfigError(
                f"vision_config has width {self.width} and head_width {self.head_width}; expected heads that divide "
                f"the width, and whose own width 4 divides (pairs of numbers for rows and for columns). {COMPLETE}"
            )
        if (
            not math.isfinite(self.mlp_ratio)
            or not 1 <= self.mlp_width <= self.intermediate_size
            or self.patch_size > self.image_size
        ):
            raise ConfigError(
                f"vision_config has mlp_ratio {self.mlp_ratio} and intermediate_size {self.intermediate_size}, "
                f"image_size {self.image_size} and patch_size {self.patch_size}; expected an MLP of at least one unit "
                f"and no wider than intermediate_size, and pictures of at least one patch. {COMPLETE}"
            )


@dataclass(frozen=True)
class ModelConfig(FamilyConfig):
    """Both towers.

    lora: None for a checkpoint without low-rank matrices. adapters: how many the file has. adapter: which one to merge.
    task_instructions: task -> what stands before its texts. default_instruction_task: the task of texts that come
    without one; None for none.
    """

    text_config: TextConfig
    vision_config: VisionConfig
    lora: LoraConfig | None
    adapter: int
    adapters: int
    task_instructions: dict[str, str]
    default_instruction_task: str | None

    @property
    def licence(self) -> str:
        return "cc-by-nc-4.0"

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "ModelConfig":
        """Read config.json; raises ConfigError."""
        sections = tower_sections(values)
        for (section, fixed), part in zip(FIXED.items(), (values, *sections), strict=True):
            _check_fixed(section, part or {}, fixed)
        text, vision = _with_changes(sections[0] or {}), sections[1] or {}
        lora, adapter, adapters = _read_lora(text)
        instructions, default = _read_instructions(text)
        config = cls(
            text_config=TextConfig.from_dict(text),
            vision_config=VisionConfig.from_dict(vision),
            lora=lora,
            adapter=adapter,
            adapters=adapters,
            task_instructions=instructions,
            default_instruction_task=default,
        )
        if config.text_config.hidden_size != config.vision_config.width:
            raise ConfigError(
                f"config.json has texts of {config.text_config.hidden_size} numbers and pictures of "
                f"{config.vision_config.width}; expected the same, since nothing projects them. {COMPLETE}"
            )
        return config

    @classmethod
    def widened(cls, values: dict[str, object], multiple: int) -> tuple[dict[str, object], dict[str, list[int]]]:
        return widen_mlps(values, cls.from_dict(values), multiple)


def _check_fixed(section: str, values: dict[str, object], fixed: dict[str, object]) -> None:
    for key, expected in fixed.items():
        if values.get(key, expected) != expected:
            raise ConfigError(
                f"{section} has {key} = {shown(values[key])}; expected {shown(expected)}, as in the published "
                f"checkpoint. {COMPLETE}"
            )


def _with_changes(section: dict[str, object]) -> dict[str, object]:
    """The text section, and under it what it changes in the configuration of jina-embeddings-v3."""
    changes = section.get("hf_model_config_kwargs") or {}
    if not isinstance(changes, dict):
        raise ConfigError(f"text_config has hf_model_config_kwargs {shown(changes)}; expected an object. {COMPLETE}")
    return changes | section


def _read_lora(text: dict[str, object]) -> tuple[LoraConfig | None, int, int]:
    """The scale of the adapters, which one acts, on every text, whatever its task, and how many there are."""
    names = text.get("lora_adaptations")
    if not names:
        return None, 0, 0
    chosen = text.get("default_lora_task") or (names[0] if isinstance(names, list) else None)
    if not isinstance(names, list) or chosen not in names:
        raise ConfigError(
            f"text_config has lora_adaptations {shown(names)} and default_lora_task {shown(chosen)}; expected a list "
            f"that has this task. {COMPLETE}"
        )
    return LoraConfig.from_dict(text), names.index(chosen), len(names)


def _read_instructions(text: dict[str, object]) -> tuple[dict[str, str], str | None]:
    instructions = text.get("task_instructions") or {}
    default = text.get("default_instruction_task")
    if not isinstance(instructions, dict) or not all(isinstance(value, str) for value in instructions.values()):
        raise ConfigError(
            f"text_config has task_instructions {shown(instructions)}; expected a text for each. {COMPLETE}"
        )
    if default is not None and (not isinstance(default, str) or default not in instructions):
        raise ConfigError(
            f"text_config has default_instruction_task {shown(default)}; expected null or one of {list(instructions)}. "
            f"{COMPLETE}"
        )
    return instructions, default
