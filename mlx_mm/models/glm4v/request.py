"""One prompt, or a batch of them, on its way through the model: what mlx_lm's token loop takes for a model.

That loop passes token ids and a cache. Everything else, the positions of all tokens and the features of the pictures,
belongs to a prompt and not to the model, and is here. Where the ids stand is read from the cache, so a prompt may come
in pieces, after a part that a cache has from an earlier turn, or again after the cache was trimmed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import mlx.core as mx

from mlx_mm.errors import InputError
from mlx_mm.layers.attention import Rotation
from mlx_mm.models.glm4v.language import Cache
from mlx_mm.models.glm4v.model import Model, attention_mask_for, token_types
from mlx_mm.models.glm4v.positions import IMAGE, TEXT, VIDEO, frame_sizes, rope_index

# Patches that go through the vision tower before their features are computed for good.
PATCHES = 8192


@dataclass(frozen=True)
class Picture:
    """An image or one frame of a video: which of the patches of its kind are its own, and which tokens of the batch.

    first_patch, and rows and cols of patches; row and first_token: of the batch, with padding; tokens: how many.
    """

    kind: int
    first_patch: int
    rows: int
    cols: int
    row: int
    first_token: int
    tokens: int


class Request:
    """A prompt (1, L), or left-padded prompts (B, L), of one model; it may be run with any number of caches.

    Arguments are the processor's batch. Padding needs a cache that knows of it: `BatchKVCache(request.left_padding)`.
    For a chat that goes on, make a request of the whole conversation and pass what its cache lacks: only pictures
    with tokens in that part go through the vision tower. Raises InputError where tokens and pictures do not fit.
    """

    def __init__(
        self,
        model: Model,
        input_ids: mx.array,
        attention_mask: mx.array | None = None,
        mm_token_type_ids: mx.array | None = None,
        pixel_values: mx.array | None = None,
        image_grid_thw: mx.array | None = None,
        pixel_values_videos: mx.array | None = None,
        video_grid_thw: mx.array | None = None,
    ):
        self.model = model
        self.prompt_length = input_ids.shape[1]
        self.left_padding = _left_padding(attention_mask, input_ids)
        merge = model.config.vision_config.spatial_merge_size
        grids = {IMAGE: image_grid_thw, VIDEO: video_grid_thw}
        self._pixels = {IMAGE: pixel_values, VIDEO: pixel_values_videos}
        images, videos = (grid is not None for grid in grids.values())
        types: Any = token_types(model.config, input_ids, mm_token_type_ids, images=images, videos=videos)
        self._positions, deltas = rope_index(
            input_ids, types, image_grid_thw, video_grid_thw, attention_mask, merge=merge
        )
        self._deltas = _listed(deltas)
        sizes = {kind: frame_sizes(grid, merge) for kind, grid in grids.items()}
        self._pictures = _pictures(types.tolist(), self.left_padding, sizes)
        self._check_pixels(sizes)
        self._features: dict[Picture, mx.array] = {}

    @property
    def layers(self) -> Any:
        """One for each cache that a run needs."""
        return self.model.language_model.model.layers

    def __call__(
        self, input_ids: mx.array, cache: Sequence[Cache] | None = None, *, all_logits: bool = False
    ) -> mx.array:
        """The next tokens (B, n) -> logits after the last of them, (B, 1, V), or after each, (B, n, V)."""
        offset = [-padding for padding in self.left_padding] if cache is None else cache[0].offset
        start = self._start(offset, cache)
        language = self.model.language_model
        embeds = self._with_features(language.model.embed(input_ids), start)
        mask = attention_mask_for(embeds, self._attention_mask() if cache is None else None, cache)
        rope = self._rotation(offset, start, embeds)
        hidden = language.model(embeds, rope, mask, cache).last_hidden_state
        return language.logits(hidden if all_logits else hidden[:, -1:])

    def _start(self, offset: Any, cache: Sequence[Cache] | None) -> int:
        """How many tokens of the batch, with padding, come before what a cache's offset points at."""
        if isinstance(offset, int):
            if any(self.left_padding):
                raise InputError("The batch has padding; run it with mlx_lm's BatchKVCache(request.left_padding).")
            return offset
        counts = [n + padding for n, padding in zip(_listed(offset), self.left_padding, strict=True)]
        if min(counts) != max(counts):
            raise InputError(
                f"The cache has other padding than the batch, {self.left_padding}. "
                "Make it with BatchKVCache(request.left_padding)."
            )
        return counts[0]

    def _rotation(self, offset: Any, start: int, embeds: mx.array) -> Rotation:
        """Positions by the prompt's table, after it by the count of tokens."""
        language, length = self.model.language_model, embeds.shape[1]
        if not self._pictures or start >= self.prompt_length:
            if isinstance(offset, int) and len(self._deltas) == 1:
                return language.rotation_from(offset + self._deltas[0])
            return language.rotation_from(mx.array(offset) + mx.array(self._deltas))
        positions = self._positions[:, :, start : start + length]
        if (missing := start + length - self.prompt_length) > 0:
            first = [
                self.prompt_length - pad + delta for pad, delta in zip(self.left_padding, self._deltas, strict=True)
            ]
            after = mx.array(first)[:, None] + mx.arange(missing)
            after = mx.broadcast_to(after, (3, *after.shape))
            positions = mx.concatenate([positions, after], axis=-1)
        return language.rotation(positions, embeds.dtype)

    def _attention_mask(self) -> mx.array | None:
        if not any(self.left_padding):
            return None
        return (mx.arange(self.prompt_length) >= mx.array(self.left_padding)[:, None]).astype(mx.int32)

    def _with_features(self, embeds: mx.array, start: int) -> mx.array:
        """Embeddings (B, n, D) of the tokens from `start` on, pictures' tokens replaced by their features."""
        end = start + embeds.shape[1]
        seen = [p for p in self._pictures if p.first_token < end and p.first_token + p.tokens > start]
        if not seen:
            return embeds
        self._encode([picture for picture in seen if picture not in self._features])
        rows = []
        for number, row in enumerate(embeds):
            pieces, done = [], start
            for p in (picture for picture in seen if picture.row == number):
                first, last = max(p.first_token, start), min(p.first_token + p.tokens, end)
                features = self._features[p][first - p.first_token : last - p.first_token]
                pieces += [row[done - start : first - start], features.astype(embeds.dtype)]
                done = last
            rows.append(mx.concatenate([*pieces, row[done - start :]]))
        return mx.stack(rows)

    def _encode(self, pictures: list[Picture]) -> None:
        """Compute the features of pictures, a few at a time, so that memory is that of a few."""
        groups: list[list[Picture]] = []
        for picture in pictures:
            if groups and _belongs(picture, groups[-1]):
                groups[-1].append(picture)
            else:
                groups.append([picture])
        for group in groups:
            first, last = group[0], group[-1]
            pixels: Any = self._pixels[first.kind]
            patches = pixels[first.first_patch : last.first_patch + last.rows * last.cols]
            grids = [(1, picture.rows, picture.cols) for picture in group]
            features: Any = self.model.vision_tower(patches, grids).pooler_output
            ends = [sum(picture.tokens for picture in group[: i + 1]) for i in range(len(group) - 1)]
            parts = list(mx.split(features, ends))
            mx.eval(parts)
            self._features.update(zip(group, parts, strict=True))

    def _check_pixels(self, sizes: dict[int, list[tuple[int, int]]]) -> None:
        for kind, pixels in self._pixels.items():
            found = 0 if pixels is None else pixels.shape[0]
            if found != (expected := sum(rows * cols for rows, cols in sizes[kind])):
                raise InputError(
                    f"There are {found} patches of pixels; the grids have {expected}. "
                    "Take pixels and grids from one call of the processor."
                )


