"""Configuration of CLAP.

A key that is absent has the default of transformers' ClapConfig classes, which is clap-htsat-unfused: the files of
the larger checkpoints hold only what differs from it.
"""

from dataclasses import dataclass

from mlx_mm.errors import ConfigError, shown
from mlx_mm.models.config import (
    BaseConfig,
    FamilyConfig,
    Layers,
    TokenId,
    TowerConfig,
    architecture,
    tower_sections,
    widen_mlps,
)

# Keys of the audio tower that are the same in every checkpoint; another value would ask for another computation.
FIXED = {"patch_embed_input_channels": 1, "flatten_patch_embeds": True, "enable_patch_layer_norm": True}
MAX_SPEC = 2048  # eight times that of every checkpoint
COMPLETE = "Use the complete config.json of the checkpoint."


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """Text tower. Positions count from pad_token_id + 1, so the table has that many rows without a use."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    vocab_size: int = 50265
    type_vocab_size: int = 1
    max_position_embeddings: int = 514
    pad_token_id: TokenId = 1

    def validate(self) -> None:
        super().validate()
        if self.max_length < 1:
            raise ConfigError(
                f"config.json has max_position_embeddings {self.max_position_embeddings} and pad_token_id "
                f"{self.pad_token_id}; expected more positions than pad_token_id + 1. {COMPLETE}"
            )

    @property
    def max_length(self) -> int:
        """Tokens that have a position."""
        return self.max_position_embeddings - self.pad_token_id - 1


@dataclass(frozen=True)
class AudioConfig(BaseConfig):
    """Audio tower. depths, num_attention_heads: of each stage, after which the grid halves and the width doubles."""

    num_mel_bins: int = 64
    spec_size: int = 256
    patch_size: int = 4
    patch_stride: int = 4
    window_size: int = 8
    patch_embeds_hidden_size: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: tuple[int, ...] = (4, 8, 16, 32)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    enable_fusion: bool = False
    aff_block_r: int = 4

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "AudioConfig":
        """As BaseConfig; also refuses what no checkpoint has and what would be computed in another way."""
        for key, expected in FIXED.items():
            if values.get(key, expected) != expected:
                raise ConfigError(
                    f"config.json has {key} = {shown(values[key])}; expected {shown(expected)}. {COMPLETE}"
                )
        if values.get("fusion_type") == "channel_map":
            raise ConfigError(
                "config.json has fusion_type 'channel_map', for which transformers builds layers that it cannot run; "
                f"expected null, with enable_fusion for the fusing of long clips. {COMPLETE}"
            )
        sides: dict[str, object] = {key: _side(values[key]) for key in ("patch_size", "patch_stride") if key in values}
        return super().from_dict({**values, **sides})

    @property
    def folds(self) -> int:
        """Parts into which the time axis is cut; they lie below each other in the square picture."""
        return self.spec_size // self.num_mel_bins

    @property
    def grids(self) -> tuple[int, ...]:
        """Tokens along each side, by stage."""
        return tuple(self.spec_size // self.patch_size // 2**i for i in range(len(self.depths)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers in a token, by stage."""
        return tuple(self.patch_embeds_hidden_size * 2**i for i in range(len(self.depths)))

    @property
    def hidden_size(self) -> int:
        """Width of the last stage. The key of that name is not read: it has to say the same."""
        return self.widths[-1]

    def validate(self) -> None:
        """Every rule of `_demands` holds."""
        for holds, found, expected in self._demands():
            if not holds:
                raise ConfigError(f"config.json has {found}; expected {expected}. {COMPLETE}")

    def _demands(self) -> list[tuple[bool, str, str]]:
        """(it holds, what was found, what was expected); the later ones rest on those before."""
        depths, heads, window = self.depths, self.num_attention_heads, self.window_size
        if not depths or len(depths) != len(heads):
            found = f"depths {list(depths)} and num_attention_heads {list(heads)}"
            return [(False, found, "one number for each stage in both")]
        patch, spec, mels = self.patch_size, self.spec_size, self.num_mel_bins
        if patch != self.patch_stride or spec % mels or spec % (patch * 2 ** (len(depths) - 1)):
            found = f"spec_size {spec}, num_mel_bins {mels}, patch_size {patch}, patch_stride {self.patch_stride}"
            expected = "a stride like the patches, and a spec_size divisible by num_mel_bins and by the patches of "
            return [(False, found, f"{expected}all {len(depths)} stages")]
        grids, widths = self.grids, self.widths
        return [
            (spec <= MAX_SPEC, f"spec_size {spec}", f"{MAX_SPEC} at most, as no tensor says how large pictures are"),
            (
                all(side % window == 0 for side in grids),
                f"window_size {window} and grids of {list(grids)} tokens a side",
                "a window that divides them all",
            ),
            (
                grids[-1] % self.folds == 0,
                f"a last grid of {grids[-1]} rows for {self.folds} parts of the time",
                "as many rows for each part",
            ),
            (
                all(width % count == 0 for width, count in zip(widths, heads, strict=True)),
                f"stages of width {list(widths)} and num_attention_heads {list(heads)}",
                "heads that divide the widths",
            ),
            (self.mlp_ratio * widths[0] >= 1, f"mlp_ratio {self.mlp_ratio}", "MLPs of at least one unit"),
            (
                not self.enable_fusion or widths[0] >= self.aff_block_r,
                f"aff_block_r {self.aff_block_r}",
                f"no more than patch_embeds_hidden_size {widths[0]}",
            ),
        ]


@dataclass(frozen=True)
class ProjectionConfig(BaseConfig):
    """From a tower's vector to one that texts and sounds share."""

    projection_dim: int = 512
    projection_hidden_act: str = "relu"


@dataclass(frozen=True)
class ModelConfig(FamilyConfig):
    """Both towers, or one: the config of an absent tower is None.

    projection: None for a tower saved without it. Of a joint model its keys stand at the top of the file, and those
    in the sections do not count.
    """

    text_config: TextConfig | None
    audio_config: AudioConfig | None
    projection: ProjectionConfig | None

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "ModelConfig":
        """Read config.json, of a joint model or a single tower; raises ConfigError."""
        text, audio = tower_sections(values, "audio")
        projected = (text is not None and audio is not None) or architecture(values).endswith("WithProjection")
        return cls(
            text_config=None if text is None else TextConfig.from_dict(text),
            audio_config=None if audio is None else AudioConfig.from_dict(audio),
            projection=ProjectionConfig.from_dict(values) if projected else None,
        )

    @classmethod
    def widened(cls, values: dict[str, object], multiple: int) -> tuple[dict[str, object], dict[str, list[int]]]:
        return widen_mlps(values, cls.from_dict(values), multiple)


def _side(value: object) -> object:
    """The side of a square, which files give as one number or as two alike; anything else comes back."""
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value
