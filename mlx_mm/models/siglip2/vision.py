"""SigLIP's vision tower, with two kinds of embeddings.

FixRes sees one size of picture; NaFlex sees any grid of patches and resizes its position table to it.
Everything after the embeddings is the same: encoder, norm, attention pooling.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.border import read_rows
from mlx_mm.backend.linear import linear
from mlx_mm.backend.native.views import run
from mlx_mm.backend.norms import norm
from mlx_mm.backend.shaping import spread
from mlx_mm.errors import InputError
from mlx_mm.layers.attention import Attention, Mask, key_mask
from mlx_mm.layers.embeddings import embed_patches, patch_grid
from mlx_mm.layers.interpolate import ResizedTables, bicubic_matrix, bilinear_matrix
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.transformer import MLP, Encoder
from mlx_mm.models.siglip2.config import NaflexVisionConfig, VisionConfig


class PatchEmbeddings(nn.Module):
    """The patch projection, held as a matrix over (row, column, channel), and the position table."""

    def __init__(self, config: VisionConfig | NaflexVisionConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.patch_numbers = config.patch_size**2 * config.num_channels
        self.patch_embedding = nn.Linear(self.patch_numbers, config.hidden_size)
        self.position_embedding = nn.Embedding(config.num_patches, config.hidden_size)
        self._resized = ResizedTables()

    def project(self, patches: mx.array) -> mx.array:
        """(B, N, size·size·C) -> (B, N, D) in the tower's dtype."""
        return linear(self.patch_embedding, patches.astype(self.position_embedding.weight.dtype))


class FixResEmbeddings(PatchEmbeddings):
    """Pictures of the size the position table was made for, or any size with interpolation."""

    def __init__(self, config: VisionConfig):
        super().__init__(config)
        self.image_size = config.image_size

    def __call__(
        self,
        pixel_values: mx.array,
        pixel_attention_mask: mx.array | None,
        spatial_shapes: mx.array | None,
        interpolate_pos_encoding: bool,
    ) -> mx.array:
        """(B, H, W, 3) -> (B, patches, D). Raises InputError for NaFlex inputs and sizes that do not fit."""
        if pixel_attention_mask is not None or spatial_shapes is not None:
            raise InputError(
                "pixel_attention_mask and spatial_shapes belong to NaFlex models (model_type siglip2); "
                "this one (siglip) takes pixel_values of shape (B, H, W, 3) alone. Leave them out."
            )
        _, height, width, _ = pixel_values.shape
        positions = self.position_embedding.weight
        grid = patch_grid((height, width), self.image_size, self.patch_size, interpolate_pos_encoding)
        if grid is not None:
            positions = self._resized.resize(positions, grid, bicubic_matrix, keep=not self.training)
        pixels = pixel_values.astype(self.position_embedding.weight.dtype)
        return embed_patches(self.patch_embedding, pixels, self.patch_size, positions)


class NaflexEmbeddings(PatchEmbeddings):
    """Flat patches of pictures of any grid."""

    def __call__(
        self,
        pixel_values: mx.array,
        pixel_attention_mask: mx.array | None,
        spatial_shapes: mx.array | None,
        interpolate_pos_encoding: bool,
    ) -> mx.array:
        """pixel_values (B, P, size·size·3) and spatial_shapes (B, 2) = rows, cols -> (B, P, D).

        Raises InputError without shapes, where a grid has more patches than P, for patches of another size, and
        for interpolate_pos_encoding, which happens always here.
        """
        if spatial_shapes is None or interpolate_pos_encoding:
            raise InputError(
                "A NaFlex model (model_type siglip2) needs spatial_shapes, (B, 2) rows and columns of patches, "
                "and always fits its position table to them: interpolate_pos_encoding has no meaning "
                "here. Pass the one, and leave the other out."
            )
        budget, width = pixel_values.shape[1:]
        if width != self.patch_numbers:
            raise InputError(
                f"pixel_values hold {width} numbers per patch; this model has patches of {self.patch_size}×"
                f"{self.patch_size} pixels, {self.patch_numbers} numbers. Process with patch_size={self.patch_size}."
            )
        grids = read_grids(spatial_shapes, budget)
        tables = {grid: self._positions(grid, budget) for grid in set(grids)}
        return self.project(pixel_values) + mx.stack([tables[grid] for grid in grids])

    def _positions(self, grid: tuple[int, int], budget: int) -> mx.array:
        """The table resized to `grid` -> (budget, D); padded slots repeat position (0, 0), as the reference."""
        weight = self.position_embedding.weight
        table = self._resized.resize(weight, grid, bilinear_matrix, keep=not self.training)
        return mx.concatenate([table, mx.broadcast_to(table[:1], (budget - len(table), table.shape[1]))])


def read_grids(spatial_shapes: mx.array, budget: int) -> list[tuple[int, int]]:
    """Rows and columns of each image, which are shapes of what follows; InputError for more than `budget` patches."""
    grids = [(int(rows), int(cols)) for rows, cols in read_rows(spatial_shapes)]
    for rows, cols in grids:
        if min(rows, cols) < 1 or rows * cols > budget:
            raise InputError(
                f"spatial_shapes has a grid of {rows}×{cols} patches; expected 1 to {budget} patches, "
                "the length of pixel_values."
            )
    return grids


class AttentionPoolingHead(nn.Module):
    """One learned query (`probe`) attends to all tokens; the MLP's residual starts at its result."""

    def __init__(self, config: VisionConfig | NaflexVisionConfig):
        super().__init__()
        dims = config.hidden_size
        self.probe = mx.zeros((1, 1, dims))
        self.attention = Attention(dims, config.num_attention_heads)
        self.layernorm = nn.LayerNorm(dims, eps=config.layer_norm_eps)
        self.mlp = MLP(dims, config.intermediate_size, config.hidden_act)

    def __call__(self, x: mx.array, mask: Mask = None) -> mx.array:
        """(B, N, D) -> (B, D)."""
        return run(self._pool, x, mask)

    def _pool(self, x: mx.array, mask: Mask) -> mx.array:
        x = self.attention(spread(self.probe, x), mask, context=x)
        return self.mlp(norm(self.layernorm, x), residual=x)[:, 0]


class VisionTower(nn.Module):
    """`SiglipVisionModel` or `Siglip2VisionModel`, by its config."""

    def __init__(self, config: VisionConfig | NaflexVisionConfig):
        super().__init__()
        self.embeddings = (
            NaflexEmbeddings(config) if isinstance(config, NaflexVisionConfig) else FixResEmbeddings(config)
        )
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = AttentionPoolingHead(config) if config.vision_use_head else None

    def __call__(
        self,
        pixel_values: mx.array,
        pixel_attention_mask: mx.array | None = None,
        spatial_shapes: mx.array | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """FixRes: pixel_values (B, H, W, 3), of the trained size unless interpolate_pos_encoding.

        NaFlex: pixel_values (B, P, size·size·3), pixel_attention_mask (B, P) with 1 = real, spatial_shapes (B, 2)
        rows and columns of patches. Raises InputError for inputs of the other kind.
        """
        x = self.embeddings(pixel_values, pixel_attention_mask, spatial_shapes, interpolate_pos_encoding)
        mask = key_mask(pixel_attention_mask)
        encoded = self.encoder(x, mask, output_hidden_states=output_hidden_states, output_attentions=output_attentions)
        last_hidden_state = norm(self.post_layernorm, encoded.last_hidden_state)
        return TowerOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=None if self.head is None else self.head(last_hidden_state, mask),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
