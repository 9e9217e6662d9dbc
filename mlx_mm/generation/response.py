"""An answer as it comes: tokens to text, text to its parts, up to a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypedDict

from mlx_mm.errors import InputError

UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet


class FunctionCall(TypedDict):
    """arguments: an object, as JSON."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call of a tool in the OpenAI shape."""

    id: str
    type: Literal["function"]
    function: FunctionCall


@dataclass(frozen=True)
class ResponsePart:
    """What a piece of text adds to an answer: one of the three."""

    text: str = ""
    reasoning: str = ""
    tool_call: ToolCall | None = None


class ResponseParser(Protocol):
    """Takes one answer apart, by the markers of a family; what comes out does not depend on where the text is cut.

    feed: what is certain after more text, with special tokens. finish: what could have become a marker. reasoning_open:
    whether more text would be reasoning; at the beginning, whether the prompt ended inside a think block. boxes:
    [x1, y1, x2, y2] of the answer so far, each number from 0 to box_range.
    """

    box_range: int

    @property
    def reasoning_open(self) -> bool: ...
    def feed(self, text: str) -> list[ResponsePart]: ...
    def finish(self) -> list[ResponsePart]: ...
    def boxes(self) -> list[list[float]]: ...


@dataclass
class ResponseDelta:
    """What a token adds. raw: with all markers."""

    raw: str = ""
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)


class Listener:
    """Takes the tokens of one answer and tells what is certain after each.

    decode: ids -> text, with special tokens. Stop strings are looked for in the answer as it is shown, not in the
    reasoning, and what follows one is left out. stopped: one was reached.
    """

    def __init__(self, decode: Callable[[list[int]], str], parser: ResponseParser, stop: str | Sequence[str]) -> None:
        self.stopped = False
        self._decode, self._parser = decode, parser
        self._stops = StopStrings(stop)
        self._ids: list[int] = []  # whose text may end within a character
        self._space = ""

    def hear(self, token: int) -> ResponseDelta:
        """What is certain now."""
        self._ids.append(token)
        raw = self._decode(self._ids)
        if raw.endswith(UNFINISHED):
            return ResponseDelta()
        self._ids = []
        return self._delta(raw, self._parser.feed(raw))

    def finish(self) -> ResponseDelta:
        """What was held back."""
        raw = self._decode(self._ids) if self._ids else ""
        self._ids = []
        delta = self._delta(raw, [*(self._parser.feed(raw) if raw else []), *self._parser.finish()])
        delta.text += self._shown(*self._stops.finish())
        return delta

    def boxes(self) -> list[list[float]]:
        """The boxes of the answer."""
        return self._parser.boxes()

    def _delta(self, raw: str, parts: Sequence[ResponsePart]) -> ResponseDelta:
        delta = ResponseDelta(raw)
        for part in parts:
            if self.stopped:
                break
            delta.reasoning += part.reasoning
            if part.tool_call is not None:
                delta.tool_calls.append(part.tool_call)
            if part.text:
                delta.text += self._shown(*self._stops.feed(part.text))
        return delta

    def _shown(self, text: str, stopped: bool) -> str:
        """The text without whitespace at its end, which is certain once something follows."""
        self.stopped = stopped
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        return shown


class StopStrings:
    """Cuts a stream of text before the first of some strings, and never lets out a part of one.

    Raises InputError for an empty string among them.
    """

    def __init__(self, strings: str | Sequence[str]) -> None:
        self._strings = (strings,) if isinstance(strings, str) else tuple(strings)
        for string in self._strings:
            if not isinstance(string, str) or not string:
                raise InputError(f"{string!r} is among the stop strings; expected text. Leave it out.")
        self._buffer = ""
        self._stopped = False

    def feed(self, piece: str) -> tuple[str, bool]:
        """What may be shown, and whether a stop string was reached; nothing comes after it."""
        return self._read(piece, final=False)

    def finish(self) -> tuple[str, bool]:
        """What was held back because it could have become a stop string."""
        return self._read("", final=True)

    def _read(self, piece: str, *, final: bool) -> tuple[str, bool]:
        if self._stopped:
            return "", True
        self._buffer += piece
        places = [place for string in self._strings if (place := self._buffer.find(string)) >= 0]
        cut = min(places, default=len(self._buffer))
        held = 0 if final else open_suffix(self._buffer, self._strings)
        # A string that began before the one found may still be completed, and then it is the first.
        open_at = len(self._buffer) - held
        self._stopped = bool(places) and cut <= open_at
        cut = min(cut, open_at)
        emit, self._buffer = self._buffer[:cut], "" if self._stopped else self._buffer[cut:]
        return emit, self._stopped


class TrimmedText:
    """Text that grows, without whitespace around it: inner whitespace is certain once something follows it."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._space = ""

    @property
    def begun(self) -> bool:
        """Whether there is more than whitespace."""
        return bool(self._parts)

    def add(self, text: str) -> str:
        """What has become certain."""
        text = self._space + text if self._parts else text.lstrip()
        certain = text.rstrip()
        self._space = text[len(certain) :]
        self._parts += [certain] if certain else []
        return certain

    def separate(self) -> None:
        """Let what follows begin on a line of its own."""
        self._space = self._space or "\n"

    def text(self) -> str:
        """All that is certain."""
        return "".join(self._parts)


def open_suffix(text: str, strings: Sequence[str]) -> int:
    """Length of the longest end of a text with which one of the strings could begin, but not be complete."""
    longest = min(len(text), max(map(len, strings), default=1) - 1)
    for length in range(longest, 0, -1):
        suffix = text[-length:]
        if any(len(string) > length and string.startswith(suffix) for string in strings):
            return length
    return 0


def scale_boxes(
    boxes: Sequence[Sequence[float]], width: int, height: int, *, box_range: int = 1000
) -> list[list[float]]:
    """Boxes, whose numbers go up to box_range, in pixels of an image; InputError for a size or a box that is none."""
    if width < 1 or height < 1:
        raise InputError(f"The picture is {width} by {height}; expected at least one pixel. Give its width and height.")
    for box in boxes:
        if len(box) != 4:
            raise InputError(f"A box has {len(box)} numbers; expected x1, y1, x2, y2. Leave it out.")
    sides = (width, height, width, height)
    return [[value * side / box_range for value, side in zip(box, sides, strict=True)] for box in boxes]
