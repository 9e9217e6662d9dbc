"""A chat that goes on: its messages, and what the model has computed of them."""

from __future__ import annotations

import base64
import contextlib
import inspect
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.errors import InputError, shown
from mlx_mm.generate import (
    PICTURE_AXES,
    VIDEO_AXES,
    GenerateOptions,
    Images,
    Videos,
    cache_limits,
    stream_generate,
)
from mlx_mm.generation.answer import Generation, Pieces, join
from mlx_mm.generation.prompt_cache import PromptCache
from mlx_mm.generation.shared import Shared
from mlx_mm.models.contracts import Model, Processor
from mlx_mm.models.modalities import check_loaded
from mlx_mm.processing.arguments import listed
from mlx_mm.processing.chat import check_tools, fill_media

if TYPE_CHECKING:
    from typing_extensions import Unpack


ONE_AT_A_TIME = "Expected one question at a time; give each thread a Conversation, or wait for the last piece."


class Conversation:
    """Asks a model again and again; of each turn only what is new runs, and images go through the model once.

    system: what the model is told before everything. messages: how it began, in the OpenAI shape; the list grows here
    and may be changed between turns, such as by a message of role "tool". tools, max_kv_size, kv_bits: as in
    `generate`. An image given by its path or URL is read again in each turn, and must stay the same.
    """

    def __init__(
        self,
        model: Model,
        processor: Processor,
        *,
        system: str | None = None,
        messages: Iterable[Mapping[str, object]] | None = (),
        tools: Sequence[Mapping[str, object]] | None = None,
        max_kv_size: int | None = None,
        kv_bits: int | None = None,
    ) -> None:
        check_loaded(model, processor)
        if system is not None and not isinstance(system, str):
            raise InputError(f"system is {shown(system)}; expected str. Leave it out for none.")
        self.messages: list[dict[str, object]] = [] if system is None else [{"role": "system", "content": system}]
        for index, message in enumerate(listed(messages)):
            if not isinstance(message, Mapping):
                raise InputError(
                    f'messages[{index}] is {shown(message)}; expected {{"role", "content"}}. Pass a list of such.'
                )
            self.messages.append(dict(message))
        self._model, self._processor, self._tools = model, processor, check_tools(tools)
        self._max_kv_size, self._kv_bits = cache_limits(max_kv_size, kv_bits)
        self._cache = PromptCache()
        self._running: _Answer | None = None
        self._asking = threading.Lock()

    def ask(
        self, text: str | None, *, images: Images = (), videos: Videos = (), **options: Unpack[GenerateOptions]
    ) -> Pieces:
        """The answer in pieces, as of `stream_generate`; it becomes a message when the last one is taken.

        options: those of `generate` that `GenerateOptions` lists. images, videos: belong to the text, or fill parts of
        the messages that have no source, where there are any. text: None answers the messages as they stand. An
        answer that is left or interrupted in the middle is kept as far as it came, by `close` of what is returned or
        the next question at the latest; where it had not come to words, the question is taken back with it, as after
        an error. Raises what `stream_generate` does, and then too the conversation is as before. Any thread may take
        pieces; InputError where another one asks meanwhile, for whichever of the two comes later.
        """
        with self._asking:
            self.settle()
            self._running = _Answer(self._ask(text, images, videos, options))
            return Shared(self._running.taken())

    def settle(self) -> None:
        """End an answer that was left in the middle; InputError while another thread takes a piece of it."""
        if self._running is not None:
            self._running.end()
            self._running = None

    def _ask(self, text: str | None, images: Images, videos: Videos, options: GenerateOptions) -> Pieces:
        before = list(self.messages)
        pieces: list[Generation] = []
        try:
            new_images, new_videos = self._fill(listed(images, PICTURE_AXES), listed(videos, VIDEO_AXES))
            if text is not None:
                self.messages.append(_question(text, new_images, new_videos))
            elif new_images or new_videos:
                raise InputError("Images or videos are given, and text is None; expected text with them. Pass text=.")
            stream = stream_generate(
                self._model,
                self._processor,
                self.messages,
                tools=self._tools,
                cache=self._cache,
                max_kv_size=self._max_kv_size,
                kv_bits=self._kv_bits,
                **options,
            )
            with contextlib.closing(stream):
                for piece in stream:
                    pieces.append(piece)
                    yield piece
        finally:
            answer = join(pieces)
            if answer.finish_reason or answer.text or answer.tool_calls:
                self.messages.append(self._said(answer))
            else:
                self.messages[:] = before

    def _fill(self, images: Sequence[object], videos: Sequence[object]) -> tuple[Sequence[object], Sequence[object]]:
        """Put them into the parts of messages that have no source, and return those for which there are none."""
        if not self.messages:
            return images, videos
        filled, images = fill_media(self.messages, "image", images)
        filled, videos = fill_media(filled, "video", videos)
        self.messages[:] = [dict(message) for message in filled]
        return images, videos

    def _said(self, answer: Generation) -> dict[str, object]:
        """An answer as a message, in which no word of it can be taken for a marker."""
        assert self._processor.kind == "chat"  # or there would be no answer
        safe = self._processor.without_markers
        message: dict[str, object] = {"role": "assistant", "content": safe(answer.text)}
        if answer.reasoning:
            message["reasoning_content"] = safe(answer.reasoning)
        if answer.tool_calls:
            named = [(call, call["function"]) for call in answer.tool_calls]
            message["tool_calls"] = [
                {**call, "function": {"name": safe(function["name"]), "arguments": safe(function["arguments"])}}
                for call, function in named
            ]
        return message

    def save(self, path: str | Path) -> None:
        """Write messages and computed tokens to one file, for `load`; what stood there stays until it is complete.

        Images are kept by their path or URL, bytes as they are. Raises InputError for images of other kinds.
        """
        self.settle()
        self._cache.save(path, about={"messages": json.dumps(self.messages, default=_plain)})

    def load(self, path: str | Path) -> None:
        """Go on with what `save` wrote, in the place of what was said here; InputError for another model's file."""
        self.settle()
        cache, about = PromptCache.load(path, self._model)
        if "messages" not in about:
            raise InputError(f"{path} has no messages; expected a conversation that was saved. Name another file.")
        self.messages, self._cache = json.loads(about["messages"]), cache


