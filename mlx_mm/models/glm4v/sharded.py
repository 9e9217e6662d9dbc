"""The model as one of several ranks has it: layers whose results are summed, a table and a head by tokens, pictures
that are divided among the ranks."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.linear import token_linear
from mlx_mm.backend.norms import norm
from mlx_mm.backend.ranks import Group, joined, summed
from mlx_mm.generation.request import LayerCache
from mlx_mm.layers.attention import Mask, Rotation
from mlx_mm.layers.outputs import TowerOutput, pooled
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.inputs import read_whole
from mlx_mm.models.glm4v.language import LanguageModel, Layer, rotation, rotation_from
from mlx_mm.models.glm4v.positions import Nested, Size, frame_sizes
from mlx_mm.models.glm4v.vision import VisionTower


class ShardedLayer(nn.Module):
    """A layer of which a rank has some heads, and a part of the MLP; each gives a summand of the result."""

    def __init__(self, own: Layer, group: Group):
        super().__init__()
        for name, child in own.children().items():
            self[name] = child
        self.sandwich, self._group = own.sandwich, group

    def __call__(
        self, x: mx.array, rope: Rotation, mask: Mask, cache: LayerCache | None, output_attentions: bool
    ) -> tuple[mx.array, mx.array | None]:
        """(B, L, D) -> (B, L, D), and the weights of the rank's heads where asked for."""
        out, weights = self.self_attn(norm(self.input_layernorm, x), rope, mask, cache, output_attentions)
        out = summed(out, self._group)
        x = norm(self.post_self_attn_layernorm, out, residual=x) if self.sandwich else x + out
        out = summed(self.mlp(norm(self.post_attention_layernorm, x)), self._group)
        return norm(self.post_mlp_layernorm, out, residual=x) if self.sandwich else x + out, weights


class ShardedLanguageModel(nn.Module):
    """The decoder, of whose table of tokens and head a rank has some rows; see `LanguageModel`."""

    def __init__(self, own: LanguageModel, config: ModelConfig, rows: Sequence[int], group: Group):
        """own, config: of the rank's sizes. rows: of the table, that each rank has."""
        super().__init__()
        for name, child in own.children().items():
            self[name] = child
        self.model.layers = [ShardedLayer(layer, group) for layer in self.model.layers]
        self._config, self._group, self._rows = config, group, tuple(rows)
        self._first = sum(rows[: group.rank()])

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Those of the decoder."""
        return cast(Sequence[nn.Module], self.model.layers)

    def embed(self, input_ids: mx.array) -> mx.array:
        """(B, L) -> (B, L, D); one rank has the row of a token, and the others give zeros."""
        rows = input_ids - self._first
        mine = (rows >= 0) & (rows < self._rows[self._group.rank()])
        return summed(mx.where(mine[..., None], self.model.embed(mx.where(mine, rows, 0)), 0), self._group)

    def rotation(self, position_ids: mx.array, dtype: mx.Dtype = mx.float32) -> Rotation:
        """Turns (B, H, L, d) of `dtype` by positions (3, B, L): time, row and column."""
        return rotation(self._config, position_ids, dtype)

    def rotation_from(self, offset: mx.array | int) -> Rotation:
        """Turns (B, H, L, d) by offset, offset + 1, …, the same on all axes; offset is a number or (B,)."""
        return rotation_from(self._config, offset)

    def logits(self, hidden: mx.array) -> mx.array:
        """(…, D) -> (…, vocabulary)."""
        own = token_linear(self.lm_head, hidden) if "lm_head" in self else self.model.embed_tokens.as_linear(hidden)
        return joined(own, self._rows, self._group)


class ShardedVisionTower(nn.Module):
    """The whole tower on each rank, which sees some of the images and frames; all of them where there are fewer than
    ranks."""

    def __init__(self, whole: VisionTower, group: Group, merge: int):
        super().__init__()
        for name, child in whole.children().items():
            self[name] = child
        self._whole: Callable[..., TowerOutput] = whole.__call__  # a module would be a second child
        self._group, self._merge = group, merge

    def __call__(
        self,
        pixel_values: mx.array,
        grid_thw: Nested | mx.array,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """As of `VisionTower`, the same on all ranks."""
        grids = read_whole(grid_thw) if isinstance(grid_thw, mx.array) else grid_thw
        sizes = frame_sizes(grids, self._merge)
        ends = [0, *accumulate(rows * cols for rows, cols in sizes)]
        inspected = output_hidden_states or output_attentions
        if inspected or len(sizes) < self._group.size() or ends[-1] != len(pixel_values):
            return self._whole(
                pixel_values, grids, output_hidden_states=output_hidden_states, output_attentions=output_attentions
            )
        first, last = _bounds(sizes, self._group.size())[self._group.rank()]
        own = self._whole(pixel_values[ends[first] : ends[last]], [(1, *size) for size in sizes[first:last]])
        tokens = self._merge**2
        around = [(ends[first] // tokens, (ends[-1] - ends[last]) // tokens), (0, 0)]
        state, vectors = (summed(mx.pad(x, around), self._group) for x in (own.last_hidden_state, pooled(own)))
        return TowerOutput(last_hidden_state=state, pooler_output=vectors)


def _bounds(sizes: Sequence[Size], ranks: int) -> list[tuple[int, int]]:
    """From which picture to which each rank sees, one at least, so that they have about as many patches."""
    ends = list(accumulate(rows * cols for rows, cols in sizes))
    bounds = [0]
    for rank in range(1, ranks):
        place = sum(end <= ends[-1] * rank // ranks for end in ends)
        bounds.append(min(max(place, bounds[-1] + 1), len(sizes) - ranks + rank))
    bounds.append(len(sizes))
    return list(pairwise(bounds))
