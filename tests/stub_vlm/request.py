"""A prompt on its way through the stub."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn
from mlx_mm.models.stub_vlm.config import IMAGE, IMAGE_TOKENS

from mlx_mm.backend.border import to_mlx
from mlx_mm.generation.request import LayerCache
from mlx_mm.processing.batch import Batch

if TYPE_CHECKING:
    from mlx_mm.models.stub_vlm.model import Decoder


class Request:
    """Holds the images of one prompt."""

    def __init__(self, tower: nn.Module, decoder: Decoder, batch: Batch):
        self.left_padding = [0]
        self._decoder = decoder
        self._ids: list[int] = batch["input_ids"][0].tolist()
        self._images = batch.get("pixel_values")
        self._features: mx.array | None = None
        if self._images is not None:
            self._features = tower(to_mlx({"x": self._images})["x"]).flatten(0, 1)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self._decoder.layers

    def token_keys(self) -> list[int]:
        keys, place = list(self._ids), 0
        for index, token in enumerate(self._ids):
            if token == IMAGE and self._images is not None:
                keys[index] = -1 - zlib.crc32(self._images[place // IMAGE_TOKENS].tobytes())
                place += 1
        return keys

    def __call__(self, input_ids: mx.array, cache: Sequence[LayerCache] | None = None) -> mx.array:
        assert cache is not None
        start, embeds = cache[0].offset, self._decoder.embed_tokens(input_ids)
        assert isinstance(start, int)
        if self._features is not None:
            count, rows = self._ids[:start].count(IMAGE), list(embeds[0])
            for index, token in enumerate(self._ids[start : start + len(rows)]):
                if token == IMAGE:
                    rows[index], count = self._features[count], count + 1
            embeds = mx.stack(rows)[None]
        return self._decoder(embeds, cache)[:, -1:]
