"""Configuration of GLM-4.6V, 4.5V and 4.1V (model types glm46v, glm4v, glm4v_moe).

The three top-level types differ in nothing that is computed: whether the text model has experts is read from its own
section, and how videos are labelled from the processor files.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlx_mm.errors import ConfigError, shown
from mlx_mm.models.config import (
    BaseConfig,
    FamilyConfig,
    FromZero,
    Layers,
    Limit,
    Tensors,
    TokenId,
    architecture,
    is_count,
    is_token_id,
    round_up,
    widen_mlps,
)

COMPLETE = "Use the complete config.json of the checkpoint."
# transformers 5 nests the rotary keys, 4 has them beside the others; the first that is present counts.
ROPE_SECTIONS = ("rope_parameters", "rope_scaling")
# What grows with the widths that `widened` rounds up; the first ending that fits decides. In the dense model's
# gate_up_proj each half is followed by zeros.
PADDED_AXES: tuple[tuple[str, int | tuple[int, int]], ...] = (
    (".gate_up_proj.weight", (0, 2)),
    (".switch_mlp.gate_proj.weight", 1),
    (".switch_mlp.up_proj.weight", 1),
    (".switch_mlp.down_proj.weight", 2),
    (".gate_proj.weight", 0),
    (".up_proj.weight", 0),
    (".down_proj.weight", 1),
)
PARTIAL_ROTARY_FACTOR = 0.5  # of every published checkpoint; some files leave it out


@dataclass(frozen=True)
class RopeConfig(BaseConfig):
    """Rotary positions of the text model.

    mrope_section: how many pairs turn by a token's time, by its row and by its column.
    """

    rope_theta: float
    mrope_section: tuple[int, ...]
    partial_rotary_factor: float = PARTIAL_ROTARY_FACTOR
    rope_type: str = "default"

    def validate(self) -> None:
        if self.rope_type != "default" or len(self.mrope_section) != 3:
            raise ConfigError(
                f"text_config has rope_type {self.rope_type!r} and mrope_section {list(self.mrope_section)}; expected "
                f"'default' and three numbers. {COMPLETE}"
            )


@dataclass(frozen=True)
class MoeConfig(BaseConfig):
    """The text model with experts. The first `first_k_dense_replace` layers have an ordinary MLP.

    attention_bias: of queries, keys and values; in the dense model they have one whatever its config says.
    """

    moe_intermediate_size: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_shared_experts: int = 1
    n_group: int = 1
    topk_group: int = 1
    first_k_dense_replace: FromZero = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    attention_bias: bool = True

    def validate(self) -> None:
        groups, experts = self.n_group, self.n_routed_experts
        fits = experts % groups == 0 and self.topk_group <= groups
        if not fits or self.num_experts_per_tok > experts // groups * self.topk_group:
            raise ConfigError(
                f"text_config has {experts} experts in {groups} groups, topk_group {self.topk_group} and "
                f"num_experts_per_tok {self.num_experts_per_tok}; expected groups of equal size, and no more experts "
                f"for a token than the chosen groups have. {COMPLETE}"
            )


@dataclass(frozen=True)
class TextConfig(BaseConfig):
    """The text model; `moe` is None for a dense one."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: Layers
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    max_position_embeddings: Limit


