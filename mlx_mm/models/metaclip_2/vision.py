"""The vision tower: a class token before the patches, whose last state is the image's vector."""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.norms import norm
from mlx_mm.layers.embeddings import embed_patches, patch_grid
from mlx_mm.layers.interpolate import ResizedTables, bicubic_matrix
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.transformer import Encoder
from mlx_mm.models.metaclip_2.config import VisionConfig


class VisionEmbeddings(nn.Module):
    """The class token and the patches, with positions; row 0 of the table is the class token's."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        dims, size = config.hidden_size, config.patch_size
        self.image_size, self.patch_size = config.image_size, size
        self.class_embedding = mx.zeros((dims,))
        self.patch_embedding = nn.Linear(size * size * config.num_channels, dims, bias=False)
        self.position_embedding = nn.Embedding(config.num_patches + 1, dims)
        self._resized = ResizedTables()

    def __call__(self, pixel_values: mx.array, interpolate_pos_encoding: bool) -> mx.array:
        """(B, H, W, 3) -> (B, 1 + patches, D). Raises InputError for sizes that do not fit."""
        batch, height, width, _ = pixel_values.shape
        table = self.position_embedding.weight
        grid = patch_grid((height, width), self.image_size, self.patch_size, interpolate_pos_encoding)
        positions = table[1:]
        if grid is not None:
            positions = self._resized.resize(table, grid, bicubic_matrix, first=1, keep=not self.training)
        patches = embed_patches(self.patch_embedding, pixel_values.astype(table.dtype), self.patch_size, positions)
        first = mx.broadcast_to(self.class_embedding + table[0], (batch, 1, table.shape[1]))
        return mx.concatenate([first, patches], axis=1)


class VisionTower(nn.Module):
    """`MetaClip2VisionModel` and `CLIPVisionModel`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # the files' spelling
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(
        self,
        pixel_values: mx.array,
        interpolate_pos_encoding: bool = False,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """pixel_values (B, H, W, 3), of the trained size unless interpolate_pos_encoding.

        Only the class token is normalised, in `pooler_output`; `last_hidden_state` is the encoder's raw output.
        """
        encoded = self.encoder(
            norm(self.pre_layrnorm, self.embeddings(pixel_values, interpolate_pos_encoding)),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return TowerOutput(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=norm(self.post_layernorm, encoded.last_hidden_state[:, 0]),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
