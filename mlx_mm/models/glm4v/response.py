"""What a model's text says: reasoning, answer, tool calls and boxes, whole or piece by piece."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlx_mm.generation.response import ResponsePart, ToolCall, TrimmedText, open_suffix
from mlx_mm.models.glm4v.arguments import Arguments, parse
from mlx_mm.processing.chat import check_tools

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
KEY, END_KEY = "<arg_key>", "</arg_key>"
VALUE, END_VALUE = "<arg_value>", "</arg_value>"
BOX, END_BOX = "<|begin_of_box|>", "<|end_of_box|>"
END_TOKENS = ("<|endoftext|>", "<|user|>", "<|observation|>", "<|assistant|>", "<|system|>")
BOX_RANGE = 1000

_MARKERS = (THINK, END_THINK, ANSWER, END_ANSWER, CALL, BOX, END_BOX, *END_TOKENS)  # none begins with another
_MARKER = re.compile("|".join(map(re.escape, _MARKERS)))
_NAME = re.compile(r"[^\s<>{}\[\]\"]*")
_JSON = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[{}<]', re.DOTALL)  # strings, and what is not within them
_SPACE = re.compile(r"\s*")
_NUMBER = r"\d{1,4}(?:\.\d{1,6})?"
_BOX = rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*\]"
# One box or several in box markers, or a list of lists without markers
_BOXED = re.compile(rf"{re.escape(BOX)}(.*?)(?:{re.escape(END_BOX)}|$)", re.DOTALL)
_LISTED = re.compile(rf"\[\s*{_BOX}(?:\s*,\s*{_BOX})*\s*\]")


class _Call(NamedTuple):
    """raw: arguments whose types are not known. values: those of JSON."""

    name: str
    raw: dict[str, str]
    values: dict[str, object]


class StreamParser:
    """A model's text piece by piece; what comes out does not depend on where the text was cut.

    - `<think>` opens reasoning only before any text, `</think>` ends it; without an end all is reasoning. In a text
      that has begun, both are text: an answer may speak of them.
    - `<answer>` at the beginning of the text is left out, and so is its end (GLM-4.1V).
    - Box markers and end tokens are left out everywhere; what follows an end token is kept, for stopping is not done
      here. Whitespace around reasoning and text is left out.
    - A tool call counts in reasoning too. What only looks like a call, and one that never ends, stays as it is in the
      reasoning or text that it stands in.
    """

    box_range = BOX_RANGE

    def __init__(self, *, thinking_open: bool, tools: Sequence[Mapping[str, object]] | None = None) -> None:
        self._arguments = dict(map(_arguments, check_tools(tools) or ()))
        self._thinking = thinking_open
        self._answer_open = False
        self._buffer = ""
        self._reasoning, self._text = TrimmedText(), TrimmedText()
        self._marked: list[str] = []  # the text with its box markers
        self._calls = 0
        self._parts: list[ResponsePart] = []

    @property
    def reasoning_open(self) -> bool:
        """Whether more text would be reasoning."""
        return self._thinking

    def feed(self, text: str) -> list[ResponsePart]:
        """What is certain after this piece of text; tool calls come whole."""
        return self._read(text, final=False)

    def finish(self) -> list[ResponsePart]:
        """What was still held back because it could have become a marker."""
        return self._read("", final=True)

    def boxes(self) -> list[list[float]]:
        """Those of the text so far."""
        return parse_boxes("".join(self._marked))

    def _read(self, text: str, *, final: bool) -> list[ResponsePart]:
        self._buffer += text
        self._parts = []
        while self._buffer:
            match = _MARKER.search(self._buffer)
            if match is None:
                held = 0 if final else open_suffix(self._buffer, _MARKERS)
                self._plain(self._take(len(self._buffer) - held))
                break
            self._plain(self._take(match.start()))
            if match.group() != CALL:
                self._marker(self._take(len(match.group())))
                continue
            call, end = _read_call(self._buffer)
            if end is None and not final:
                break
            if call is None or end is None:
                self._plain(self._take(len(CALL)))
            else:
                self._take(end)
                self._called(call)
        return self._parts

    def _take(self, count: int) -> str:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _plain(self, text: str) -> None:
        if self._thinking:
            if certain := self._reasoning.add(text):
                self._parts.append(ResponsePart(reasoning=certain))
            return
        self._marked.append(text)
        if certain := self._text.add(text):
            self._parts.append(ResponsePart(text=certain))

    def _marker(self, marker: str) -> None:
        begun = self._text.begun
        if marker in (THINK, END_THINK):
            if begun:
                self._plain(marker)
            elif marker == THINK and not self._thinking:
                self._reasoning.separate()
            self._thinking = marker == THINK and not begun
        elif marker in (ANSWER, END_ANSWER):
            leave_out = not self._thinking and (not begun if marker == ANSWER else self._answer_open)
            if leave_out:
                self._answer_open = marker == ANSWER
            else:
                self._plain(marker)
        elif marker in (BOX, END_BOX) and not self._thinking:
            self._marked.append(marker)

    def _called(self, found: _Call) -> None:
        known = self._arguments.get(found.name) or Arguments({})
        values = {key: known.value(key, raw) for key, raw in found.raw.items()} | found.values
        call: ToolCall = {
            "id": f"call_{self._calls}",
            "type": "function",
            "function": {"name": found.name, "arguments": json.dumps(values, ensure_ascii=False)},
        }
        self._calls += 1
        self._parts.append(ResponsePart(tool_call=call))


def parse_boxes(text: str) -> list[list[float]]:
    """[x1, y1, x2, y2] in 0..1000: of all fours of numbers within box markers, and of lists of them elsewhere.

    Fours with a number out of that range are no boxes. A marked answer that is a list of four numbers looks the same.
    """
    boxes: list[list[float]] = []
    end = 0
    for marked in _BOXED.finditer(text):
        boxes += _listed(text[end : marked.start()]) + _fours(marked.group(1))
        end = marked.end()
    return boxes + _listed(text[end:])


def _read_call(text: str) -> tuple[_Call | None, int | None]:
    """The call that a text begins with, and its end; (None, 0) for no call, end None: cut off.

    Beside the form of the template two others are read that models fall into: a JSON object with name and arguments,
    and a name with a JSON object of arguments after it.
    """
    start = _skip(text, len(CALL))
    place = _skip(text, start, _NAME)
    name, raw = text[start:place], dict[str, str]()
    if place == len(text):
        return None, None
    place = _skip(text, place)
    if text.startswith("{", place):
        return _read_json(text, place, name)
    if not name:
        return None, 0
    while not text.startswith(END_CALL, place):
        key, place_of_value = _between(text, place, KEY, END_KEY)
        if key is None or place_of_value is None:
            return None, place_of_value
        value, place_after = _between(text, _skip(text, place_of_value), VALUE, END_VALUE)
        if value is None or place_after is None:
            return None, place_after
        raw[key.strip()] = value
        place = _skip(text, place_after)
    return _Call(name, raw, {}), place + len(END_CALL)


def _read_json(text: str, start: int, name: str) -> tuple[_Call | None, int | None]:
    """What `_read_call` gives, for a call with an object of JSON at `start`. name: what stands before it."""
    depth, end = 0, None
    for found in _JSON.finditer(text, start):
        if found.group() == "<":  # JSON has none outside of strings
            return None, 0
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            end = found.end()
            break
    rest = "" if end is None else text[_skip(text, end) :][: len(END_CALL)]
    if end is None or (rest != END_CALL and END_CALL.startswith(rest)):
        return None, None
    call = _json_call(name, text[start:end])
    return (call, _skip(text, end) + len(END_CALL)) if call and rest == END_CALL else (None, 0)


def _json_call(name: str, text: str) -> _Call | None:
    named: Any = name
    found: Any = (parse(text) or [None])[0]
    if not name and isinstance(found, dict):
        said = found["function"] if isinstance(found.get("function"), dict) else found
        named, found = said.get("name"), said.get("arguments", said.get("parameters"))
        found = (parse(found) or [None])[0] if isinstance(found, str) else {} if found is None else found
    return _Call(named, {}, found) if isinstance(named, str) and named and isinstance(found, dict) else None


def _between(text: str, start: int, opening: str, closing: str) -> tuple[str | None, int | None]:
    """What stands between two markers, and the place after them; (None, 0): not here, (None, None): cut off."""
    rest = text[start : start + max(len(opening), len(END_CALL))]
    if not rest.startswith(opening):
        return None, None if opening.startswith(rest) or (opening == KEY and END_CALL.startswith(rest)) else 0
    end = text.find(closing, start + len(opening))
    return (None, None) if end < 0 else (text[start + len(opening) : end], end + len(closing))


def _skip(text: str, start: int, what: re.Pattern[str] = _SPACE) -> int:
    found = what.match(text, start)
    return start if found is None else found.end()


def _arguments(tool: Mapping[str, object]) -> tuple[str, Arguments]:
    """The name of a tool and what is known of its arguments; `check_tools` has looked through it."""
    function: Any = tool["function"]
    return function["name"], Arguments(function.get("parameters"))


def _listed(text: str) -> list[list[float]]:
    return [box for found in _LISTED.finditer(text) for box in _fours(found.group())]


def _fours(text: str) -> list[list[float]]:
    found = [[float(number) for number in re.findall(_NUMBER, box)] for box in re.findall(_BOX, text)]
    return [box for box in found if max(box) <= BOX_RANGE]
