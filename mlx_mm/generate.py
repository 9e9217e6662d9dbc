"""Answers in words, at once or as they come."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Generator as PythonGenerator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeAlias, TypedDict, cast

import mlx.core as mx
import numpy as np

from mlx_mm.backend.memory import wired_memory
from mlx_mm.backend.streams import computing, finish
from mlx_mm.errors import InputError, LengthError, is_whole, shown, whole_number
from mlx_mm.generation.answer import Clock, Generation, Pieces, join
from mlx_mm.generation.defaults import GenerationDefaults
from mlx_mm.generation.following import request_of
from mlx_mm.generation.prompt_cache import PromptCache, StoredLayer
from mlx_mm.generation.request import Request
from mlx_mm.generation.response import Listener, scale_boxes
from mlx_mm.generation.sampling import LogitsProcessor, Sampler, make_processors, make_sampler, sampling_params
from mlx_mm.generation.shared import Shared
from mlx_mm.generation.telling import Teller
from mlx_mm.generation.token_loop import answer_tokens
from mlx_mm.models.contracts import Generator, Model, Processor
from mlx_mm.models.modalities import check_loaded, no_words, unfit
from mlx_mm.processing.arguments import Texts, listed, optional_flag, strings
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.image import ImageSource
from mlx_mm.processing.video import VideoSource
from mlx_mm.progress import Progress, check_progress, progressing

Prompt: TypeAlias = str | Sequence[Mapping[str, object]]
Images: TypeAlias = ImageSource | Iterable[ImageSource] | None
Videos: TypeAlias = VideoSource | Iterable[VideoSource] | None
Steps: TypeAlias = PythonGenerator[int, None, None]
Parameters = ParamSpec("Parameters")
CACHE_BITS = (4, 8)
LEAST_KV_SIZE = 8
PICTURE_AXES, VIDEO_AXES = 4, 5  # of an array of several pictures, or videos


class GenerateOptions(TypedDict, total=False):
    """Options of `generate` that may differ from turn to turn of a conversation."""

    max_tokens: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    enable_thinking: bool | None
    thinking_budget: int | None
    stop: Texts | None
    prefill_step_size: int
    fps: float | None
    max_pixels: int | None
    progress: Progress


def stream_generate(
    model: Model,
    processor: Processor,
    prompt: Prompt,
    *,
    images: Images = (),
    videos: Videos = (),
    max_tokens: int = 512,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    enable_thinking: bool | None = None,
    thinking_budget: int | None = None,
    stop: Texts | None = (),
    tools: Sequence[Mapping[str, object]] | None = None,
    max_kv_size: int | None = None,
    kv_bits: int | None = None,
    prefill_step_size: int = 2048,
    fps: float | None = None,
    max_pixels: int | None = None,
    cache: PromptCache | None = None,
    progress: Progress = False,
) -> Pieces:
    """What `generate` gives, piece by piece: one for each token and one at the end; see `Generation`.

    Arguments are those of `generate`. They are checked and images read here, before the first piece is asked for. Any
    thread may take pieces, and close the stream.
    """
    prefill_step_size = whole_number("prefill_step_size", prefill_step_size)
    max_kv_size, kv_bits = cache_limits(max_kv_size, kv_bits)
    check_progress(progress)
    if cache is not None and not isinstance(cache, PromptCache):
        raise InputError(f"cache is {shown(cache)}; expected a PromptCache. Leave it out to begin anew.")
    question = ask(
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
        fps=fps,
        max_pixels=max_pixels,
    )
    group_size = question.defaults.kv_group_size
    if kv_bits is not None and group_size is None:
        raise InputError(
            "kv_bits is given, and this model's heads have no size that can be quantised; expected none. Leave it out."
        )
    cache = PromptCache() if cache is None else cache
    return _run(
        _Job(
            question,
            cache,
            begin=partial(cache.begin, question.model, max_kv_size=max_kv_size, kv_bits=kv_bits),
            steps=partial(
                answer_tokens,
                max_tokens=question.max_tokens,
                sampler=question.sampler,
                prefill_step_size=prefill_step_size,
                kv_bits=kv_bits,
                kv_group_size=group_size or 0,
            ),
            progress=progress,
        )
    )


@dataclass(frozen=True)
class Question:
    """A prompt that is ready to run, and how its answer is chosen and told.

    ids: its tokens. max_tokens: of the answer. processors: those for a prompt of which so many tokens are in a cache,
    and so many are new. teller: makes what tells the answer, given a clock.
    """

    model: Generator
    defaults: GenerationDefaults
    batch: Batch
    ids: list[int]
    max_tokens: int
    sampler: Sampler
    processors: Callable[[Sequence[int], int], list[LogitsProcessor]]
    teller: Callable[[Clock], Teller]


def ask(
    model: Model,
    processor: Processor,
    prompt: Prompt,
    *,
    images: Images = (),
    videos: Videos = (),
    max_tokens: int = 512,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    enable_thinking: bool | None = None,
    thinking_budget: int | None = None,
    stop: Texts | None = (),
    tools: Sequence[Mapping[str, object]] | None = None,
    fps: float | None = None,
    max_pixels: int | None = None,
) -> Question:
    """Check what `generate` is asked for and read its media. Nothing runs yet. Arguments and errors as of that."""
    check_loaded(model, processor)
    if model.kind != "generator":
        raise no_words(model)
    if processor.kind != "chat":
        raise unfit("chats")
    max_tokens = whole_number("max_tokens", max_tokens)
    if thinking_budget is not None:
        thinking_budget = whole_number("thinking_budget", thinking_budget, least=0)
    enable_thinking = optional_flag("enable_thinking", enable_thinking)
    pictures = cast("list[ImageSource]", listed(images, PICTURE_AXES))  # read twice, and may be an iterator
    films = cast("list[VideoSource]", listed(videos, VIDEO_AXES))
    stops = [] if stop is None else strings(stop, "Stop string")[0]
    defaults = processor.defaults
    if thinking_budget is not None and defaults.think_ids is None:
        raise InputError(
            "thinking_budget is given, and this model has no tokens around its reasoning; expected none. Leave it out."
        )
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    sampling = sampling_params(defaults.sampling, {**given, "repetition_penalty": repetition_penalty})
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if isinstance(prompt, str):  # messages can hold images themselves
        refuse_idle(pictures, films, max_pixels, fps)
    batch = processor.chat(
        messages,
        images=pictures,
        videos=films,
        tools=tools,
        enable_thinking=enable_thinking,
        fps=fps,
        max_pixels=max_pixels,
    )
    ids: list[int] = batch["input_ids"][0].tolist()
    parser = processor.response(ids, tools=tools)

    def in_pixels(boxes: list[list[float]]) -> list[list[float]]:
        """Of the only image; sizes are read where there are boxes, because for that a URL is fetched again."""
        found = processor.image_sizes(messages, images=pictures) if boxes else []
        if len(found) != 1:
            return []
        return scale_boxes(boxes, found[0][1], found[0][0], box_range=parser.box_range)

    listener = Listener(partial(processor.decode, skip_special_tokens=False), parser, stops)
    return Question(
        model=model,
        defaults=defaults,
        batch=batch,
        ids=ids,
        max_tokens=_room(max_tokens, len(ids), defaults.context_length),
        sampler=make_sampler(sampling, seed),
        processors=partial(make_processors, sampling, defaults.think_ids, thinking_budget, parser.reasoning_open),
        teller=partial(Teller, listener, defaults.stop_ids, in_pixels),
    )


def _joined(stream: Callable[Parameters, Pieces]) -> Callable[Parameters, Generation]:
    """`stream`, whose pieces are joined. To readers, checkers and `inspect` it has the arguments of `stream`."""

    def generate(*args: Parameters.args, **options: Parameters.kwargs) -> Generation:
        """The answer to a prompt with images and videos.

        prompt: what a user says, or a list of chat messages in the OpenAI shape. images, videos: stand before the text
        of the last message of the user; messages may also hold them as parts. None stands for none.
        max_tokens: of the answer with its reasoning; less, where the model's context ends before.
        temperature, top_p, top_k, min_p, repetition_penalty: None leaves what the checkpoint's generation_config.json
        says; at temperature 0, also where that file says nothing, the likeliest token is taken. The penalty counts all
        tokens of prompt and answer. seed: the same one gives the same answer.
        enable_thinking: False answers at once, None leaves it to the model. thinking_budget: tokens of reasoning after
        which it is closed. stop: strings before which the answer (not the reasoning) ends; None for none. tools:
        function schemas in the OpenAI shape.
        max_kv_size: tokens that are kept in memory; older ones are forgotten. kv_bits: 4 or 8, for a smaller memory of
        them. prefill_step_size: tokens of a prompt at a time. fps: of frames without a rate. max_pixels: of an image,
        or of a frame. cache: tokens that the prompt shares with it are not run again, and it is brought up to date.
        progress: show on stderr how much of the prompt is read, or a function that is called with (tokens, total).
        Raises ModalityError for a model that does not answer, InputError, MediaError, and WeightsError where what the
        model computes is not finite.
        """
        return join(stream(*args, **options))

    generate.__qualname__ = "generate"
    signature = inspect.signature(stream).replace(return_annotation=Generation)
    setattr(generate, "__signature__", signature)  # noqa: B010  # mypy knows no such attribute
    return generate


generate = _joined(stream_generate)


@dataclass(frozen=True)
class _Job:
    """A question, and what it runs with.

    begin: makes the cache ready for a request and its keys. steps: the tokens after what is left of the prompt.
    """

    question: Question
    cache: PromptCache
    begin: Callable[[Request, Sequence[int]], list[StoredLayer]]
    steps: Callable[..., Steps]
    progress: Progress


def _run(job: _Job) -> Pieces:
    def alone() -> Pieces:
        with job.cache.taken():
            yield from _answer(job)

    return Shared(alone())


def _answer(job: _Job) -> Pieces:
    question, cache = job.question, job.cache
    ids = question.ids
    with computing():
        request = begin_request(question)
        keys = request.token_keys()
        layers = job.begin(request, keys)
        start = len(cache)
        processors = question.processors(ids[:start], len(ids) - start)
    reading, read = ExitStack(), 0
    show = reading.enter_context(progressing(job.progress, len(ids) - start, "reading the prompt", "token"))

    def advance(done: int) -> None:
        nonlocal read
        cache.keys[start:] = keys[start : start + done]
        show(done - read)
        read = done

    steps = job.steps(
        ids[start:],
        request,
        layers,
        processors=processors,
        progress=advance,
    )
    teller = question.teller(Clock(len(ids), start))
    try:
        with wired_memory(finish):
            for token in steps:
                cache.keys.append(token)
                piece = teller.take(token)
                reading.close()
                if piece is not None:
                    yield piece
                if teller.over:
                    break
        yield teller.end()
    finally:
        steps.close()
        reading.close()


def begin_request(question: Question) -> Request:
    """A question on its way through its model, all of whose weights that it needs are read. Call it in a turn."""
    pixels = any(np.issubdtype(array.dtype, np.floating) for array in question.batch.values())
    needed = question.model.modalities if pixels else ("text",)
    mx.eval([list(question.model.modules_for(modality)) for modality in needed])  # for the workers
    return request_of(question.model, question.batch)


def refuse_idle(
    images: Sequence[ImageSource], videos: Sequence[VideoSource], max_pixels: int | None, fps: float | None
) -> None:
    """Raise InputError where a question without images or videos comes with a setting of them."""
    for name, value, media, kind in (
        ("max_pixels", max_pixels, [*images, *videos], "picture or video"),
        ("fps", fps, videos, "video"),
    ):
        if value is not None and not media:
            raise InputError(
                f"{name} is {shown(value)}, and there is no {kind}; expected one with it. Pass one, or leave it out."
            )


def _room(max_tokens: int, prompt: int, limit: int) -> int:
    """Tokens that an answer may have."""
    if prompt >= limit:
        raise LengthError(
            f"The prompt has {prompt} tokens, all that this model has positions for; expected room for an answer. "
            "Shorten it, or pass fewer pictures or a lower max_pixels."
        )
    return min(max_tokens, limit - prompt)


def cache_limits(max_kv_size: int | None, kv_bits: int | None) -> tuple[int | None, int | None]:
    """Both as ints, which a saved cache is known by; InputError for those that cannot be used."""
    if max_kv_size is not None:
        max_kv_size = whole_number("max_kv_size", max_kv_size, least=LEAST_KV_SIZE)
    if kv_bits is not None and (not is_whole(kv_bits) or kv_bits not in CACHE_BITS):
        raise InputError(f"kv_bits is {shown(kv_bits)}; expected 4 or 8. Leave it out to keep the cache exact.")
    if kv_bits is not None and max_kv_size is not None:
        raise InputError(
            "kv_bits and max_kv_size are both given; expected one of them, as a cache can be one. Leave one out."
        )
    return max_kv_size, None if kv_bits is None else int(kv_bits)
