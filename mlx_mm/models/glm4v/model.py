"""GLM-4.6V, 4.5V and 4.1V (arXiv 2507.01006).

Unusual here:
- frames of a video stand in the prompt as images do, under the same token id; `mm_token_type_ids` tells them apart,
  so that one prompt may have both;
- a token has three positions (M-RoPE). They follow from the whole prompt, so nothing of them is kept here: what
  answers in pieces, with a cache, is `request.Request`;
- the dense model pairs neighbouring numbers of a head and has four norms per layer, the one with experts pairs halves
  and has two;
- experts are chosen by biased scores in float32, and weighed by unbiased ones.

A call is the door for arrays that somebody passes. What of them decides about positions, grids and, where positions are
not given, token ids, types and the padding, is read there once; nothing behind it waits for the device.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.ranks import Group
from mlx_mm.errors import InputError, ModalityError
from mlx_mm.generation.request import LayerCache
from mlx_mm.layers.outputs import CausalLMOutput, DecoderOutput, pooled
from mlx_mm.models.contracts import Modality
from mlx_mm.models.glm4v.config import PADDED_AXES, ModelConfig
from mlx_mm.models.glm4v.inputs import (
    attention_mask_for,
    merge_features,
    padding_of,
    position_table,
    read_whole,
    tokens_before,
)
from mlx_mm.models.glm4v.language import LanguageModel
from mlx_mm.models.glm4v.positions import IMAGE, NAMES, VIDEO, rope_index, types_by_id
from mlx_mm.models.glm4v.request import Request
from mlx_mm.models.glm4v.sharded import ShardedLanguageModel, ShardedVisionTower
from mlx_mm.models.glm4v.staged import AbsentVisionTower, StagedLanguageModel
from mlx_mm.models.glm4v.vision import VisionTower
from mlx_mm.models.glm4v.weights import Tensors, fits_half_precision, is_quantizable, restore_weights, sanitize_weights
from mlx_mm.processing.batch import Batch

IGNORED_LABEL = -100
TOWERS = {"text": ("language_model.",), "image": ("vision_tower.",), "video": ("vision_tower.",)}


@dataclass(frozen=True)
class _Media:
    """Images, or videos, of a call: their pixels (N, 1176), None where they are in the embeddings already."""

    kind: int
    pixels: mx.array | None
    grids: list[list[int]]


class Model(nn.Module):
    """Vision tower, decoder and head; without the head it cannot answer."""

    kind: Literal["generator"] = "generator"
    modalities: tuple[Modality, ...] = ("text", "image", "video")
    towers = TOWERS
    padded_axes = PADDED_AXES

    def __init__(self, config: ModelConfig, *, has_head: bool = True):
        super().__init__()
        self.config = config
        self.vision_tower: VisionTower | ShardedVisionTower | AbsentVisionTower = VisionTower(config.vision_config)
        self.language_model: LanguageModel | ShardedLanguageModel | StagedLanguageModel
        self.language_model = LanguageModel(config, has_head=has_head)
        self.group: Group | None = None
        self.has_head = has_head

    def __call__(
        self,
        input_ids: mx.array | None = None,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        cache: Sequence[LayerCache] | None = None,
        inputs_embeds: mx.array | None = None,
        pixel_values: mx.array | None = None,
        image_grid_thw: mx.array | None = None,
        pixel_values_videos: mx.array | None = None,
        video_grid_thw: mx.array | None = None,
        mm_token_type_ids: mx.array | None = None,
        *,
        labels: mx.array | None = None,
        logits_to_keep: int | mx.array = 0,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CausalLMOutput | DecoderOutput:
        """Tokens (B, L), or their embeddings (B, L, D), with images and videos among them -> CausalLMOutput, and
        DecoderOutput without a head.

        attention_mask: (B, L), 1 = real, padding on either side. position_ids: (3, B, L) in time, rows and columns,
        or (B, L); needed where the cache, a list with one of mlx_lm's for each layer, has tokens already.
        mm_token_type_ids: 0 text, 1 image, 2 video; needed with both kinds. labels: (B, L), the tokens themselves,
        -100 where they do not count. logits_to_keep: so many of the last tokens get logits, 0 all, or those at these
        indices; both need a head. Raises InputError for arguments that do not fit together.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("Pass exactly one of input_ids and inputs_embeds.")
        if not self.has_head and (labels is not None or isinstance(logits_to_keep, mx.array) or logits_to_keep):
            raise InputError("labels or logits_to_keep are given, and this model has no head. Leave them out.")
        media = [*_media(IMAGE, pixel_values, image_grid_thw), *_media(VIDEO, pixel_values_videos, video_grid_thw)]
        types = None
        if media or position_ids is None:
            types = self._types(input_ids, mm_token_type_ids, [some.kind for some in media])
        embeds = inputs_embeds if input_ids is None else self.language_model.embed(input_ids)
        assert embeds is not None  # one of both is there
        if types is not None:
            embeds = self._merge(embeds, types, media, complete=input_ids is not None)
        deltas = None
        if position_ids is None:
            if tokens_before(cache):
                raise InputError("The cache has tokens, so their positions go on. Pass position_ids, or use a Request.")
            position_ids, deltas, attention_mask = self._positions(
                embeds.shape[:2], types, media, attention_mask, cache
            )
        positions = mx.broadcast_to(position_ids, (3, *embeds.shape[:2]))
        out = self.language_model.model(
            embeds,
            self.language_model.rotation(positions, embeds.dtype),
            attention_mask_for(embeds, attention_mask, cache, as_array=output_attentions),
            cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        if not self.has_head:
            return DecoderOutput(out.last_hidden_state, out.hidden_states, out.attentions, deltas)
        logits = self._logits(out.last_hidden_state, logits_to_keep)
        loss = None if labels is None else _next_token_loss(logits, labels)
        return CausalLMOutput(loss, logits, out.hidden_states, out.attentions, deltas)

    def request(self, batch: Batch) -> Request:
        """A batch of the processor on its way through this model, as mlx_lm's token loop takes it.

        Raises ModalityError without a head, InputError where tokens and pixels do not fit.
        """
        if not self.has_head:
            raise _headless()
        return Request(self, batch)

    def token_logits(self, **batch: mx.array) -> mx.array:
        """Arguments of a call -> logits (B, L, V), of the tokens at logits_to_keep where that is given; ModalityError
        without a head."""
        if not self.has_head:
            raise _headless()
        out = self(**cast(dict[str, Any], batch))
        assert isinstance(out, CausalLMOutput)  # with a head
        return out.logits

    def delta(self, request: Request) -> int:
        """How far the tokens after a single prompt stand from their count."""
        return request.deltas[0]

    def decode(self, input_ids: mx.array, cache: Sequence[LayerCache], deltas: Sequence[int]) -> mx.array:
        """The last token of each of several answers (B, 1), after what a cache of a batch has -> logits (B, 1, V).

        deltas: of the rows' prompts, see `delta`.
        """
        language = self.language_model
        embeds = language.embed(input_ids)
        rope = language.rotation_from(cache[0].offset + mx.array(list(deltas)))
        mask = attention_mask_for(embeds, None, cache)
        return language.logits(language.model(embeds, rope, mask, cache).last_hidden_state)

    def get_image_features(self, pixel_values: mx.array, image_grid_thw: mx.array) -> list[mx.array]:
        """(N, 1176) and (images, 3) -> (tokens, D) for each image."""
        return self._features(pixel_values, read_whole(image_grid_thw))

    def get_video_features(self, pixel_values_videos: mx.array, video_grid_thw: mx.array) -> list[mx.array]:
        """(N, 1176) and (videos, 3) -> (tokens, D) for each video."""
        return self._features(pixel_values_videos, read_whole(video_grid_thw))

    def get_rope_index(
        self,
        input_ids: mx.array,
        mm_token_type_ids: mx.array | None = None,
        image_grid_thw: mx.array | None = None,
        video_grid_thw: mx.array | None = None,
        attention_mask: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Positions (3, B, L) of whole prompts (B, L), and how far each row's next token stands from its count, (B,).

        Arguments as of a call. Raises InputError for those that do not fit together.
        """
        media = [*_media(IMAGE, None, image_grid_thw), *_media(VIDEO, None, video_grid_thw)]
        types = self._types(input_ids, mm_token_type_ids, [some.kind for some in media])
        positions, deltas, _ = self._positions(input_ids.shape[:2], types, media, attention_mask, None)
        return positions, deltas

    def get_placeholder_mask(
        self,
        input_ids: mx.array | None,
        inputs_embeds: mx.array,
        image_features: mx.array | None = None,
        video_features: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Which tokens stand for images, and which for frames of videos, boolean (B, L, 1).

        Both have the id of images, so the two are alike; only among embeddings alone, input_ids None, each kind is
        known by its own. Raises InputError for features (tokens, D) of another number.
        """
        if input_ids is None:
            kinds = mx.array([self.config.image_token_id, self.config.video_token_id])
            images, videos = ((inputs_embeds == own).all(axis=-1) for own in self.language_model.embed(kinds))
        else:
            images = videos = input_ids == self.config.image_token_id
        for name, mask, features in (("image", images, image_features), ("video", videos, video_features)):
            if features is not None and (tokens := int(mask.sum())) != features.shape[0]:
                raise _mismatch(name, tokens, features.shape[0])
        return images[..., None], videos[..., None]

    def modules_for(self, modality: Modality) -> tuple[nn.Module | None, ...]:
        """What the features of a modality are computed with."""
        return (self.language_model,) if modality == "text" else (self.vision_tower,)

    def sanitize(self, weights: dict[str, mx.array]) -> Tensors:
        """Hugging Face's tensors under our names and in our layout."""
        return sanitize_weights(self.config, weights, has_head=self.has_head)

    def restore(self, weights: Tensors) -> Tensors:
        """The other way, under the names of a file."""
        return restore_weights(weights)

    def quant_predicate(self, path: str, _module: nn.Module) -> bool:
        """Whether the layer at a path may be quantised."""
        return is_quantizable(path)

    def cast_predicate(self, path: str) -> bool:
        """Whether the weight at a path may be computed with in float16."""
        return fits_half_precision(path)

    # --- the steps of a call

    def _types(
        self, input_ids: mx.array | None, mm_token_type_ids: mx.array | None, kinds: Sequence[int]
    ) -> list[list[int]] | None:
        """What each token is, (B, L); by its id where nobody says it. None: there are no ids to tell it from."""
        if mm_token_type_ids is not None:
            return read_whole(mm_token_type_ids)
        if len(kinds) > 1 or (input_ids is None and kinds):
            raise InputError(
                f"There are {'images and videos' if len(kinds) > 1 else 'inputs_embeds and pixels'} but no "
                "mm_token_type_ids, so it is open which tokens are whose. Pass those of the processor."
            )
        if input_ids is None:
            return None
        return types_by_id(read_whole(input_ids), self.config.image_token_id, videos=VIDEO in kinds)

    def _merge(self, embeds: mx.array, types: list[list[int]], media: Sequence[_Media], *, complete: bool) -> mx.array:
        """Embeddings with the features of images and videos in the place of their tokens.

        complete: each of their tokens needs a feature; otherwise those without pixels are in the embeddings already.
        """
        flat = [kind for row in types for kind in row]
        given = {some.kind: (some.pixels, some.grids) for some in media if some.pixels is not None}
        for kind, name in NAMES.items():
            places = [place for place, found in enumerate(flat) if found == kind]
            if kind not in given:
                if complete and places:
                    raise _mismatch(name, len(places), 0)
                continue
            features = pooled(self.vision_tower(*given[kind]))
            if features.shape[0] != len(places):
                raise _mismatch(name, len(places), features.shape[0])
            embeds = merge_features(embeds, places, features)
        return embeds

    def _features(self, pixels: mx.array, grids: list[list[int]]) -> list[mx.array]:
        """(tokens, D) for each image or video."""
        features = pooled(self.vision_tower(pixels, grids))
        tokens = [math.prod(grid) // self.config.vision_config.spatial_merge_size**2 for grid in grids]
        return list(mx.split(features, list(itertools.accumulate(tokens[:-1]))))

    def _positions(
        self,
        shape: tuple[int, ...],
        types: list[list[int]] | None,
        media: Sequence[_Media],
        attention_mask: mx.array | None,
        cache: Sequence[LayerCache] | None,
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        """Positions of whole prompts (3, B, L), their deltas (B,), and the mask if there is padding in it."""
        batch, length = shape
        mask = None if attention_mask is None else read_whole(attention_mask)
        if mask is None and (padding := padding_of(cache)) is not None:
            mask = [[int(place >= count) for place in range(length)] for count in padding]
        grids = {some.kind: some.grids for some in media}
        types = [[0] * length for _ in range(batch)] if types is None else types
        merge = self.config.vision_config.spatial_merge_size
        layout = rope_index(types, grids.get(IMAGE), grids.get(VIDEO), mask, merge=merge)
        padded = mask is not None and not all(map(all, mask))
        return position_table(layout), mx.array(layout.deltas, mx.int32), attention_mask if padded else None

    def _logits(self, hidden: mx.array, logits_to_keep: int | mx.array) -> mx.array:
        if isinstance(logits_to_keep, mx.array):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        return self.language_model.logits(hidden)


def headless(config: ModelConfig) -> Model:
    """The model without its head: `Glm4vModel` and its like."""
    return Model(config, has_head=False)


def _headless() -> ModalityError:
    return ModalityError(
        "This checkpoint has no head, so it cannot answer. Use one saved as …ForConditionalGeneration."
    )


def _media(kind: int, pixels: mx.array | None, grid_thw: mx.array | None) -> list[_Media]:
    """One of a kind, or none."""
    if grid_thw is not None:
        return [_Media(kind, pixels, read_whole(grid_thw))]
    if pixels is not None:
        raise InputError(f"There are {NAMES[kind]} pixels without their grids. Pass both, as the processor has them.")
    return []


def _mismatch(name: str, tokens: int, features: int) -> InputError:
    return InputError(
        f"{name.capitalize()} features and {name} tokens do not match: tokens {tokens}, features {features}. "
        "Take tokens and pixels from one call of the processor."
    )


def _next_token_loss(logits: mx.array, labels: mx.array) -> mx.array:
    """Mean cross-entropy of each token's logits (B, L, V) with the token after it."""
    if logits.shape[:2] != labels.shape:
        raise InputError("A loss needs the logits of all tokens. Leave out labels, or logits_to_keep.")
    wanted = labels[:, 1:]
    counted = wanted != IGNORED_LABEL
    losses = nn.losses.cross_entropy(logits[:, :-1].astype(mx.float32), mx.where(counted, wanted, 0))
    return mx.where(counted, losses, 0).sum() / counted.sum()


ARCHITECTURES: dict[str, Callable[[ModelConfig], Model]] = {
    "": Model,
    "Glm46VForConditionalGeneration": Model,
    "Glm4vForConditionalGeneration": Model,
    "Glm4vMoeForConditionalGeneration": Model,
    "Glm46VModel": headless,
    "Glm4vModel": headless,
    "Glm4vMoeModel": headless,
}
