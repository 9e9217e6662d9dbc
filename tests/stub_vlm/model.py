"""A decoder of a few layers; what is unusual: its images are one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from mlx_mm.models.stub_vlm.config import PATCH_DIMS, VOCABULARY, ModelConfig
from mlx_mm.models.stub_vlm.request import Request

from mlx_mm.generation.request import LayerCache
from mlx_mm.layers.attention import attend, merge_heads, split_heads
from mlx_mm.models.contracts import Modality
from mlx_mm.processing.batch import Batch


class Layer(nn.Module):
    """Attention with rotary positions, and a residual."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = nn.RMSNorm(config.hidden_size)
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array, cache: LayerCache) -> mx.array:
        q, k, v = (split_heads(part, self.num_heads) for part in mx.split(self.qkv_proj(self.norm(x)), 3, axis=-1))
        place = cache.offset
        q, k = (mx.fast.rope(y, y.shape[-1], traditional=False, base=1e4, scale=1.0, offset=place) for y in (q, k))
        return x + self.o_proj(merge_heads(attend(q, *cache.update_and_fetch(k, v), "causal")))


class Decoder(nn.Module):
    """Bytes to logits."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, config.hidden_size)
        self.layers = [Layer(config) for _ in range(config.num_layers)]
        self.lm_head = nn.Linear(config.hidden_size, VOCABULARY, bias=False)

    def __call__(self, embeds: mx.array, cache: Sequence[LayerCache]) -> mx.array:
        for layer, its_cache in zip(self.layers, cache, strict=True):
            embeds = layer(embeds, its_cache)
        return self.lm_head(embeds)


class Model(nn.Module):
    """Images to embeddings, and a decoder over them."""

    kind: Literal["generator"] = "generator"
    modalities: tuple[Modality, ...] = ("text", "image")
    towers = {"text": ("language_model.",), "image": ("vision_tower.",)}  # noqa: RUF012
    padded_axes = ()
    group = None

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.vision_tower = nn.Linear(PATCH_DIMS, config.hidden_size)
        self.language_model = Decoder(config)

    def request(self, batch: Batch) -> Request:
        return Request(self.vision_tower, self.language_model, batch)

    def modules_for(self, modality: Modality) -> tuple[nn.Module | None, ...]:
        return (self.language_model if modality == "text" else self.vision_tower,)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return {name.removeprefix("stub."): weight for name, weight in weights.items()}

    def restore(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return {f"stub.{name}": weight for name, weight in weights.items()}

    def quant_predicate(self, _path: str, _module: nn.Module) -> bool:
        return True

    def cast_predicate(self, _path: str) -> bool:
        return True


ARCHITECTURES = {"": Model, "StubForConditionalGeneration": Model}
