"""An answer, its pieces and how long they took."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import mlx.core as mx

from mlx_mm.generation.response import ResponseDelta, ToolCall


@dataclass(frozen=True)
class Generation:
    """An answer, or while it is streamed what a token adds to it.

    Of the pieces of a stream, text, reasoning, tool_calls and raw are what is new and add up to the whole, so that
    printing every text shows the answer once; a piece may add nothing. Numbers are those so far. The last piece has
    finish_reason and the boxes.

    text: without markers and reasoning. reasoning: None where there is none. tool_calls: in the OpenAI shape.
    finish_reason: "stop", "length" (max_tokens, or the model's context, is used up) or "tool_calls"; None before the
    end. raw: with all markers, up to the end token. prompt_tokens: with images; cached_tokens of them were not run
    again. prompt_tps, generation_tps: tokens per second. peak_memory: of the process, in GB.
    boxes: [x1, y1, x2, y2] as the model counts, by default in thousandths of width and height. pixel_boxes: the same in
    pixels of the image as it was given, where there is exactly one; `mlx_mm.generation.response.scale_boxes` makes them
    for others.
    """

    text: str = ""
    reasoning: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
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


Pieces: TypeAlias = Generator[Generation, None, None]


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


class Clock:
    """Counts tokens and seconds of an answer. prompt, cached: tokens of the prompt, and how many were not run again."""

    def __init__(self, prompt: int, cached: int) -> None:
        self.prompt, self.cached, self.count = prompt, cached, 0
        self._begun = self._first = time.perf_counter()

    def tick(self) -> None:
        """A token more."""
        self.count += 1
        if self.count == 1:
            self._first = time.perf_counter()

    def piece(self, delta: ResponseDelta) -> Generation:
        """What the last token adds, with the numbers so far."""
        now = time.perf_counter()
        return Generation(
            text=delta.text,
            reasoning=delta.reasoning or None,
            raw=delta.raw,
            tool_calls=delta.tool_calls,
            prompt_tokens=self.prompt,
            cached_tokens=self.cached,
            generation_tokens=self.count,
            prompt_tps=(self.prompt - self.cached) / max(self._first - self._begun, 1e-9),
            generation_tps=(self.count - 1) / (now - self._first) if self.count > 1 and now > self._first else 0.0,
            peak_memory=mx.get_peak_memory() / 1e9,
        )
