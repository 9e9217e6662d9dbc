"""The vision tower: AIMv2's ViT (Fini et al., arXiv 2411.14402), adapted by GLM to images of any size.

What is unusual here: patches of all images lie one after the other, (N, 1176), and within an image 2×2 blocks of
patches do, so that what joins four patches to one token is a product of matrices. A norm follows the patch embedding.
The position table is resized to each image, and rows and columns also turn the heads. The MLPs of the blocks are as
wide as the output; `intermediate_size` is the width of the last MLP, the merger's.

Images, and frames of a video, see nothing of each other, so the whole tower runs for one after the other (for several
where they are small and of one size) and needs the memory of the largest, however many there are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.elementwise import gelu_erf, swiglu
from mlx_mm.backend.linear import linear
from mlx_mm.backend.native.views import run
from mlx_mm.backend.norms import norm
from mlx_mm.errors import InputError
from mlx_mm.layers.activations import activation
from mlx_mm.layers.attention import Rotation, attend, attention_weights, merge_heads
from mlx_mm.layers.interpolate import ResizedTables, bicubic_matrix
from mlx_mm.layers.outputs import TowerOutput, pooled
from mlx_mm.layers.rope import grid_angles, in_float32, rotate_halves
from mlx_mm.models.glm4v.config import VisionConfig
from mlx_mm.models.glm4v.inputs import read_whole
from mlx_mm.models.glm4v.positions import Nested, Size, frame_sizes

# Patches that are computed together where images are small: a third of the largest image's 24,576.
PATCHES_PER_BATCH = 8192

Gate = Callable[[mx.array, mx.array], mx.array]


class PatchEmbedding(nn.Module):
    """Flat patches (…, 1176), in the order channel, time, row, column, to (…, D)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel, stride=kernel)

    def __call__(self, x: mx.array) -> mx.array:
        weight = self.proj.weight.transpose(0, 4, 1, 2, 3).flatten(1)
        return mx.addmm(self.proj.bias, x.astype(weight.dtype), weight.T)


class PositionTable(nn.Module):
    """Learned positions of a square grid. Not nn.Embedding, which could be quantised and then not resized."""

    def __init__(self, side: int, dims: int):
        super().__init__()
        self.weight = mx.zeros((side * side, dims))
        self._resized = ResizedTables()

    def __call__(self, size: Size) -> mx.array:
        """The table for an image of rows and columns, (rows·cols, D)."""
        return self._resized.resize(self.weight, size, bicubic_matrix, keep=not self.training)


