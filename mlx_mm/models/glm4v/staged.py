"""The model as one of several ranks has it that is divided by layers: each hands on what its own make of a prompt."""

from collections.abc import Sequence
from typing import cast

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import QuantizedKVCache

from mlx_mm.backend.linear import token_linear
from mlx_mm.backend.native.views import run
from mlx_mm.backend.norms import norm
from mlx_mm.backend.ranks import Group, give, take
from mlx_mm.errors import InputError
from mlx_mm.generation.request import LayerCache
from mlx_mm.layers.attention import Mask, Rotation
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.models.glm4v.config import ModelConfig, VisionConfig
from mlx_mm.models.glm4v.language import Decoder, LanguageModel, Layer, pass_through, rotation, rotation_from
from mlx_mm.models.glm4v.positions import Nested


class StagedDecoder(nn.Module):
    """Some layers of the decoder. The others have their places, without numbers, so that names stay what they are.

    The first rank has the table of tokens too. All have the last norm, by whose dtype they know that of the others.
    """

    def __init__(self, whole: Decoder, first: int, end: int, group: Group):
        super().__init__()
        if group.rank() == 0:
            self.embed_tokens = whole.embed_tokens
        self.layers = [layer if first <= index < end else nn.Module() for index, layer in enumerate(whole.layers)]
        self.norm = whole.norm
        self._own, self._group = slice(first, end), group

    @property
    def own_layers(self) -> Sequence[Layer]:
        """Those of this rank."""
        return cast(Sequence[Layer], self.layers[self._own])

    def __call__(
        self,
        embeds: mx.array,
        rope: Rotation,
        mask: Mask = "causal",
        cache: Sequence[LayerCache] | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """(B, L, D), numbers on the first rank -> last_hidden_state (B, L, D) on the last."""
        if output_hidden_states or output_attentions:
            raise InputError("A rank has the hidden states and attentions of its own layers; load a whole model.")
        caches: Sequence[LayerCache | None] = cache or [None] * len(self.own_layers)
        rank, last = self._group.rank(), self._group.size() - 1
        x = take(embeds, rank - 1, self._group) if rank else embeds
        quantised = any(isinstance(one, QuantizedKVCache) for one in caches)
        x = self._state(x, rope, mask, caches) if quantised else run(self._state, x, rope, mask, caches)
        if rank < last:
            give(x.astype(embeds.dtype), rank + 1, self._group)
        return TowerOutput(last_hidden_state=x, pooler_output=None)

    def _state(self, x: mx.array, rope: Rotation, mask: Mask, caches: Sequence[LayerCache | None]) -> mx.array:
        x = pass_through(self.own_layers, x, rope, mask, caches)
        return norm(self.norm, x) if self._group.rank() == self._group.size() - 1 else x


class StagedLanguageModel(nn.Module):
    """The decoder, and on the first rank the head; see `LanguageModel`."""

    def __init__(self, whole: LanguageModel, config: ModelConfig, first: int, end: int, group: Group):
        """From which layer to which this rank has."""
        super().__init__()
        self.model = StagedDecoder(whole.model, first, end, group)
        if group.rank() == 0 and "lm_head" in whole:
            self.lm_head = whole.lm_head
        self._config, self._group = config, group

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Those of this rank."""
        return self.model.own_layers

    def embed(self, input_ids: mx.array) -> mx.array:
        """(B, L) -> (B, L, D); zeros on all ranks but the first."""
        if self._group.rank() == 0:
            return self.model.embed_tokens(input_ids).astype(self.model.norm.weight.dtype)
        mx.eval(input_ids)  # the first rank may have to be asked for them, and before what it makes of them
        return mx.zeros((*input_ids.shape, self._config.text_config.hidden_size), self.model.norm.weight.dtype)

    def rotation(self, position_ids: mx.array, dtype: mx.Dtype = mx.float32) -> Rotation:
        """Turns (B, H, L, d) of `dtype` by positions (3, B, L): time, row and column."""
        return rotation(self._config, position_ids, dtype)

    def rotation_from(self, offset: mx.array | int) -> Rotation:
        """Turns (B, H, L, d) by offset, offset + 1, …, the same on all axes; offset is a number or (B,)."""
        return rotation_from(self._config, offset)

    def logits(self, hidden: mx.array) -> mx.array:
        """(…, D), numbers on the last rank -> (…, vocabulary) on the first; the others return what they got."""
        rank, last = self._group.rank(), self._group.size() - 1
        if rank == last:
            give(hidden, 0, self._group)
        if rank:
            return hidden
        hidden = take(hidden, last, self._group)
        return token_linear(self.lm_head, hidden) if "lm_head" in self else self.model.embed_tokens.as_linear(hidden)


class AbsentVisionTower(nn.Module):
    """Zeros in the place of what the first rank, which has the tower, makes of pictures."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self._tokens, self._width = config.spatial_merge_size**2, config.out_hidden_size

    def __call__(
        self,
        pixel_values: mx.array,
        grid_thw: Nested | mx.array,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """Of the shape that `VisionTower` gives."""
        zeros = mx.zeros((len(pixel_values) // self._tokens, self._width))
        return TowerOutput(last_hidden_state=zeros, pooler_output=zeros)