class _Answer:
    """The pieces of an answer, which one thread may take at a time, and another may end."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._asker = threading.get_ident()
        self._taken_away = False

    def taken(self) -> Pieces:
        """The pieces; InputError where another thread ended them."""
        try:
            yield from self._pieces
        finally:
            self._pieces.close()
        if self._taken_away:
            raise InputError("Another thread has asked meanwhile, which ended this answer. " + ONE_AT_A_TIME)

    def end(self) -> None:
        """Take no more pieces."""
        unfinished = inspect.getgeneratorstate(self._pieces) != inspect.GEN_CLOSED
        try:
            self._pieces.close()
        except ValueError as error:
            if inspect.getgeneratorstate(self._pieces) != inspect.GEN_RUNNING:
                raise
            raise InputError("Another thread is taking the last answer. " + ONE_AT_A_TIME) from error
        self._taken_away = unfinished and self._asker != threading.get_ident()


def _question(text: str, images: Sequence[object], videos: Sequence[object]) -> dict[str, object]:
    parts: list[dict[str, object]] = [{"type": "image", "image": image} for image in images]
    parts += [{"type": "video", "video": video} for video in videos]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def _plain(value: object) -> str:
    """What JSON has no form for."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, bytes):
        return f"data:application/octet-stream;base64,{base64.b64encode(value).decode()}"
    raise InputError(
        f"The conversation holds a {type(value).__name__}, which cannot be saved; expected pictures by path, URL or "
        "bytes. Ask with one of those."
    )
