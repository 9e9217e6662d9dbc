"""How a token is chosen: mlx_lm's filters in the order that checkpoints' settings are made for, with a seed."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import mlx.core as mx

from mlx_mm.backend.streams import computing
from mlx_mm.errors import InputError, is_number, is_whole, shown, whole_number
from mlx_mm.generation.defaults import RANGES, SamplingParams

Sampler = Callable[[mx.array], mx.array]
LogitsProcessor = Callable[[mx.array, mx.array], mx.array]
ALL = 2**30  # tokens that a repetition penalty looks back on: all of them
COLDEST = 1e-3  # below this temperature only ties of logits could differ from the likeliest token, and overflow
BEGINNING = 2  # tokens of an answer among which it can open its reasoning; a space may come before
FILTERS = ("top_k", "top_p", "min_p")
# Those of which 0 would mean nothing
POSITIVE = ("top_p", "repetition_penalty")


def sampling_params(defaults: SamplingParams, given: Mapping[str, float | None]) -> SamplingParams:
    """The checkpoint's own with those of the caller, None of which leave its own; raises InputError.

    top_k 0, top_p 1 and a repetition_penalty of 1 turn the checkpoint's own off.
    """
    chosen: dict[str, float] = {}
    for name, value in given.items():
        if value is None:
            continue
        low, high = RANGES[name]
        numeric = is_whole(value) if name == "top_k" else is_number(value)
        if not numeric or not low <= value <= high or (value == 0 and name in POSITIVE):
            what = "a whole number" if name == "top_k" else "a number"
            ends = f"above {low}" if name in POSITIVE else f"from {low}"
            raise InputError(
                f"{name} is {shown(value)}; expected {what} {ends} to {high}. Leave it out for the model's own."
            )
        chosen[name] = int(value) if name == "top_k" else float(value)  # NumPy's are not what mlx_lm takes
    result = replace(defaults, **chosen)  # type: ignore[arg-type]
    if result.temperature == 0 and (idle := [name for name in FILTERS if name in chosen]):
        raise InputError(
            f"{idle[0]} is given, and the temperature is 0, which takes the likeliest token; expected a temperature "
            f"above 0 with it. Pass temperature=, or leave {idle[0]} out."
        )
    return result


def make_sampler(sampling: SamplingParams, seed: int | None) -> Sampler:
    """Log-probabilities (1, V) -> tokens (1,).

    As in transformers, temperature comes first, then top_k, top_p and min_p; the filters are mlx_lm's. seed: the same
    one gives the same tokens, and mlx's global generator is not touched; None: one number is drawn, in the main thread
    from that.
    """
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, greedy_sampler

    if seed is not None:
        seed = whole_number("seed", seed, least=0, most=2**64 - 1)
    if sampling.temperature < COLDEST:
        sampler: Sampler = greedy_sampler
        return sampler
    with computing():
        key = mx.random.key(seed) if seed is not None else _own_key()
        mx.eval(key)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key)
        scaled = logprobs * (1 / sampling.temperature)
        scaled = scaled - mx.logsumexp(scaled, axis=-1, keepdims=True)  # filters take exponents, which must not vanish
        if sampling.top_k and sampling.top_k < scaled.shape[-1]:
            scaled = apply_top_k(scaled, sampling.top_k)
        if sampling.top_p is not None and sampling.top_p < 1:
            scaled = apply_top_p(scaled, sampling.top_p)
        if sampling.min_p:
            scaled = apply_min_p(scaled, sampling.min_p)
        return mx.random.categorical(scaled, key=own)

    return sample


def _own_key() -> mx.array:
    """A key of the main thread from mlx's generator. Those of other threads all begin alike, and abort a process that
    ends before them; so there the system draws."""
    if threading.current_thread() is threading.main_thread():
        return mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)
    return mx.random.key(int.from_bytes(os.urandom(8), "little"))


def make_processors(
    sampling: SamplingParams,
    thinking: tuple[int, int] | None,
    budget: int | None,
    is_open: bool,
    before: Sequence[int],
    new: int,
) -> list[LogitsProcessor]:
    """What changes logits (1, V) by the tokens so far, as mlx_lm's loop calls it.

    thinking: ids that open and close reasoning. budget: tokens of reasoning after which it is closed; is_open: the
    prompt ended inside it. before: tokens of the prompt that a cache has, which the loop does not know of. new: how
    many of the prompt it knows.
    """
    from mlx_lm.sample_utils import make_repetition_penalty

    processors: list[LogitsProcessor] = []
    if sampling.repetition_penalty not in (None, 1):
        penalize = make_repetition_penalty(sampling.repetition_penalty, ALL)
        cached = mx.array(list(before), mx.int32)
        processors.append(lambda tokens, logits: penalize(mx.concatenate([cached, tokens.astype(mx.int32)]), logits))
    if budget is not None and thinking is not None:
        processors.append(_closer(*thinking, budget, new, is_open))
    return processors


def _closer(opening: int, closing: int, budget: int, new: int, is_open: bool) -> LogitsProcessor:
    """Leaves only `closing` to choose once `budget` tokens follow `opening`. Nothing here waits for a token."""

    def close(tokens: mx.array, logits: mx.array) -> mx.array:
        answer = tokens[new:]
        count = answer.shape[0]
        if count < budget or (count == 0 and not is_open):
            return logits
        opened = mx.array(answer[:BEGINNING] == opening)
        first = -1 if is_open else mx.where(opened.any(), mx.argmax(opened).astype(mx.int32), count)
        spent = mx.array(count - 1 - first >= budget)
        closed = mx.array(answer == closing).any()
        only = mx.where(mx.arange(logits.shape[-1]) == closing, logits, -mx.inf)
        return mx.where(mx.logical_and(spent, mx.logical_not(closed)), only, logits)

    return close
