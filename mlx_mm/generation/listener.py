"""Tokens of an answer to its parts, one token at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_mm.processing.answer import StopStrings, StreamParser

UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet


@dataclass
class Said:
    """What a token adds. raw: with all markers."""

    raw: str = ""
    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


class Listener:
    """Takes the tokens of one answer and tells what is certain after each.

    decode: ids -> text, with special tokens. Stop strings are looked for in the answer as it is shown, not in the
    reasoning, and what follows one is left out. stopped: one was reached.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop: str | Sequence[str],
        *,
        thinking_open: bool,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        self.stopped = False
        self._decode = decode
        self._stops = StopStrings(stop)
        self._parser = StreamParser(thinking_open=thinking_open, tools=tools)
        self._ids: list[int] = []  # whose text may end within a character
        self._space = ""

    def hear(self, token: int) -> Said:
        """What is certain now."""
        self._ids.append(token)
        raw = self._decode(self._ids)
        if raw.endswith(UNFINISHED):
            return Said()
        self._ids = []
        return self._said(raw, self._parser.feed(raw))

    def finish(self) -> Said:
        """What was held back."""
        raw = self._decode(self._ids) if self._ids else ""
        self._ids = []
        said = self._said(raw, [*(self._parser.feed(raw) if raw else []), *self._parser.finish()])
        said.text += self._shown(*self._stops.finish())
        return said

    def boxes(self) -> list[list[float]]:
        """The boxes of the answer."""
        return self._parser.answer().boxes

    def _said(self, raw: str, pieces: Sequence[tuple[str, str]]) -> Said:
        said = Said(raw)
        for kind, value in pieces:
            if self.stopped:
                break
            if kind == "reasoning":
                said.reasoning += value
            elif kind == "tool_call":
                said.tool_calls.append(json.loads(value))
            else:
                said.text += self._shown(*self._stops.feed(value))
        return said

    def _shown(self, text: str, stopped: bool) -> str:
        """The text without whitespace at its end, which is certain once something follows."""
        self.stopped = stopped
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        return shown
