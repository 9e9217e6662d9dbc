"""Answers of the stub: reasoning in ((…)), boxes as @x1,y1,x2,y2@ in percent."""

from __future__ import annotations

import re

from mlx_mm.generation.response import ResponsePart, TrimmedText, open_suffix

OPEN, CLOSE = "((", "))"


class Parser:
    """Takes an answer apart."""

    box_range = 100

    def __init__(self, reasoning_open: bool) -> None:
        self.reasoning_open = reasoning_open
        self._text, self._buffer = TrimmedText(), ""

    def feed(self, text: str) -> list[ResponsePart]:
        self._buffer += text
        return self._read(final=False)

    def finish(self) -> list[ResponsePart]:
        return self._read(final=True)

    def boxes(self) -> list[list[float]]:
        return [list(map(float, found.split(","))) for found in re.findall(r"@([\d,]+)@", self._text.text())]

    def _read(self, *, final: bool) -> list[ResponsePart]:
        *pieces, rest = re.split(r"(\(\(|\)\))", self._buffer)
        certain = len(rest) if final else len(rest) - open_suffix(rest, (OPEN, CLOSE))
        self._buffer = rest[certain:]
        parts = []
        for piece in (*pieces, rest[:certain]):
            if piece in (OPEN, CLOSE):
                self.reasoning_open = piece == OPEN
            elif self.reasoning_open and piece:
                parts.append(ResponsePart(reasoning=piece))
            elif added := self._text.add(piece):
                parts.append(ResponsePart(added))
        return parts
