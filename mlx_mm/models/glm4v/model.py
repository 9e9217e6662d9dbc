"""GLM-4.6V, 4.5V and 4.1V (arXiv 2507.01006).

Unusual here:
- frames of a video stand in the prompt as images do, under the same token id; `mm_token_type_ids` tells them apart,
  so that one prompt may have both;
- a token has three positions (M-RoPE). They follow from the whole prompt, so nothing of them is kept here: what
  answers in pieces, with a cache, is `request.Request`;
- the dense model pairs neighbouring numbers of a head and has four norms per layer, the one with experts pairs halves
  and has two;
- experts are chosen by biased scores in float32, and weighed by unbiased ones;
- experts lie one by one in a file, and stacked here, under the names that the files of MLX-community have.
"""

from collections.abc import Sequence
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask

from mlx_mm.checkpoint.rows import Rows
from mlx_mm.errors import InputError, ModalityError
from mlx_mm.layers.attention import Mask
from mlx_mm.layers.outputs import CausalLMOutput, DecoderOutput
from mlx_mm.models.glm4v.config import PADDED_AXES, ModelConfig
from mlx_mm.models.glm4v.language import Cache, LanguageModel
from mlx_mm.models.glm4v.positions import IMAGE, NAMES, TEXT, VIDEO, feature_rows, frame_sizes, rope_index
from mlx_mm.models.glm4v.vision import VisionTower

