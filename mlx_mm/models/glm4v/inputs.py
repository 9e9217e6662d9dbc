"""What a run of the decoder takes, whether of whole prompts or of a piece of one: embeddings, positions and the mask.

A cache tells how many tokens it has. mlx_lm's caches of single prompts, and `BatchKVCache`, count them in Python. Other
caches of batches count them on the device alone: reading that is the one thing here that waits for the device.
"""

from collections.abc import Sequence
from typing import cast

import mlx.core as mx
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import BatchKVCache

from mlx_mm.errors import InputError
from mlx_mm.generation.request import LayerCache
from mlx_mm.layers.attention import Mask
from mlx_mm.models.glm4v.positions import Layout


def read_whole(array: mx.array) -> list[list[int]]:
    """The numbers of an array (n, m) that somebody passed, such as token ids; waits for them."""
    return cast(list[list[int]], array.tolist())


def position_table(layout: Layout) -> mx.array:
    """(3, B, L): time, row and column. The array is there at once, and so belongs to no thread's stream."""
    axes = [[[place[axis] for place in row] for row in layout.positions] for axis in range(3)]
    return mx.array(axes, mx.int32)


def merge_features(embeds: mx.array, places: Sequence[int], features: mx.array) -> mx.array:
    """Embeddings (B, L, D), those at `places` (b·L + l, in order) replaced by features (len(places), D)."""
    if not places:
        return embeds
    batch, length, dims = embeds.shape
    sources = list(range(batch * length))
    for number, place in enumerate(places):
        sources[place] = batch * length + number
    rows = mx.concatenate([embeds.reshape(-1, dims), features.astype(embeds.dtype)])
    return rows[mx.array(sources)].reshape(batch, length, dims)


def tokens_before(cache: Sequence[LayerCache] | None) -> int:
    """How many tokens, with padding, the cache has seen."""
    if not cache:
        return 0
    first = cache[0]
    if isinstance(first.offset, int):
        return first.offset
    if isinstance(first, BatchKVCache):
        return first.size()
    return max(cast(list[int], (first.offset + _padding(first)).tolist()))


def padding_of(cache: Sequence[LayerCache] | None) -> list[int] | None:
    """How many tokens at the left of each row are padding, where a cache of mlx_lm for batches knows it."""
    if not cache or isinstance(cache[0].offset, int):
        return None
    return cast(list[int], _padding(cache[0]).tolist())  # as it was given to the cache, so there is nothing to wait for


def _padding(cache: LayerCache) -> mx.array:
    return cast(BatchKVCache, cache).left_padding


def attention_mask_for(
    embeds: mx.array,
    attention_mask: mx.array | None,
    cache: Sequence[LayerCache] | None,
    *,
    as_array: bool = False,
) -> Mask:
    """What tokens (B, L, D) see: those before them that are not padding.

    attention_mask: (B, S), non-zero = real, of all tokens, those in the cache too; None where there is no padding, or
    the cache knows of it. as_array: not the word "causal".
    """
    own = cache[0] if cache else None
    if attention_mask is None:
        bare = own is None and not as_array
        return "causal" if bare else create_attention_mask(embeds, own, return_array=as_array)
    length, past = embeds.shape[1], tokens_before(cache)
    if attention_mask.shape != (embeds.shape[0], past + length):
        raise InputError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected {(embeds.shape[0], past + length)}, the "
            "tokens in the cache and the new ones."
        )
    keys = (attention_mask != 0)[:, None, None, :]
    # Padding sees itself: a row without any key would give numbers that are none.
    itself = mx.arange(past + length) == mx.arange(past, past + length)[:, None]
    causal: mx.array | None = create_attention_mask(embeds, own, return_array=True)
    return (keys if causal is None else causal & keys) | itself
