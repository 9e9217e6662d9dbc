"""A chat that goes on: its messages, and what the model has computed of them."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from mlx_mm.errors import InputError
from mlx_mm.generate import Generation, join, stream_generate
from mlx_mm.generation.prompt_cache import PromptCache

if TYPE_CHECKING:
    from typing_extensions import Unpack
_SPECIAL = re.compile(r"<\|(?=\w+\|>)")


class Options(TypedDict, total=False):
    """Those of `generate` that may differ from turn to turn."""

    max_tokens: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    enable_thinking: bool | None
    thinking_budget: int | None
    stop: str | Sequence[str]
    prefill_step_size: int
    fps: float | None
    max_pixels: int | None
    progress: bool


class Conversation:
    """Asks a model again and again; of each turn only what is new runs, and pictures go through the model once.

    system: what the model is told before everything. messages: how it began, in the OpenAI shape; the list grows here
    and may be changed between turns, such as by a message of role "tool". tools, max_kv_size, kv_bits: as in
    `generate`. A picture given by its path or URL is read again in each turn, and must stay the same.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        system: str | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        max_kv_size: int | None = None,
        kv_bits: int | None = None,
    ) -> None:
        self.messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self.messages += [dict(message) for message in messages]
        self._model, self._processor, self._tools = model, processor, tools
        self._limits = {"max_kv_size": max_kv_size, "kv_bits": kv_bits}
        self._cache = PromptCache()
        self._running: Iterator[Generation] | None = None

    def ask(
        self, text: str | None, *, images: Any = (), videos: Any = (), **options: Unpack[Options]
    ) -> Iterator[Generation]:
        """The answer in pieces, as of `stream_generate`; it becomes a message when the last one is taken.

        text: None answers the messages as they stand. An answer that is left or interrupted in the middle is kept as
        far as it came, by `close` of what is returned or the next question at the latest; where it had not come to
        words, the question is taken back with it, as after an error. Raises what `stream_generate` does, and then
        too the conversation is as before.
        """
        self.settle()
        self._running = self._ask(text, images, videos, options)
        return self._running

    def settle(self) -> None:
        """End an answer that was left in the middle."""
        if self._running is not None:
            self._running.close()  # type: ignore[attr-defined]
            self._running = None

    def _ask(self, text: str | None, images: Any, videos: Any, options: Options) -> Iterator[Generation]:
        before = len(self.messages)
        if text is not None:
            self.messages.append(_question(text, images, videos))
        elif _listed(images) or _listed(videos):
            raise InputError("Images or videos are given, and text is None; expected text with them. Pass text=.")
        pieces: list[Generation] = []
        try:
            own: Any = {"tools": self._tools, "cache": self._cache, **self._limits}
            stream: Any = stream_generate(self._model, self._processor, self.messages, **own, **options)
            try:
                for piece in stream:
                    pieces.append(piece)
                    yield piece
            finally:
                stream.close()
        finally:
            answer = join(pieces)
            if answer.finish_reason or answer.text or answer.tool_calls:
                self.messages.append(_said(answer))
            else:
                del self.messages[before:]

    def save(self, path: str | Path) -> None:
        """Write messages and computed tokens to one file, for `load`; what stood there stays until it is complete.

        Pictures are kept by their path or URL, bytes as they are. Raises InputError for pictures of other kinds.
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


def _question(text: str, images: Any, videos: Any) -> dict[str, Any]:
    parts = [{"type": "image", "image": image} for image in _listed(images)]
    parts += [{"type": "video", "video": video} for video in _listed(videos)]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def _said(answer: Generation) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    message |= {"reasoning_content": answer.reasoning} if answer.reasoning else {}
    message |= {"tool_calls": answer.tool_calls} if answer.tool_calls else {}
    # A model can write <|image|>, and in a prompt that would be a picture.
    told: dict[str, Any] = json.loads(_SPECIAL.sub("< |", json.dumps(message)))
    return told


def _listed(items: Any) -> list[Any]:
    return list(items) if isinstance(items, list | tuple) else [items]


def _plain(value: Any) -> str:
    """What JSON has no form for."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, bytes):
        return f"data:application/octet-stream;base64,{base64.b64encode(value).decode()}"
    raise InputError(
        f"The conversation holds a {type(value).__name__}, which cannot be saved; expected pictures by path, URL or "
        "bytes. Ask with one of those."
    )
