"""Small GLM checkpoints that answer what a test wants them to, through the real model and its caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

Hook = Callable[[int], None]


class Scripted:
    """A request that says given tokens whatever was asked, then <|endoftext|>; its caches fill as usual.

    hook: called with the tokens of the answer that the cache has, after each step; -1 and below in a prompt.
    """

    def __init__(self, request: Any, tokens: list[int], hook: Hook | None = None) -> None:
        self.request, self.tokens, self.hook = request, tokens, hook

    @property
    def layers(self) -> Any:
        return self.request.layers

    def token_keys(self) -> list[int]:
        return self.request.token_keys()

    def __call__(self, input_ids: mx.array, cache: Any) -> mx.array:
        logits = self.request(input_ids, cache=cache)
        done = cache[0].offset - self.request.prompt_length
        if self.hook is not None:
            self.hook(done)
        token = self.tokens[done] if 0 <= done < len(self.tokens) else 0
        return mx.where(mx.arange(logits.shape[-1]) == token, 100.0, 0 * logits)


def script(model: Any, processor: Any, *answers: str | list[int], hook: Hook | None = None) -> Any:
    """The model itself, which now gives these answers one after the other, and then the last again."""
    left = [answer if isinstance(answer, list) else processor.tokenizer.encode_prompt(answer) for answer in answers]
    usual = type(model).request

    def request(batch: Any) -> Scripted:
        return Scripted(usual(model, batch), left.pop(0) if len(left) > 1 else left[0], hook)

    model.request = request
    return model


def picture(seed: int = 0, height: int = 90, width: int = 130) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def count_encoded(model: Any, monkeypatch: Any) -> list[int]:
    """Grows by the number of pictures whenever some go through the vision tower."""
    counts: list[int] = []
    usual = type(model.vision_tower).__call__

    def call(self: Any, pixels: mx.array, grids: Any, **options: Any) -> Any:
        counts.append(len(grids))
        return usual(self, pixels, grids, **options)

    monkeypatch.setattr(type(model.vision_tower), "__call__", call)
    return counts