def _left_padding(attention_mask: mx.array | None, input_ids: mx.array) -> list[int]:
    """How many tokens at the left of each row are padding."""
    if attention_mask is None:
        return [0] * input_ids.shape[0]
    rows: Any = (attention_mask != 0).tolist()
    if any(row != sorted(row) for row in rows) or not all(map(any, rows)):
        raise InputError(
            "attention_mask has padding after a token, or a row without any; expected padding at the left."
        )
    return [row.count(False) for row in rows]


def _pictures(types: list[list[int]], padding: list[int], sizes: dict[int, list[tuple[int, int]]]) -> list[Picture]:
    """The pictures of a batch in the order of their tokens; `rope_index` has found that tokens and sizes fit."""
    left = {kind: iter(sides) for kind, sides in sizes.items()}
    patches = dict.fromkeys(sizes, 0)
    found = []
    for number, (row, pad) in enumerate(zip(types, padding, strict=True)):
        place = pad
        for kind, run in groupby(row[pad:]):
            tokens = len(list(run))
            if kind != TEXT:
                rows, cols = next(left[kind])
                found.append(Picture(kind, patches[kind], rows, cols, number, place, tokens))
                patches[kind] += rows * cols
            place += tokens
    return found


def _belongs(picture: Picture, group: list[Picture]) -> bool:
    """Whether a picture's patches follow those of the group, and are few enough to be computed together."""
    first, last = group[0], group[-1]
    follows = picture.kind == last.kind and picture.first_patch == last.first_patch + last.rows * last.cols
    return follows and picture.first_patch + picture.rows * picture.cols - first.first_patch <= PATCHES


def _listed(numbers: Any) -> list[int]:
    result: Any = numbers.tolist() if isinstance(numbers, mx.array) else numbers
    return list(result)