@dataclass(frozen=True)
class VisionConfig(BaseConfig):
    """The vision tower. `out_hidden_size` is the width of its output and of the MLPs of its blocks,
    `intermediate_size` that of the last MLP, the merger's."""

    depth: Layers
    hidden_size: int
    num_heads: int
    out_hidden_size: int
    intermediate_size: int
    image_size: int
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    rope_theta: float = 10000.0

    @property
    def patch_dims(self) -> int:
        """Numbers in a flat patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def table_side(self) -> int:
        """Rows, and columns, of the position table."""
        return self.image_size // self.patch_size

    def validate(self) -> None:
        if self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 4 or self.attention_bias:
            raise ConfigError(
                f"vision_config has hidden_size {self.hidden_size}, num_heads {self.num_heads} and attention_bias "
                f"{self.attention_bias}; expected heads that divide the size, whose own size 4 divides, without "
                f"biases. {COMPLETE}"
            )


@dataclass(frozen=True)
class ModelConfig(FamilyConfig):
    """Both parts, and the ids of the tokens that stand for pictures.

    eos_token_ids: where generating ends, by config.json; generation_config.json says more.
    """

    text_config: TextConfig
    vision_config: VisionConfig
    rope: RopeConfig
    moe: MoeConfig | None
    image_token_id: TokenId
    video_token_id: TokenId
    eos_token_ids: tuple[int, ...]
    pad_token_id: TokenId | None
    tie_word_embeddings: bool

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "ModelConfig":
        """Read config.json, in the style of transformers 4 or 5; raises ConfigError."""
        keys = ("text_config", "vision_config", "image_token_id", "video_token_id")
        if missing := [key for key in keys if values.get(key) is None]:
            raise ConfigError(f"config.json lacks {', '.join(missing)}. {COMPLETE}")
        text, vision = _section("text_config", values), _section("vision_config", values)
        config = cls(
            text_config=_read_text(text),
            vision_config=_read_vision(vision),
            rope=_read_rope(text),
            moe=_read_moe(text),
            image_token_id=_token_id("image_token_id", values["image_token_id"]),
            video_token_id=_token_id("video_token_id", values["video_token_id"]),
            eos_token_ids=_as_ids(_beside("eos_token_id", text, values)),
            pad_token_id=None
            if (pad := _beside("pad_token_id", text, values)) is None
            else _token_id("pad_token_id", pad),
            tie_word_embeddings=_ties(values, text),
        )
        _check_fit(config)
        return config

    @classmethod
    def settled(cls, values: dict[str, object], tensors: Tensors) -> dict[str, object]:
        """A head of its own in the files counts, whatever config.json says, where it differs from the table of tokens.

        In our layout nothing is left out of the files, so there it counts in any case.
        """
        if not cls.from_dict(values).tie_word_embeddings or architecture(values).endswith("Model"):
            return values
        head = next((name for name in tensors.names if name.endswith("lm_head.weight")), None)
        table = next((name for name in tensors.names if name.endswith("language_model.embed_tokens.weight")), None)
        table = table or next((name for name in tensors.names if name.endswith("model.embed_tokens.weight")), None)
        if head is None or table is None:
            return values
        same = tensors.same(head, table)
        if same and not tensors.is_mlx:
            return values
        if not same:
            warnings.warn(
                f"config.json says tie_word_embeddings, and {head} in the weights differs from {table}; "
                "the weights' own head is used.",
                stacklevel=2,
            )
        text = _section("text_config", values)
        return values | {"tie_word_embeddings": False, "text_config": text | {"tie_word_embeddings": False}}

    @classmethod
    def complete(cls, values: Mapping[str, object]) -> dict[str, object]:
        """config.json with what mlx-vlm reads, or demands, of its text section and transformers 5 writes elsewhere or
        not at all: rotary keys beside the others, and each key of a model with experts."""
        config, text = cls.from_dict(values), _section("text_config", values)
        sections = {"rope_type": config.rope.rope_type, "mrope_section": list(config.rope.mrope_section)}
        rope = {
            "rope_theta": config.rope.rope_theta,
            "partial_rotary_factor": config.rope.partial_rotary_factor,
            "rope_scaling": {**(text.get("rope_scaling") or {}), **sections},
        }
        missing: dict[str, object] = {}
        if config.moe is not None:
            missing = asdict(config.moe) | {
                "head_dim": config.text_config.head_dim,
                "use_qk_norm": False,
            }
        given = {key: value for key, value in text.items() if key not in missing or value is not None}
        return {**values, "text_config": missing | given | rope}

    @classmethod
    def widened(cls, values: dict[str, object], multiple: int) -> tuple[dict[str, object], dict[str, list[int]]]:
        """The text model's MLPs, its experts and the merger; the vision blocks' are as wide as the output."""
        config = cls.from_dict(values)
        values, record = widen_mlps(values, config, multiple)
        if config.moe is not None:
            width = config.moe.moe_intermediate_size
            values, changed = round_up(values, "text_config", "moe_intermediate_size", width, multiple)
            record |= changed
        return values, record


def _read_text(text: dict[str, Any]) -> TextConfig:
    if text.get("use_qk_norm") or text.get("hidden_act", "silu") != "silu":
        raise ConfigError(
            f"text_config has use_qk_norm {text.get('use_qk_norm', False)} and hidden_act "
            f"{text.get('hidden_act', 'silu')!r}; expected False and 'silu', as in every GLM with vision."
        )
    given = {key: value for key, value in text.items() if value is not None}
    if "head_dim" not in given and {"hidden_size", "num_attention_heads"} <= given.keys():
        given["head_dim"] = _quotient(given["hidden_size"], given["num_attention_heads"])
    return TextConfig.from_dict(given)


def _quotient(size: object, parts: object) -> object:
    """One number through another, where both are sizes; otherwise 1, for the wrong one is what an error should name."""
    return int(size) // int(parts) if is_count(size) and is_count(parts) else 1


def _read_moe(text: dict[str, Any]) -> MoeConfig | None:
    """None without experts."""
    given = {key: value for key, value in text.items() if value is not None}
    return MoeConfig.from_dict(given) if given.get("n_routed_experts", 0) != 0 else None


def _ties(values: Mapping[str, object], text: Mapping[str, object]) -> bool:
    """Whether the head is the table of tokens. Files of transformers 4 may have the key in the text section, which
    5.23 reads of its two older types alone."""
    places = (values,) if values.get("model_type") == "glm46v" else (values, text)
    found = [place.get("tie_word_embeddings") for place in places]
    for value in found:
        if value is not None and not isinstance(value, bool):
            raise ConfigError(
                f"config.json has tie_word_embeddings = {shown(value)}; expected true or false. {COMPLETE}"
            )
    return any(found)


def _read_vision(vision: dict[str, Any]) -> VisionConfig:
    """The rotary base is nested in files of transformers 5 and left out before."""
    given = {key: value for key, value in vision.items() if value is not None and key != "rope_theta"}
    nested = given.get("rope_parameters") or {}
    if not isinstance(nested, dict):
        raise ConfigError(f"vision_config has rope_parameters {shown(nested)}; expected an object. {COMPLETE}")
    if (kind := nested.get("rope_type", "axial")) not in ("axial", "default"):
        raise ConfigError(f"vision_config has rope_type {kind!r}; expected 'axial', which turns by rows and columns.")
    return VisionConfig.from_dict(given | {key: nested[key] for key in ("rope_theta",) if key in nested})


def _read_rope(text: dict[str, Any]) -> RopeConfig:
    """The keys of the nested section, with those that stand beside it for what it leaves out."""
    nested: dict[str, Any] = next((text[key] for key in ROPE_SECTIONS if isinstance(text.get(key), dict)), {})
    nested = {"rope_type": nested.get("type"), **nested}
    known = [field.name for field in fields(RopeConfig)]
    return RopeConfig.from_dict(
        {key: place[key] for place in (text, nested) for key in known if place.get(key) is not None}
    )


def _section(key: str, values: Mapping[str, object]) -> dict[str, Any]:
    section = values[key]
    if not isinstance(section, dict):
        raise ConfigError(f"config.json has a {type(section).__name__} as {key}; expected an object. {COMPLETE}")
    return section


def _token_id(key: str, value: object) -> int:
    if not is_token_id(value):
        raise ConfigError(f"config.json has {key} = {shown(value)}; expected the id of a token. {COMPLETE}")
    return value


def _beside(key: str, text: Mapping[str, object], values: Mapping[str, object]) -> object:
    """The text section's value, or that of the top, where older files have it and newer ones may have null inside."""
    return values.get(key) if text.get(key) is None else text[key]


def _as_ids(value: object) -> tuple[int, ...]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    return tuple(_token_id("eos_token_id", token) for token in ids)


def _check_fit(config: ModelConfig) -> None:
    text, rope = config.text_config, config.rope
    pairs = int(text.head_dim * rope.partial_rotary_factor) // 2
    if sum(rope.mrope_section) != pairs or text.num_attention_heads % text.num_key_value_heads:
        raise ConfigError(
            f"text_config has head_dim {text.head_dim}, partial_rotary_factor {rope.partial_rotary_factor}, "
            f"mrope_section {list(rope.mrope_section)}, {text.num_attention_heads} heads and "
            f"{text.num_key_value_heads} for keys; expected sections that add up to the {pairs} turned pairs, and a "
            f"number of heads that those for keys divide. {COMPLETE}"
        )
    if config.vision_config.out_hidden_size != text.hidden_size:
        raise ConfigError(
            f"config.json has out_hidden_size {config.vision_config.out_hidden_size} and hidden_size "
            f"{text.hidden_size}; expected the same, since pictures take the place of tokens. {COMPLETE}"
        )
