"""What goes into an encoder: tokens and patches of images, with learned positions."""

import math
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.linear import linear
from mlx_mm.backend.native.views import run
from mlx_mm.backend.shaping import extract_patches
from mlx_mm.errors import InputError


class TextSizes(Protocol):
    """Whatever has Hugging Face's keys of a text tower, such as a family's TextConfig."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...


class TextEmbeddings(nn.Module):
    """Token and learned position embeddings."""

    def __init__(self, sizes: TextSizes):
        super().__init__()
        self.token_embedding = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        self.position_embedding = nn.Embedding(sizes.max_position_embeddings, sizes.hidden_size)
        self.max_length = sizes.max_position_embeddings

    def __call__(self, input_ids: mx.array, position_ids: mx.array | None) -> mx.array:
        """(B, L) -> (B, L, D). Raises InputError for more than `max_position_embeddings` tokens."""
        length = input_ids.shape[1]
        if length > self.max_length:
            raise InputError(
                f"input_ids have {length} tokens; this model takes at most {self.max_length}. Truncate the text."
            )
        positions = mx.arange(length) if position_ids is None else position_ids
        return self.token_embedding(input_ids) + self.position_embedding(positions)


def embed_patches(layer: nn.Module, pixel_values: mx.array, size: int, positions: mx.array) -> mx.array:
    """Pixels (B, H, W, C), the layer of a patch and positions (patches, D) -> (B, patches, D)."""
    return run(lambda pixels: linear(layer, extract_patches(pixels, size)), pixel_values) + positions


def kernel_matrix(kernel: mx.array) -> mx.array:
    """A convolution (D, C, p, p) whose stride is its size, as the matrix (D, p·p·C) for `extract_patches`."""
    rows = kernel.transpose(0, 2, 3, 1)
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:]))  # which MLX cannot infer of an empty one


def matrix_kernel(matrix: mx.array, channels: int, width: int) -> mx.array:
    """The convolution (D, C, ·, width) that `kernel_matrix` made a matrix of."""
    return mx.unflatten(matrix, 1, (-1, width, channels)).transpose(0, 3, 1, 2)


def patch_grid(
    pixels: tuple[int, int], image_size: int, patch_size: int, interpolate_pos_encoding: bool
) -> tuple[int, int] | None:
    """The grid (rows, cols) to which the position table of a square image is resized; None where it fits as it is.

    pixels: height and width. interpolate_pos_encoding: as transformers does it; otherwise InputError is raised for
    images that are not image_size × image_size.
    """
    height, width = pixels
    if not interpolate_pos_encoding:
        if pixels != (image_size, image_size):
            raise InputError(
                f"pixel_values are {height}×{width} pixels; this model takes {image_size}×{image_size}. "
                "Resize the pictures, or call the model with interpolate_pos_encoding=True."
            )
        return None
    grid = height // patch_size, width // patch_size
    if min(grid) < 1:
        raise InputError(
            f"pixel_values are {height}×{width} pixels; expected at least one patch of {patch_size}×{patch_size}. "
            "Enlarge the pictures."
        )
    return None if height == width and grid[0] == image_size // patch_size else grid
