"""One prompt, or a batch of them, on its way through the model: what mlx_lm's token loop takes for a model.

That loop passes token ids and a cache. Everything else, the positions of all tokens and the features of images and
videos, belongs to a prompt and not to the model, and is here. Where the ids stand is read from the cache, so a prompt
may come in pieces, after a part that a cache has from an earlier turn, or again after the cache was trimmed.

Of the processor's arrays only pixels become arrays of MLX, and those a few images at a time.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.border import to_mlx
from mlx_mm.errors import InputError
from mlx_mm.generation.request import FeatureStore, LayerCache
from mlx_mm.layers.attention import Rotation
from mlx_mm.layers.outputs import pooled
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.inputs import attention_mask_for, merge_features, padding_of, position_table, tokens_before
from mlx_mm.models.glm4v.language import LanguageModel
from mlx_mm.models.glm4v.positions import IMAGE, VIDEO, Span, rope_index, types_by_id
from mlx_mm.models.glm4v.sharded import ShardedLanguageModel, ShardedVisionTower
from mlx_mm.models.glm4v.staged import AbsentVisionTower, StagedLanguageModel
from mlx_mm.models.glm4v.vision import VisionTower
from mlx_mm.processing.batch import Batch

# Patches that go through the vision tower before their features are computed for good.
MAX_PATCHES_AT_ONCE = 8192
# Kind -> the keys of its grids and pixels
KEYS = {IMAGE: ("image_grid_thw", "pixel_values"), VIDEO: ("video_grid_thw", "pixel_values_videos")}


class Parts(Protocol):
    """What a request runs, of the model that made it."""

    config: ModelConfig
    vision_tower: VisionTower | ShardedVisionTower | AbsentVisionTower
    language_model: LanguageModel | ShardedLanguageModel | StagedLanguageModel


class Request:
    """A prompt (1, L), or left-padded prompts (B, L), of one model; it may be run with any number of caches.

    batch: the processor's. Padding needs a cache that knows of it: `BatchKVCache(request.left_padding)`.
    For a chat that goes on, make a request of the whole conversation and pass what its cache lacks: only images and
    frames with tokens in that part go through the vision tower. deltas: how far each row's tokens after the prompt
    stand from their count. Raises InputError where tokens and pixels do not fit.
    """

    def __init__(self, model: Parts, batch: Batch):
        self.model = model
        config = model.config
        self._ids: list[list[int]] = batch["input_ids"].tolist()
        mask = batch["attention_mask"].tolist() if "attention_mask" in batch else [[1] * len(row) for row in self._ids]
        self.prompt_length = len(self._ids[0])
        self.left_padding = _left_padding(mask)
        self._batch = batch
        self._types = self._token_types(batch)
        grids = {kind: batch[key].tolist() if key in batch else None for kind, (key, _) in KEYS.items()}
        merge = config.vision_config.spatial_merge_size
        layout = rope_index(self._types, grids[IMAGE], grids[VIDEO], mask, merge=merge)
        self._positions = position_table(layout)
        self.deltas = layout.deltas
        self._spans = layout.spans
        self._check_pixels()
        self._features: dict[Span, mx.array] = {}
        self._store: FeatureStore | None = None

    @property
    def layers(self) -> Sequence[nn.Module]:
        """One for each cache that a run needs."""
        return self.model.language_model.layers

    def share(self, store: FeatureStore) -> None:
        """Take features of images and frames from there, and put there what is computed."""
        self._store = store

    def token_keys(self) -> list[int]:
        """One number for each token of a single prompt: its id; that of an image also says which image it is.

        Two images of one size have the same ids, and what a model computes of them is not the same.
        """
        keys, types = list(self._ids[0]), self._types[0]
        for kind, (grids, pixels) in KEYS.items():
            places = [place for place, found in enumerate(types) if found == kind]
            if not places:
                continue
            patches = len(self._batch[pixels]) // len(places)  # of a token
            token = 0
            for grid in self._batch[grids]:
                count = int(grid.prod()) // patches
                own = self._batch[pixels][token * patches : (token + count) * patches]
                digest = hashlib.blake2b(own.tobytes(), digest_size=7, person=grid.astype("int32").tobytes()).digest()
                for place in places[token : token + count]:
                    keys[place] = -1 - int.from_bytes(digest, "big")
                token += count
        return keys

    def __call__(
        self, input_ids: mx.array, cache: Sequence[LayerCache] | None = None, *, all_logits: bool = False
    ) -> mx.array:
        """The next tokens (B, n) -> logits after the last of them, (B, 1, V), or after each, (B, n, V)."""
        start = tokens_before(cache)
        self._check_padding(start, cache)
        language = self.model.language_model
        embeds = self._with_features(language.embed(input_ids), start)
        mask = attention_mask_for(embeds, self._attention_mask() if cache is None else None, cache)
        hidden = language.model(embeds, self._rotation(start, embeds, cache), mask, cache).last_hidden_state
        return language.logits(hidden if all_logits else hidden[:, -1:])

    def _check_padding(self, start: int, cache: Sequence[LayerCache] | None) -> None:
        """Hold the padding of a cache against the batch's while the prompt runs; after it, nothing is read."""
        if cache is None or start >= self.prompt_length:
            return
        padding = padding_of(cache)
        if padding is None and any(self.left_padding):
            raise InputError("The batch has padding; run it with mlx_lm's BatchKVCache(request.left_padding).")
        if padding is not None and padding != self.left_padding:
            raise InputError(
                f"The cache has other padding than the batch, {self.left_padding}. "
                "Make it with BatchKVCache(request.left_padding)."
            )

    def _rotation(self, start: int, embeds: mx.array, cache: Sequence[LayerCache] | None) -> Rotation:
        """Positions by the prompt's table, after it by the count of tokens."""
        language, length = self.model.language_model, embeds.shape[1]
        counts = [start - padding for padding in self.left_padding]  # of tokens before, without padding
        after = [count + delta for count, delta in zip(counts, self.deltas, strict=True)]
        if not self._spans or start >= self.prompt_length:
            return language.rotation_from(after[0] if len(after) == 1 else mx.array(after))
        positions = self._positions[:, :, start : start + length]
        if (missing := start + length - self.prompt_length) > 0:
            first = mx.array(after)[:, None] + (self.prompt_length - start) + mx.arange(missing)
            positions = mx.concatenate([positions, mx.broadcast_to(first, (3, *first.shape))], axis=-1)
        return language.rotation(positions, embeds.dtype)

    def _attention_mask(self) -> mx.array | None:
        if not any(self.left_padding):
            return None
        return (mx.arange(self.prompt_length) >= mx.array(self.left_padding)[:, None]).astype(mx.int32)

    def _with_features(self, embeds: mx.array, start: int) -> mx.array:
        """Embeddings (B, n, D) of the tokens from `start` on, those of images replaced by their features."""
        length = embeds.shape[1]
        end = start + length
        seen = [span for span in self._spans if span.first_token < end and span.first_token + span.tokens > start]
        self._recall(seen)
        self._encode([span for span in seen if span not in self._features])
        places: list[int] = []
        features = []
        for span in seen:
            first, last = max(span.first_token, start), min(span.first_token + span.tokens, end)
            places += range(span.row * length + first - start, span.row * length + last - start)
            features.append(self._features[span][first - span.first_token : last - span.first_token])
        return merge_features(embeds, places, mx.concatenate(features)) if places else embeds

    def _recall(self, spans: Sequence[Span]) -> None:
        """Take from the store what it has."""
        for span in spans:
            if self._store is not None and span not in self._features:
                found = self._store.get(self._key(span))
                if found is not None:
                    self._features[span] = found

    def _key(self, span: Span) -> bytes:
        """Another one for other pixels, or for as many in other rows."""
        size = b"".join(side.to_bytes(8, "big") for side in span.size)
        return hashlib.blake2b(self._pixels(span, span)["pixels"].tobytes(), digest_size=16, person=size).digest()

    def _pixels(self, first: Span, last: Span) -> Batch:
        """Those of spans of one kind that follow one another."""
        return {"pixels": self._batch[KEYS[first.kind][1]][first.first_patch : last.first_patch + last.patches]}

    def _encode(self, spans: Sequence[Span]) -> None:
        """Compute the features of images and frames, a few at a time, so that memory is that of a few."""
        groups: list[list[Span]] = []
        for span in spans:
            if groups and _belongs(span, groups[-1]):
                groups[-1].append(span)
            else:
                groups.append([span])
        for group in groups:
            own = to_mlx(self._pixels(group[0], group[-1]))["pixels"]
            features = pooled(self.model.vision_tower(own, [(1, *span.size) for span in group]))
            ends = [sum(span.tokens for span in group[: i + 1]) for i in range(len(group) - 1)]
            parts = list(mx.split(features, ends))
            mx.eval(parts)  # so that the tower's memory is free again; the language model would wait for them anyway
            for span, part in zip(group, parts, strict=True):
                self._features[span] = part
                if self._store is not None:
                    self._store.put(self._key(span), part)

    def _token_types(self, batch: Mapping[str, object]) -> list[list[int]]:
        """What each token is; by its id where nobody says it."""
        types = self._batch.get("mm_token_type_ids")
        if types is not None:
            return list(types.tolist())
        kinds = [kind for kind, (grids, _) in KEYS.items() if grids in batch]
        if len(kinds) > 1:
            raise InputError(
                "There are images and videos but no mm_token_type_ids, so it is open which tokens are whose. Pass "
                "those of the processor."
            )
        return types_by_id(self._ids, self.model.config.image_token_id, videos=VIDEO in kinds)

    def _check_pixels(self) -> None:
        for kind, (_, key) in KEYS.items():
            found = len(self._batch[key]) if key in self._batch else 0
            if found != (expected := sum(span.patches for span in self._spans if span.kind == kind)):
                raise InputError(
                    f"There are {found} patches of pixels; the grids have {expected}. "
                    "Take pixels and grids from one call of the processor."
                )


def _left_padding(mask: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens at the left of each row are padding."""
    rows = [[bool(real) for real in row] for row in mask]
    if any(row != sorted(row) for row in rows) or not all(map(any, rows)):
        raise InputError(
            "attention_mask has padding after a token, or a row without any; expected padding at the left."
        )
    return [row.count(False) for row in rows]


def _belongs(span: Span, group: Sequence[Span]) -> bool:
    """Whether a span's patches follow those of the group, and are few enough to be computed together."""
    first, last = group[0], group[-1]
    follows = span.kind == last.kind and span.first_patch == last.first_patch + last.patches
    return follows and span.first_patch + span.patches - first.first_patch <= MAX_PATCHES_AT_ONCE
