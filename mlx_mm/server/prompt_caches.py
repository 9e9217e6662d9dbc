"""What models have computed of prompts that ended, for those that begin alike, within a bound of bytes."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_mm.generation.prompt_cache import PromptCache

MOST = 64  # caches: each prompt is held against all
LEAST_SHARE = 0.5  # of a cache that a prompt must begin with: for less, a conversation that may go on is not given up


class PromptCaches:
    """Caches of prompts, the most recent last. Whoever takes one has it alone, and nothing is copied."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: list[tuple[str, PromptCache, int]] = []
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values that are kept."""
        return sum(size for _, _, size in self._kept)

    def take(self, model: str, keys: Sequence[int]) -> PromptCache:
        """The one that shares the longest beginning with a prompt of these keys, or an empty one."""
        best, place = 0, None
        for index, (name, cache, _) in enumerate(self._kept):
            if name == model:
                common = shared(cache.keys, keys)
                if common >= max(best, LEAST_SHARE * len(cache)) and common > 0:
                    best, place = common, index
        return PromptCache() if place is None else self._kept.pop(place)[1]

    def put(self, model: str, cache: PromptCache) -> None:
        """Keep a cache, and forget the oldest where there are too many; one that is too large is not kept."""
        size = bytes_of(cache)
        if not cache.keys or size > self._most:
            return
        self._kept.append((model, cache, size))
        while self.nbytes > self._most or len(self) > MOST:
            del self._kept[0]
            self.evicted += 1

    def drop(self, model: str) -> None:
        """Forget those of a model whose weights are given back: another load of it would not know them."""
        self._kept = [kept for kept in self._kept if kept[0] != model]

    def clear(self) -> None:
        """Forget all."""
        self._kept = []


def bytes_of(cache: PromptCache) -> int:
    """Of its keys and values, with the room behind them."""
    return sum(getattr(layer, "nbytes", 0) for layer in cache.layers)


def shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many numbers two lists begin with that are the same."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))
