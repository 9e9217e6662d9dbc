"""Answers in words, at once or as they come."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from tqdm import tqdm

from mlx_mm.backend.memory import wired_memory
from mlx_mm.embed import to_mlx
from mlx_mm.errors import InputError
from mlx_mm.generation.listener import Listener, Said
from mlx_mm.generation.prompt_cache import PromptCache, token_keys
from mlx_mm.generation.sampling import make_processors, make_sampler, resolve
from mlx_mm.models.modalities import require_generator
from mlx_mm.processing.answer import THINK, scale_boxes

Prompt = str | Sequence[Mapping[str, Any]]
CACHE_BITS = (4, 8)
TAIL = 4  # tokens of a prompt among which it can open a think block


@dataclass(frozen=True)
class Generation:
    """An answer, or while it is streamed what a token adds to it.

    Of the pieces of a stream, text, reasoning, tool_calls and raw are what is new and add up to the whole, so that
    printing every text shows the answer once; a piece may add nothing. Numbers are those so far. The last piece has
    finish_reason and the boxes.

    text: without markers and reasoning. reasoning: None where there is none. tool_calls: in the OpenAI shape.
    finish_reason: "stop", "length" (max_tokens, or the model's context, is used up) or "tool_calls"; None before the
    end. raw: with all markers, up to the end token. prompt_tokens: with pictures; cached_tokens of them were not run
    again. prompt_tps, generation_tps: tokens per second. peak_memory: of the process, in GB.
    boxes: [x1, y1, x2, y2] in thousandths of width and height. pixel_boxes: the same in pixels of the picture as it was
    given, where there is exactly one; `mlx_mm.processing.answer.scale_boxes` makes them for others.
    """

    text: str = ""
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    raw: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    prompt_tps: float = 0.0
    generation_tps: float = 0.0
    peak_memory: float = 0.0
    boxes: list[list[float]] = field(default_factory=list)
    pixel_boxes: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """A prompt that is ready to run."""

    model: Any
    batch: dict[str, Any]
    cache: PromptCache
    listener: Listener
    sizes: Callable[[], list[tuple[int, int]]]
    sampler: Any
    sampling: Any
    defaults: Any
    max_tokens: int
    thinking_budget: int | None
    thinking_open: bool
    prefill_step_size: int
    max_kv_size: int | None
    kv_bits: int | None
    progress: bool


def generate(
    model: Any,
    processor: Any,
    prompt: Prompt,
    *,
    images: Any = (),
    videos: Any = (),
    max_tokens: int = 512,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    enable_thinking: bool | None = None,
    thinking_budget: int | None = None,
    stop: str | Sequence[str] = (),
    tools: Sequence[Mapping[str, Any]] | None = None,
    max_kv_size: int | None = None,
    kv_bits: int | None = None,
    prefill_step_size: int = 2048,
    fps: float | None = None,
    max_pixels: int | None = None,
    cache: PromptCache | None = None,
    progress: bool = False,
) -> Generation:
    """The answer to a prompt with pictures and videos.

    prompt: what a user says, or a list of chat messages in the OpenAI shape. images, videos: stand before the text of
    the last message of the user; messages may also hold them as parts.
    max_tokens: of the answer with its reasoning; less, where the model's context ends before.
    temperature, top_p, top_k, min_p, repetition_penalty: None leaves what the checkpoint's generation_config.json
    says; at temperature 0, also where that file says nothing, the likeliest token is taken. The penalty counts all
    tokens of prompt and answer. seed: the same one gives the same answer.
    enable_thinking: False answers at once, None leaves it to the model. thinking_budget: tokens of reasoning after
    which it is closed. stop: strings before which the answer (not the reasoning) ends. tools: function schemas in the
    OpenAI shape.
    max_kv_size: tokens that are kept in memory; older ones are forgotten. kv_bits: 4 or 8, for a smaller memory of
    them. prefill_step_size: tokens of a prompt at a time. fps: of frames without a rate. max_pixels: of a picture,
    or of a frame. cache: tokens that the prompt shares with it are not run again, and it is brought up to date.
    progress: show a bar on stderr while the prompt is read.
    Raises ModalityError for a model that does not answer, InputError, MediaError.
    """
    return join(
        stream_generate(
            model,
            processor,
            prompt,
            images=images,
            videos=videos,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            enable_thinking=enable_thinking,
            thinking_budget=thinking_budget,
            stop=stop,
            tools=tools,
            max_kv_size=max_kv_size,
            kv_bits=kv_bits,
            prefill_step_size=prefill_step_size,
            fps=fps,
            max_pixels=max_pixels,
            cache=cache,
            progress=progress,
        )
    )


def stream_generate(
    model: Any,
    processor: Any,
    prompt: Prompt,
    *,
    images: Any = (),
    videos: Any = (),
    max_tokens: int = 512,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    enable_thinking: bool | None = None,
    thinking_budget: int | None = None,
    stop: str | Sequence[str] = (),
    tools: Sequence[Mapping[str, Any]] | None = None,
    max_kv_size: int | None = None,
    kv_bits: int | None = None,
    prefill_step_size: int = 2048,
    fps: float | None = None,
    max_pixels: int | None = None,
    cache: PromptCache | None = None,
    progress: bool = False,
) -> Iterator[Generation]:
    """The same piece by piece, one for each token and one at the end; see `Generation` for what a piece holds.

    Arguments are checked and pictures read here, before the first piece is asked for.
    """
    require_generator(model)
    _check_counts(max_tokens, prefill_step_size, thinking_budget, max_kv_size, kv_bits)
    defaults = processor.defaults
    if kv_bits is not None and defaults.kv_group_size is None:
        raise InputError("kv_bits is given, and this model's heads have no size that can be quantised. Leave it out.")
    if thinking_budget is not None and defaults.think_ids is None:
        raise InputError("thinking_budget is given, and this model's tokenizer does not know <think>. Leave it out.")
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    sampling = resolve(defaults.sampling, {**given, "repetition_penalty": repetition_penalty})
    messages = prompt
    if isinstance(prompt, str):  # messages can hold pictures themselves
        messages = [{"role": "user", "content": prompt}]
        refuse_idle(images, videos, max_pixels, fps)
    pictures = {} if max_pixels is None else {"max_pixels": max_pixels}
    batch = processor.chat(
        messages, images=images, videos=videos, tools=tools, enable_thinking=enable_thinking, fps=fps, **pictures
    )
    ids = batch["input_ids"][0].tolist()
    thinking_open = processor.decode(ids[-TAIL:], skip_special_tokens=False).rstrip().endswith(THINK)

    def decode(ids: list[int]) -> str:
        text: str = processor.decode(ids, skip_special_tokens=False)
        return text

    job = _Job(
        model=model,
        batch=batch,
        cache=PromptCache() if cache is None else cache,
        listener=Listener(decode, stop, thinking_open=thinking_open, tools=tools),
        sizes=lambda: processor.image_sizes(messages, images=images),
        sampler=make_sampler(sampling, seed),
        sampling=sampling,
        defaults=defaults,
        max_tokens=_room(max_tokens, len(ids), defaults.context_length),
        thinking_budget=thinking_budget,
        thinking_open=thinking_open,
        prefill_step_size=prefill_step_size,
        max_kv_size=max_kv_size,
        kv_bits=kv_bits,
        progress=progress,
    )
    return _run(job)


def join(pieces: Iterable[Generation]) -> Generation:
    """The whole of the pieces of a stream, or of its beginning."""
    parts = list(pieces)
    last = parts[-1] if parts else Generation()
    whole = {name: "".join(getattr(part, name) or "" for part in parts) for name in ("text", "reasoning", "raw")}
    calls = [call for part in parts for call in part.tool_calls]
    counts = {name: getattr(last, name) for name in ("prompt_tokens", "cached_tokens", "generation_tokens")}
    speeds = {name: getattr(last, name) for name in ("prompt_tps", "generation_tps", "peak_memory")}
    return Generation(
        text=whole["text"],
        reasoning=whole["reasoning"] or None,
        raw=whole["raw"],
        tool_calls=calls,
        finish_reason=last.finish_reason,
        boxes=last.boxes,
        pixel_boxes=last.pixel_boxes,
        **counts,
        **speeds,
    )


def _run(job: _Job) -> Iterator[Generation]:
    from mlx_lm.generate import generate_step, generation_stream

    request, cache = job.model.request(**to_mlx(job.batch)), job.cache
    ids, keys = job.batch["input_ids"][0].tolist(), token_keys(job.batch)
    layers = cache.begin(job.model, request, keys, max_kv_size=job.max_kv_size, kv_bits=job.kv_bits)
    start = len(cache)
    bar = tqdm(total=len(ids) - start, desc="prompt", unit="token", leave=False, disable=not job.progress)

    def advance(done: int, _total: int) -> None:
        cache.keys[start:] = keys[start : start + done]
        bar.update(done - bar.n)

    think = job.defaults.think_ids
    steps: Any = generate_step(
        mx.array(ids[start:]),
        request,
        max_tokens=job.max_tokens,
        sampler=job.sampler,
        logits_processors=make_processors(
            job.sampling, ids[:start], len(ids) - start, think, job.thinking_budget, job.thinking_open
        ),
        prompt_cache=layers,
        prefill_step_size=job.prefill_step_size,
        kv_bits=job.kv_bits,
        kv_group_size=job.defaults.kv_group_size or 0,
        quantized_kv_start=0,
        prompt_progress_callback=advance,
    )
    clock = _Clock(len(ids), start)
    reason, called = "length", False
    try:
        with wired_memory(generation_stream):
            for token, _ in steps:
                cache.keys.append(token)
                clock.tick()
                if clock.count == 1:
                    bar.close()
                if token in job.defaults.stop_ids:
                    reason = "stop"
                    break
                said = job.listener.hear(token)
                called = called or bool(said.tool_calls)
                if job.listener.stopped:
                    reason = "stop"
                    yield clock.piece(said)
                    break
                yield clock.piece(said)
        said = job.listener.finish()
        called = called or bool(said.tool_calls)
        if job.listener.stopped:
            reason = "stop"
        reason = "tool_calls" if called and reason == "stop" else reason
        boxes = job.listener.boxes()
        yield clock.piece(said, finish_reason=reason, boxes=boxes, pixel_boxes=_in_pixels(boxes, job.sizes))
    finally:  # also where the caller stops, or an interruption comes in the middle of a step
        steps.close()
        bar.close()
        cache.cut(len(cache.keys))


def _in_pixels(boxes: list[list[float]], sizes: Callable[[], list[tuple[int, int]]]) -> list[list[float]]:
    """Boxes of the only picture; the sizes are read where there are any, because for that a URL is fetched again."""
    found = sizes() if boxes else []
    return scale_boxes(boxes, found[0][1], found[0][0]) if len(found) == 1 else []


class _Clock:
    """Counts tokens and seconds."""

    def __init__(self, prompt: int, cached: int) -> None:
        self.prompt, self.cached, self.count = prompt, cached, 0
        self._begun = self._first = time.perf_counter()

    def tick(self) -> None:
        self.count += 1
        if self.count == 1:
            self._first = time.perf_counter()

    def piece(self, said: Said, **end: Any) -> Generation:
        now = time.perf_counter()
        return Generation(
            text=said.text,
            reasoning=said.reasoning or None,
            raw=said.raw,
            tool_calls=said.tool_calls,
            prompt_tokens=self.prompt,
            cached_tokens=self.cached,
            generation_tokens=self.count,
            prompt_tps=(self.prompt - self.cached) / max(self._first - self._begun, 1e-9),
            generation_tps=(self.count - 1) / (now - self._first) if self.count > 1 and now > self._first else 0.0,
            peak_memory=mx.get_peak_memory() / 1e9,
            **end,
        )


def refuse_idle(images: Any, videos: Any, max_pixels: int | None, fps: float | None) -> None:
    """Raise InputError where a question without pictures or videos comes with a setting of them."""
    given = any(not isinstance(items, list | tuple) or items for items in (images, videos))
    if max_pixels is not None and not given:
        raise InputError(f"max_pixels is {max_pixels}, and there is no picture or video. Pass one, or leave it out.")
    if fps is not None and isinstance(videos, list | tuple) and not videos:
        raise InputError(f"fps is {fps}, and there is no video. Pass one, or leave it out.")


def _room(max_tokens: int, prompt: int, limit: int) -> int:
    """Tokens that an answer may have."""
    if prompt >= limit:
        raise InputError(
            f"The prompt has {prompt} tokens, all that this model has positions for; expected room for an answer. "
            "Shorten it, or pass fewer pictures or a lower max_pixels."
        )
    return min(max_tokens, limit - prompt)


def _check_counts(
    max_tokens: Any, prefill_step_size: Any, thinking_budget: Any, max_kv_size: Any, kv_bits: Any
) -> None:
    counts = {"max_tokens": max_tokens, "prefill_step_size": prefill_step_size, "max_kv_size": max_kv_size}
    for name, value in {**counts, "thinking_budget": thinking_budget}.items():
        if value is None and name in ("max_kv_size", "thinking_budget"):
            continue
        least = {"thinking_budget": 0, "max_kv_size": 8}.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} is {value!r}; expected a whole number of {least} or more. Leave it out.")
    if kv_bits is not None and kv_bits not in CACHE_BITS:
        raise InputError(f"kv_bits is {kv_bits!r}; expected 4 or 8. Leave it out to keep the cache exact.")
    if kv_bits is not None and max_kv_size is not None:
        raise InputError("kv_bits and max_kv_size are both given; a cache can be one of both. Leave one out.")
