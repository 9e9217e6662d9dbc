"""The vision tower: EVA02 (Fang et al., arXiv 2303.11331) in the form of EVA-CLIP.

Its layers differ from `layers.transformer`: keys have no bias, the heads' output is normalised before the last
projection, and the MLP is gated and normalised inside.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.elementwise import swiglu
from mlx_mm.backend.linear import linear
from mlx_mm.backend.native.views import run
from mlx_mm.backend.norms import norm
from mlx_mm.backend.shaping import pad_last
from mlx_mm.errors import InputError
from mlx_mm.layers.attention import Rotation, attend, attention_weights, merge_heads, split_heads
from mlx_mm.layers.embeddings import embed_patches
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.rope import grid_angles, rotate_neighbours
from mlx_mm.models.jina_clip.config import VisionConfig


class VisionEmbeddings(nn.Module):
    """The class token and the patches, with learned positions; row 0 of the table is the class token's."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.image_size, self.patch_size = config.image_size, config.patch_size
        self.class_embedding = mx.zeros((config.width,))
        self.patch_embedding = nn.Linear(config.patch_size**2 * 3, config.width)
        self.position_embedding = mx.zeros((config.num_patches + 1, config.width))

    def __call__(self, pixel_values: mx.array) -> mx.array:
        """(B, H, W, 3) -> (B, 1 + patches, D). Raises InputError for another size than the trained one."""
        batch, height, width, _ = pixel_values.shape
        if (height, width) != (self.image_size, self.image_size):
            raise InputError(
                f"pixel_values are {height}×{width} pixels; this model takes {self.image_size}×{self.image_size}. "
                "Resize the pictures, as processor.images does."
            )
        table = self.position_embedding
        pixels = pixel_values.astype(table.dtype)
        patches = embed_patches(self.patch_embedding, pixels, self.patch_size, table[1:])
        first = mx.broadcast_to(self.class_embedding + table[0], (batch, 1, table.shape[1]))
        return mx.concatenate([first, patches], axis=1)


class Attention(nn.Module):
    """Attention with a norm before its last projection."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        dims = config.width
        self.num_heads = dims // config.head_width
        self.q_proj = nn.Linear(dims, dims)
        self.k_proj = nn.Linear(dims, dims, bias=False)
        self.v_proj = nn.Linear(dims, dims)
        self.layer_norm = nn.LayerNorm(dims, eps=config.layer_norm_eps)
        self.out_proj = nn.Linear(dims, dims)

    def __call__(self, x: mx.array, rope: Rotation, residual: mx.array | None = None) -> mx.array:
        """(B, L, D) -> (B, L, D), plus the residual."""
        q, k = self._queries_and_keys(x, rope)
        heads = merge_heads(attend(q, k, split_heads(linear(self.v_proj, x), self.num_heads)))
        return linear(self.out_proj, norm(self.layer_norm, heads), residual=residual)

    def weights(self, x: mx.array, rope: Rotation) -> mx.array:
        """The softmax weights over x (B, L, D) -> (B, H, L, L)."""
        return attention_weights(*self._queries_and_keys(x, rope))

    def _queries_and_keys(self, x: mx.array, rope: Rotation) -> tuple[mx.array, mx.array]:
        q, k = (split_heads(linear(project, x), self.num_heads) for project in (self.q_proj, self.k_proj))
        return rope(q), rope(k)


class MLP(nn.Module):
    """down(norm(silu(gate(x)) · up(x))), (B, L, D) -> (B, L, D), plus the residual."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width)
        self.up_proj = nn.Linear(config.width, config.mlp_width)
        self.layer_norm = nn.LayerNorm(config.mlp_width, eps=config.layer_norm_eps)
        self.down_proj = nn.Linear(config.intermediate_size, config.width)
        self._padding = config.intermediate_size - config.mlp_width

    def __call__(self, x: mx.array, residual: mx.array | None = None) -> mx.array:
        x = norm(self.layer_norm, swiglu(linear(self.gate_proj, x), linear(self.up_proj, x)))
        # Units that were added for quantisation come after the norm, whose mean they would change.
        return linear(self.down_proj, pad_last(x, self._padding), residual=residual)


class EncoderLayer(nn.Module):
    """Attention and MLP, each with a norm before it and a residual."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array, rope: Rotation) -> mx.array:
        """(B, L, D) -> (B, L, D)."""
        x = self.self_attn(norm(self.layer_norm1, x), rope, residual=x)
        return self.mlp(norm(self.layer_norm2, x), residual=x)

    def attention_weights(self, x: mx.array, rope: Rotation) -> mx.array:
        """The softmax weights of this layer for its input x (B, L, D) -> (B, H, L, L)."""
        return self.self_attn.weights(self.layer_norm1(x), rope)


class VisionTower(nn.Module):
    """`EVAVisionTransformer`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.layers = [EncoderLayer(config) for _ in range(config.layers)]
        self.post_layernorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.side = config.image_size // config.patch_size
        self.head_width = config.head_width
        self.trained_side = config.pt_hw_seq_len

    def __call__(
        self, pixel_values: mx.array, *, output_hidden_states: bool = False, output_attentions: bool = False
    ) -> TowerOutput:
        """pixel_values (B, H, W, 3) of the trained size. Every token is normalised; the class token is the picture's
        vector."""
        rope = self.rotation()
        if not (output_hidden_states or output_attentions):
            last_hidden_state = run(self._last_state, self.embeddings(pixel_values), rope)
            return TowerOutput(last_hidden_state, pooler_output=last_hidden_state[:, 0])
        x = self.embeddings(pixel_values)
        hidden_states, attentions = [x], []
        for layer in self.layers:
            if output_attentions:
                attentions.append(layer.attention_weights(x, rope))
            x = layer(x, rope)
            if output_hidden_states:
                hidden_states.append(x)
        last_hidden_state = norm(self.post_layernorm, x)
        return TowerOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=last_hidden_state[:, 0],
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _last_state(self, x: mx.array, rope: Rotation) -> mx.array:
        for layer in self.layers:
            x = layer(x, rope)
        return norm(self.post_layernorm, x)

    def rotation(self) -> Rotation:
        """By row and column, at the distances of the grid that the tower was first trained on (`intp_freq`).

        The class token, which has no place, is turned by 0.
        """
        scale = self.trained_side / self.side
        angles = grid_angles(self.side, self.side, self.head_width, scale=scale)
        return rotate_neighbours(mx.pad(angles, [(1, 0), (0, 0)]))
