"""Features of pictures that were asked about lately: another question about one of them does not compute them again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import mlx.core as mx


class Features:
    """Those of all models, within a bound of bytes; what was used the longest ago is forgotten first.

    Arrays do not change, so whoever has taken one may keep it. Only the engine's turns call it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[tuple[str, bytes], mx.array] = OrderedDict()
        self.nbytes = self.found = 0

    def of(self, model: str) -> FeaturesOf:
        """Those of a model."""
        return FeaturesOf(self, model)

    def get(self, key: tuple[str, bytes]) -> mx.array | None:
        """Of a model's picture."""
        features = self._kept.get(key)
        if features is not None:
            self._kept.move_to_end(key)
            self.found += 1
        return features

    def put(self, key: tuple[str, bytes], features: mx.array) -> None:
        """Keep a picture's, unless they are too large."""
        if key in self._kept or features.nbytes > self._most:
            return
        own = mx.contiguous(features)  # not a part of what was computed together
        mx.eval(own)
        self._kept[key] = own
        self.nbytes += own.nbytes
        while self.nbytes > self._most:
            self.nbytes -= self._kept.popitem(last=False)[1].nbytes

    def drop(self, model: str) -> None:
        """Forget those of a model whose weights are given back."""
        for key in [key for key in self._kept if key[0] == model]:
            self.nbytes -= self._kept.pop(key).nbytes

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.nbytes = 0


@dataclass(frozen=True)
class FeaturesOf:
    """Those of one model, by a picture's key."""

    all: Features
    model: str

    def get(self, key: bytes) -> mx.array | None:
        """Of a picture."""
        return self.all.get((self.model, key))

    def put(self, key: bytes, features: mx.array) -> None:
        """Keep a picture's."""
        self.all.put((self.model, key), features)