class Embeddings(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.position_embedding = PositionTable(config.table_side, config.hidden_size)


class Attention(nn.Module):
    """Attention of every patch to all of its image, without biases."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array, rope: Rotation, residual: mx.array | None = None) -> mx.array:
        """(B, L, D) -> (B, L, D), plus the residual."""
        return linear(self.proj, merge_heads(attend(*self._heads(x, rope))), residual=residual)

    def weights(self, x: mx.array, rope: Rotation) -> mx.array:
        """The softmax weights over x (B, L, D) -> (B, H, L, L)."""
        q, k, _ = self._heads(x, rope)
        return attention_weights(q, k)

    def _heads(self, x: mx.array, rope: Rotation) -> tuple[mx.array, mx.array, mx.array]:
        qkv = linear(self.qkv, x)
        q, k, v = qkv.reshape(*x.shape[:2], 3, self.num_heads, -1).transpose(2, 0, 3, 1, 4)
        return rope(q), rope(k), v


class GatedMLP(nn.Module):
    """down(act(gate(x)) · up(x)) without biases, (…, D) -> (…, D)."""

    def __init__(self, dims: int, width: int, hidden_act: str):
        super().__init__()
        self.gate_proj = nn.Linear(dims, width, bias=False)
        self.up_proj = nn.Linear(dims, width, bias=False)
        self.down_proj = nn.Linear(width, dims, bias=False)
        self._gate = gate_of(hidden_act)

    def __call__(self, x: mx.array, residual: mx.array | None = None) -> mx.array:
        """The result plus the residual."""
        return linear(self.down_proj, self._gate(linear(self.gate_proj, x), linear(self.up_proj, x)), residual=residual)


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.norm1 = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm2 = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attn = Attention(config)
        self.mlp = GatedMLP(config.hidden_size, config.out_hidden_size, config.hidden_act)

    def __call__(self, x: mx.array, rope: Rotation) -> mx.array:
        """(B, L, D) -> (B, L, D)."""
        x = self.attn(norm(self.norm1, x), rope, residual=x)
        return self.mlp(norm(self.norm2, x), residual=x)

    def attention_weights(self, x: mx.array, rope: Rotation) -> mx.array:
        """The softmax weights of this block for its input x (B, L, D) -> (B, H, L, L)."""
        return self.attn.weights(self.norm1(x), rope)


class Merger(nn.Module):
    """From tokens of the tower to those of the text model, (…, E) -> (…, E)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        dims, width = config.out_hidden_size, config.intermediate_size
        self.proj = nn.Linear(dims, dims, bias=False)
        self.post_projection_norm = nn.LayerNorm(dims, eps=1e-5)  # torch's default, not the config's
        self.gate_proj = nn.Linear(dims, width, bias=False)
        self.up_proj = nn.Linear(dims, width, bias=False)
        self.down_proj = nn.Linear(width, dims, bias=False)
        self._gate = gate_of(config.hidden_act)

    def __call__(self, x: mx.array) -> mx.array:
        x = gelu_erf(norm(self.post_projection_norm, linear(self.proj, x)))
        return linear(self.down_proj, self._gate(linear(self.gate_proj, x), linear(self.up_proj, x)))


class VisionTower(nn.Module):
    """`Glm4vVisionModel`, with the names and layouts of the files of MLX-community."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.patch_embed = PatchEmbedding(config)
        self.post_conv_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.embeddings = Embeddings(config)
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.post_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        merge = config.spatial_merge_size
        self.downsample = nn.Conv2d(config.hidden_size, config.out_hidden_size, merge, stride=merge)
        self.merger = Merger(config)
        self._merge, self._patch_dims = merge, config.patch_dims
        self._head_dims = config.hidden_size // config.num_heads
        self._rope_theta = config.rope_theta

    def __call__(
        self,
        pixel_values: mx.array,
        grid_thw: Nested | mx.array,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """pixel_values (N, 1176), one image after the other, and their grids (n, 3): a list, or an array that is read.

        pooler_output (N/4, E) is what takes the place of tokens, last_hidden_state (N/4, E) the same before the
        merger. hidden_states are (N, D). attentions are (n, H, L, L), a row for each image and each frame, with
        zeros after the patches of those that are smaller than the largest. Raises InputError where pixels and grids
        do not fit.
        """
        sizes = frame_sizes(read_whole(grid_thw) if isinstance(grid_thw, mx.array) else grid_thw, self._merge)
        self._check(pixel_values, sizes)
        results: list[TowerOutput] = []
        start = 0
        for count, (rows, cols) in batches(sizes):
            end = start + count * rows * cols
            pixels = pixel_values[start:end].reshape(count, rows * cols, -1)
            results.append(self._run(pixels, (rows, cols), results[-1:], output_hidden_states, output_attentions))
            start = end
        return _join(results, max(rows * cols for rows, cols in sizes))

    def _run(
        self,
        pixels: mx.array,
        size: Size,
        after: list[TowerOutput],
        output_hidden_states: bool,
        output_attentions: bool,
    ) -> TowerOutput:
        """Images (B, L, 1176) of one size, computed when the results `after` exist: MLX would else begin all
        images at once and hold all that lies between their pixels and their tokens."""
        table = self.embeddings.position_embedding(size)
        angles = grid_angles(*size, self._head_dims, base=self._rope_theta)
        if after:
            pixels, table, angles = mx.depends([pixels, table, angles], [pooled(after[0])])
        rope = _rotation(in_blocks(angles, size, self._merge))
        x = norm(self.post_conv_layernorm, self.patch_embed(pixels))
        x = x + in_blocks(table, size, self._merge)
        hidden_states, attentions = [x], []
        if output_hidden_states or output_attentions:
            for block in self.blocks:
                if output_attentions:
                    attentions.append(block.attention_weights(x, rope))
                x = block(x, rope)
                if output_hidden_states:
                    hidden_states.append(x)
            x = norm(self.post_layernorm, x)
        else:
            x = run(self._last_state, x, rope)
        kernel = self.downsample.weight.flatten(1)
        x = x.reshape(-1, kernel.shape[1])
        x = mx.addmm(self.downsample.bias, x, kernel.T)
        return TowerOutput(
            last_hidden_state=x,
            pooler_output=run(self.merger, x),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _last_state(self, x: mx.array, rope: Rotation) -> mx.array:
        for block in self.blocks:
            x = block(x, rope)
        return norm(self.post_layernorm, x)

    def _check(self, pixel_values: mx.array, sizes: Sequence[Size]) -> None:
        expected = (sum(rows * cols for rows, cols in sizes), self._patch_dims)
        if tuple(pixel_values.shape) != expected or not sizes:
            raise InputError(
                f"pixel_values have shape {tuple(pixel_values.shape)}; the {len(sizes)} pictures of the grids have "
                f"{expected[0]} patches of {expected[1]} numbers. Take pixels and grids from one call of the processor."
            )


def gate_of(hidden_act: str) -> Gate:
    """(gate, up) -> act(gate) · up."""
    if hidden_act == "silu":
        return swiglu
    act = activation(hidden_act)
    return lambda gate, up: act(gate) * up


def in_blocks(x: mx.array, size: Size, merge: int) -> mx.array:
    """Rows (L, …) of a grid, from row by row to block by block, each of merge × merge cells."""
    rows, cols = (side // merge for side in size)
    return x.reshape(rows, merge, cols, merge, -1).swapaxes(1, 2).reshape(x.shape)


def batches(sizes: Sequence[Size]) -> Iterator[tuple[int, Size]]:
    """How many images of which size are computed together, in their order."""
    for size, alike in groupby(sizes):
        count = len(list(alike))
        most = max(1, PATCHES_PER_BATCH // (size[0] * size[1]))
        yield from ((min(most, count - first), size) for first in range(0, count, most))


def _rotation(angles: mx.array) -> Rotation:
    """Turns heads in float32, as where the model was trained."""
    return in_float32(rotate_halves(angles))


def _join(results: Sequence[TowerOutput], longest: int) -> TowerOutput:
    """The results of all batches one after the other."""

    def padded(weights: mx.array) -> mx.array:
        missing = longest - weights.shape[-1]
        return mx.pad(weights, [(0, 0), (0, 0), (0, missing), (0, missing)])

    states = [result.hidden_states for result in results if result.hidden_states is not None]
    weights = [result.attentions for result in results if result.attentions is not None]
    return TowerOutput(
        last_hidden_state=mx.concatenate([result.last_hidden_state for result in results]),
        pooler_output=mx.concatenate([pooled(result) for result in results]),
        hidden_states=_by_layer([[layer.flatten(0, 1) for layer in layers] for layers in states]),
        attentions=_by_layer([[padded(layer) for layer in layers] for layers in weights]),
    )


def _by_layer(results: Iterable[Sequence[mx.array]]) -> tuple[mx.array, ...] | None:
    """Each layer's arrays of all results joined; None without results."""
    return tuple(mx.concatenate(list(parts)) for parts in zip(*results, strict=True)) or None