# How names begin in a file, without "model." -> ours
PREFIXES = (
    ("visual.", "vision_tower."),
    ("language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
# Kernels of convolutions, their axes in MLX's order
KERNELS = {"patch_embed.proj.weight": (0, 2, 3, 4, 1), "downsample.weight": (0, 2, 3, 1)}
DROPPED = ("rotary_emb.", "rotary_pos_emb.")  # tables that follow from the config
KEPT_EXACT = ("patch_embed.proj", "downsample", "position_embedding", "mlp.gate")
EXPERTS, STACKED = ".mlp.experts.", ".mlp.switch_mlp."
IGNORED_LABEL = -100
TOWERS = {"text": ("language_model",), "image": ("vision_tower",), "video": ("vision_tower",)}

Tensors = dict[str, mx.array | Rows]


def sanitize_weights(model: "Model | BaseModel", weights: dict[str, mx.array]) -> Tensors:
    """Hugging Face's tensors, of a file or of a live model of transformers 5, under our names and in our layout.

    Left out: a layer after the last, which predicts several tokens at once, and what follows from the config.
    """
    config = model.config
    extra = f"language_model.model.layers.{config.text_config.num_hidden_layers}."
    result: Tensors = {}
    experts: dict[str, dict[int, mx.array]] = {}
    for name, weight in weights.items():
        name = name.removeprefix("model.")
        name = next((own + name.removeprefix(theirs) for theirs, own in PREFIXES if name.startswith(theirs)), name)
        tied = config.tie_word_embeddings and name.startswith("language_model.lm_head.")
        if name.startswith(extra) or tied or any(part in name for part in DROPPED):
            continue
        layer, found, rest = name.partition(EXPERTS)
        number, _, projection = rest.partition(".")
        if found and number.isdecimal():
            experts.setdefault(f"{layer}{STACKED}{projection}", {})[int(number)] = weight
        elif found:
            result |= _stacked_experts(f"{layer}{STACKED}", rest, weight)
        else:
            axes = next((axes for end, axes in KERNELS.items() if name.endswith(end)), None)
            result[name] = weight if axes is None else weight.transpose(axes)
    for name, parts in experts.items():
        result[name] = Rows(tuple(parts[number][None] for number in sorted(parts)))
    return result


def _stacked_experts(prefix: str, name: str, weight: mx.array) -> Tensors:
    """A tensor (experts, out, in) of a live model, where the rows of gates and the others are one tensor."""
    if name != "gate_up_proj":
        return {f"{prefix}{name}.weight": weight}
    gate, up = mx.split(weight, 2, axis=1)
    return {f"{prefix}gate_proj.weight": gate, f"{prefix}up_proj.weight": up}


def is_quantizable(_model: "Model | BaseModel", path: str, _module: nn.Module) -> bool:
    """Kernels, the position table and the router stay as they are: they are small and weigh much."""
    return not path.endswith(KEPT_EXACT)


def is_castable(_model: "Model | BaseModel", _path: str) -> bool:
    """Every weight may be computed with in float16."""
    return True


def picture_features(model: "Model | BaseModel", pixels: mx.array, grid_thw: mx.array) -> list[mx.array]:
    """What takes the place of tokens, (tokens, D) for each image or video."""
    merge = model.config.vision_config.spatial_merge_size
    features = _tower_features(model, pixels, grid_thw)
    ends, total = [], 0
    grids: Any = grid_thw.tolist()
    for grid in grids:
        total += sum(rows * cols // merge**2 for rows, cols in frame_sizes([grid], merge))
        ends.append(total)
    return list(mx.split(features, ends[:-1]))


def _tower_features(model: "Model | BaseModel", pixels: mx.array, grid_thw: mx.array) -> mx.array:
    features = model.vision_tower(pixels, grid_thw).pooler_output
    assert features is not None
    return features


def token_types(
    config: ModelConfig, input_ids: mx.array | None, mm_token_type_ids: mx.array | None, *, images: bool, videos: bool
) -> mx.array | None:
    """0 text, 1 image, 2 video for each token; where not given, by the id that stands for pictures of either kind.

    images, videos: whether there are any. None: there are no ids to tell it from. Raises InputError where ids alone
    do not tell.
    """
    if mm_token_type_ids is not None:
        return mm_token_type_ids
    if (images and videos) or (input_ids is None and (images or videos)):
        raise InputError(
            f"There are {'images and videos' if images and videos else 'inputs_embeds and pixels'} but no "
            "mm_token_type_ids, so it is open which tokens are whose. Pass those of the processor."
        )
    if input_ids is None:
        return None
    return mx.where(input_ids == config.image_token_id, VIDEO if videos else IMAGE, TEXT)


def attention_mask_for(
    embeds: mx.array, attention_mask: mx.array | None, cache: Sequence[Cache] | None, *, as_array: bool = False
) -> Mask:
    """What tokens (B, L, D) see: those before them that are not padding.

    attention_mask: (B, S), non-zero = real, of all tokens, those in the cache too. as_array: not the word "causal".
    """
    length, past = embeds.shape[1], cached_tokens(cache)
    own = cache[0] if cache else None
    padded = attention_mask is not None and not bool((attention_mask != 0).all())
    mask: Mask = "causal"
    if own is not None or as_array or padded:
        mask = create_attention_mask(embeds, own, return_array=as_array or padded)
    if not padded or attention_mask is None:
        return mask
    if attention_mask.shape != (embeds.shape[0], past + length):
        raise InputError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected {(embeds.shape[0], past + length)}, the "
            "tokens in the cache and the new ones."
        )
    keys = (attention_mask != 0)[:, None, None, :]
    # Padding sees itself: a row without any key would give numbers that are none.
    itself = mx.arange(past + length) == mx.arange(past, past + length)[:, None]
    return (keys if mask is None else mask & keys) | itself  # type: ignore[operator]


def cached_tokens(cache: Sequence[Cache] | None) -> int:
    """How many tokens, with padding, the cache has seen."""
    if not cache:
        return 0
    offset = cache[0].offset
    return offset if isinstance(offset, int) else int((offset + cache[0].left_padding).max())


def run(
    model: "Model | BaseModel",
    input_ids: mx.array | None,
    attention_mask: mx.array | None,
    position_ids: mx.array | None,
    cache: Sequence[Cache] | None,
    inputs_embeds: mx.array | None,
    pictures: dict[int, tuple[mx.array | None, mx.array | None]],
    mm_token_type_ids: mx.array | None,
    extras: dict[str, bool],
) -> DecoderOutput:
    """The decoder over tokens and pictures; arguments as of `Model`. pictures: kind -> pixels and grids."""
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("Pass exactly one of input_ids and inputs_embeds.")
    language = model.language_model
    embeds: Any = inputs_embeds if input_ids is None else language.model.embed(input_ids)
    pixels = {kind: pixels for kind, (pixels, _) in pictures.items() if pixels is not None}
    grids = {kind: grid for kind, (_, grid) in pictures.items() if grid is not None}
    if strangers := [NAMES[kind] for kind in pixels if kind not in grids]:
        raise InputError(f"There are {strangers[0]} pixels without their grids. Pass both, as the processor has them.")
    types = None
    if pixels or grids or position_ids is None:
        types = token_types(model.config, input_ids, mm_token_type_ids, images=IMAGE in grids, videos=VIDEO in grids)
    if types is not None:
        embeds = _merge(model, embeds, types, pixels, grids, inputs_embeds is None)
    deltas = None
    if position_ids is None:
        if cached_tokens(cache):
            raise InputError("The cache has tokens, so their positions go on. Pass position_ids, or use a Request.")
        mask = attention_mask if attention_mask is not None else _real(embeds, cache)
        blank = mx.zeros(embeds.shape[:2], mx.int32)
        merge = model.config.vision_config.spatial_merge_size
        position_ids, deltas = rope_index(blank, types, grids.get(IMAGE), grids.get(VIDEO), mask, merge=merge)
    positions = mx.broadcast_to(position_ids, (3, *embeds.shape[:2]))
    mask_of_keys = attention_mask_for(embeds, attention_mask, cache, as_array=extras["output_attentions"])
    out = language.model(embeds, language.rotation(positions, embeds.dtype), mask_of_keys, cache, **extras)
    return DecoderOutput(out.last_hidden_state, out.hidden_states, out.attentions, deltas)


def _real(embeds: mx.array, cache: Sequence[Cache] | None) -> mx.array | None:
    """Which tokens (B, L) are not the left padding that a cache of mlx_lm knows of."""
    padding = getattr(cache[0], "left_padding", None) if cache else None
    return None if padding is None else (mx.arange(embeds.shape[1]) >= padding[:, None]).astype(mx.int32)


def _merge(
    model: "Model | BaseModel",
    embeds: mx.array,
    types: mx.array,
    pixels: dict[int, mx.array],
    grids: dict[int, mx.array],
    complete: bool,
) -> mx.array:
    """Embeddings (B, L, D) with the features of pictures in the place of their tokens.

    complete: every picture's token needs a feature; otherwise those without pixels are in the embeddings already.
    """
    rows = feature_rows(types)
    for kind, name in NAMES.items():
        tokens = int((types == kind).sum())
        if kind not in pixels:
            if complete and tokens:
                raise _mismatch(name, tokens, 0)
            continue
        features = _tower_features(model, pixels[kind], grids[kind])
        if features.shape[0] != tokens:
            raise _mismatch(name, tokens, features.shape[0])
        own = features[mx.maximum(rows, 0) % tokens].astype(embeds.dtype)
        embeds = mx.where((types == kind)[..., None], own, embeds)
    return embeds


def _mismatch(name: str, tokens: int, features: int) -> InputError:
    return InputError(
        f"{name.capitalize()} features and {name} tokens do not match: tokens {tokens}, features {features}. "
        "Take tokens and pixels from one call of the processor."
    )


class Model(nn.Module):
    """Vision tower, decoder and head."""

    kind: Literal["generator"] = "generator"
    modalities = ("text", "image", "video")
    towers = TOWERS
    padded_axes = PADDED_AXES
    sanitize = sanitize_weights
    quant_predicate = is_quantizable
    cast_predicate = is_castable

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config.vision_config)
        self.language_model = LanguageModel(config, has_head=True)

    def __call__(
        self,
        input_ids: mx.array | None = None,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        cache: Sequence[Cache] | None = None,
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
    ) -> CausalLMOutput:
        """Tokens (B, L), or their embeddings (B, L, D), with pictures and videos among them -> CausalLMOutput.

        attention_mask: (B, L), 1 = real, padding on either side. position_ids: (3, B, L) in time, rows and columns,
        or (B, L); needed where the cache, a list with one of mlx_lm's for each layer, has tokens already.
        mm_token_type_ids: 0 text, 1 image, 2 video; needed with both kinds. labels: (B, L), the tokens themselves,
        -100 where they do not count. logits_to_keep: so many of the last tokens get logits, 0 all, or those at these
        indices. Raises InputError for arguments that do not fit together.
        """
        pictures = {IMAGE: (pixel_values, image_grid_thw), VIDEO: (pixel_values_videos, video_grid_thw)}
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        decoded = run(
            self, input_ids, attention_mask, position_ids, cache, inputs_embeds, pictures, mm_token_type_ids, extras
        )
        hidden = decoded.last_hidden_state
        if isinstance(logits_to_keep, mx.array):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        if labels is not None and hidden.shape != decoded.last_hidden_state.shape:
            raise InputError("A loss needs the logits of all tokens. Leave out labels, or logits_to_keep.")
        logits = self.language_model.logits(hidden)
        return CausalLMOutput(
            loss=None if labels is None else _next_token_loss(logits, labels),
            logits=logits,
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            rope_deltas=decoded.rope_deltas,
        )

    def request(self, **batch: mx.array) -> Any:
        """A batch of the processor on its way through this model, as mlx_lm's token loop takes it: `Request`."""
        from mlx_mm.models.glm4v.request import Request  # which imports this file

        return Request(self, **batch)

    def get_image_features(self, pixel_values: mx.array, image_grid_thw: mx.array) -> list[mx.array]:
        """(N, 1176) and (images, 3) -> (tokens, D) for each image."""
        return picture_features(self, pixel_values, image_grid_thw)

    def get_video_features(self, pixel_values_videos: mx.array, video_grid_thw: mx.array) -> list[mx.array]:
        """(N, 1176) and (videos, 3) -> (tokens, D) for each video."""
        return picture_features(self, pixel_values_videos, video_grid_thw)


class BaseModel(nn.Module):
    """Vision tower and decoder, without a head; it cannot answer."""

    kind: Literal["generator"] = "generator"
    modalities = ("text", "image", "video")
    towers = TOWERS
    padded_axes = PADDED_AXES
    sanitize = sanitize_weights
    quant_predicate = is_quantizable
    cast_predicate = is_castable

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config.vision_config)
        self.language_model = LanguageModel(config, has_head=False)

    def __call__(
        self,
        input_ids: mx.array | None = None,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        cache: Sequence[Cache] | None = None,
        inputs_embeds: mx.array | None = None,
        pixel_values: mx.array | None = None,
        image_grid_thw: mx.array | None = None,
        pixel_values_videos: mx.array | None = None,
        video_grid_thw: mx.array | None = None,
        mm_token_type_ids: mx.array | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """The arguments of `Model` -> DecoderOutput."""
        pictures = {IMAGE: (pixel_values, image_grid_thw), VIDEO: (pixel_values_videos, video_grid_thw)}
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return run(
            self, input_ids, attention_mask, position_ids, cache, inputs_embeds, pictures, mm_token_type_ids, extras
        )

    def request(self, **_batch: mx.array) -> Any:
        """Raises ModalityError: there is no head to answer with."""
        raise ModalityError(
            "This checkpoint has no head, so it cannot answer. Use one saved as …ForConditionalGeneration."
        )

    def get_image_features(self, pixel_values: mx.array, image_grid_thw: mx.array) -> list[mx.array]:
        """(N, 1176) and (images, 3) -> (tokens, D) for each image."""
        return picture_features(self, pixel_values, image_grid_thw)

    def get_video_features(self, pixel_values_videos: mx.array, video_grid_thw: mx.array) -> list[mx.array]:
        """(N, 1176) and (videos, 3) -> (tokens, D) for each video."""
        return picture_features(self, pixel_values_videos, video_grid_thw)


def _next_token_loss(logits: mx.array, labels: mx.array) -> mx.array:
    """Mean cross-entropy of each token's logits (B, L, V) with the token after it."""
    wanted = labels[:, 1:]
    counted = wanted != IGNORED_LABEL
    losses = nn.losses.cross_entropy(logits[:, :-1].astype(mx.float32), mx.where(counted, wanted, 0))
    return mx.where(counted, losses, 0).sum() / counted.sum()


ARCHITECTURES = {
    "": Model,
    "Glm46VForConditionalGeneration": Model,
    "Glm4vForConditionalGeneration": Model,
    "Glm4vMoeForConditionalGeneration": Model,
    "Glm46VModel": BaseModel,
    "Glm4vModel": BaseModel,
    "Glm4vMoeModel": BaseModel,
}
