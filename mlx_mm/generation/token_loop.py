"""The tokens of an answer, each of which may be asked for by another thread."""

import math
from collections.abc import Callable, Sequence
from collections.abc import Generator as PythonGenerator
from functools import partial
from typing import cast

import mlx.core as mx

from mlx_mm.backend.streams import compute, computing, give_back_memory
from mlx_mm.errors import WeightsError
from mlx_mm.generation.prompt_cache import StoredLayer
from mlx_mm.generation.request import Request
from mlx_mm.generation.sampling import LogitsProcessor, Sampler

TOKENS_PER_CLEARING = 256  # after so many, what MLX keeps of freed arrays is given back


def answer_tokens(
    prompt: Sequence[int],
    request: Request,
    layers: list[StoredLayer],
    *,
    max_tokens: int,
    sampler: Sampler,
    processors: Sequence[LogitsProcessor],
    prefill_step_size: int,
    kv_bits: int | None,
    kv_group_size: int,
    progress: Callable[[int], None],
) -> PythonGenerator[int, None, None]:
    """The ids of the tokens that follow a prompt, up to max_tokens, each while the next one is already computed.

    layers: caches that have what comes before the prompt; afterwards they have it, and every token that was given.
    processors: change the logits (1, V) by the tokens of prompt and answer. prefill_step_size: tokens of the prompt at
    a time. progress: called with how many of them have run. Between two tokens other threads compute, if they like.
    Raises WeightsError where logits are not finite.
    """
    with computing():
        left = mx.array(list(prompt))
        seen = left[:0]

    def read(start: int, end: int) -> None:
        run(left[start:end])
        mx.eval([layer.state for layer in layers], seen)
        give_back_memory()

    def run(ids: mx.array) -> mx.array:
        nonlocal seen
        logits = request(ids[None], cache=layers)
        _quantize(layers, kv_bits, kv_group_size)
        if processors:
            seen = mx.concatenate([seen, ids])
        return logits

    def submit(ids: mx.array) -> tuple[mx.array, mx.array]:
        logits = run(ids)[:, -1, :]
        for process in processors:
            logits = process(seen, logits)
        total = mx.logsumexp(logits, keepdims=True)  # infinite or NaN where one of the logits is
        token = sampler(logits - total)
        mx.async_eval(token, total)
        return token, total

    progress(0)
    for start in range(0, len(prompt) - 1, prefill_step_size):
        end = min(start + prefill_step_size, len(prompt) - 1)
        compute(partial(read, start, end))
        progress(end)
    token, total = compute(lambda: submit(left[-1:]))
    for count in range(max_tokens):
        following = compute(partial(submit, token))
        (found,) = cast(list[int], token.tolist())
        if not math.isfinite(cast(float, total.item())):  # there already, because the token is
            raise WeightsError(
                f"The model's logits for token number {count} of the answer are not finite; expected numbers. Its "
                "weights are damaged or too large for its precision: load it with dtype='float32', or download or "
                "convert it again."
            )
        if count == 0:
            progress(len(prompt))
        yield found
        if count % TOKENS_PER_CLEARING == 0:
            compute(give_back_memory)
        token, total = following


def _quantize(layers: list[StoredLayer], bits: int | None, group_size: int) -> None:
    """Turn caches that have numbers into quantised ones, in place."""
    from mlx_lm.generate import maybe_quantize_kv_cache

    maybe_quantize_kv_cache(layers, quantized_kv_start=0, kv_group_size=group_size, kv_bits=bits)
