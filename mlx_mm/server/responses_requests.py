"""A request to /v1/responses: its fields as a schema, and the chat that it stands for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Final

from mlx_mm.errors import MlxMmError
from mlx_mm.server.chat_requests import CHAT
from mlx_mm.server.errors import Problem, problem_of
from mlx_mm.server.reading import JsonObject, Schema, only
from mlx_mm.server.schemas import FLAT_TOOL, ITEM, TEXT

_SAME = ("model", "stream", "temperature", "top_p", "tool_choice", "parallel_tool_calls", "store", "user")
_KEPT = tuple(name for name in _SAME if name not in ("store", "user"))

_MESSAGE = re.compile(r"messages\[(\d{1,6})\]")
_ITEMS = {  # type -> what it may have
    "message": ("type", "id", "role", "status", "content", "phase"),
    "reasoning": ("type", "id", "summary", "content", "status"),
    "function_call": ("type", "id", "call_id", "name", "arguments", "status"),
    "function_call_output": ("type", "id", "call_id", "output", "status"),
}

RESPONSES: Final[Schema] = {
    "type": "object",
    "description": "What OpenAI's client sends to /v1/responses. Nothing is stored: previous_response_id is unknown.",
    "properties": {
        **{name: CHAT["properties"][name] for name in _SAME},
        "store": {"type": "boolean", "description": "Answers are not kept, whatever it says; the response has false."},
        "input": {"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": ITEM, "title": "a list of items"}]},
        "instructions": TEXT,
        "max_output_tokens": {"type": "integer", "minimum": 1},
        "tools": {"type": "array", "items": FLAT_TOOL},
        "reasoning": {
            "type": "object",
            "properties": {"effort": {"type": "string", "enum": ["none"]}},
            "additionalProperties": False,
        },
        "text": {
            "type": "object",
            "properties": {"format": CHAT["properties"]["response_format"]},
            "additionalProperties": False,
        },
        "truncation": {"type": "string", "enum": ["disabled"]},
        "background": {"type": "boolean", "enum": [False]},
        "include": {"type": "array", "maxItems": 0},
        "metadata": {"type": "object", "properties": {}, "additionalProperties": False},
    },
    "required": ["model", "input"],
    "additionalProperties": False,
}


def as_chat(body: JsonObject) -> tuple[JsonObject, list[str]]:
    """A body that `RESPONSES` allows as one of /v1/chat/completions, and the place of each of its messages.

    Raises Problem for items that are no part of a chat.
    """
    chat: JsonObject = {name: body[name] for name in _KEPT if name in body}
    if "max_output_tokens" in body:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if "effort" in body.get("reasoning", {}):
        chat["reasoning_effort"] = "none"
    if "tools" in body:
        chat["tools"] = [_tool(tool) for tool in body["tools"]]
    told = body.get("instructions")
    messages: list[JsonObject] = [] if told is None else [{"role": "system", "content": told}]
    places = ["instructions"] * len(messages)
    given = body["input"]
    if isinstance(given, str):
        return {**chat, "messages": [*messages, {"role": "user", "content": given}]}, [*places, "input"]
    for place, item in enumerate(given):
        _add(messages, item, f"input[{place}]")
        places += [f"input[{place}]"] * (len(messages) - len(places))
    return {**chat, "messages": messages}, places


@contextlib.contextmanager
def by_item(places: list[str]) -> Iterator[None]:
    """Inside, errors that name a message name what it was made from."""

    def renamed(text: str) -> str:
        return _MESSAGE.sub(lambda found: places[int(found[1])] if int(found[1]) < len(places) else found[0], text)

    try:
        yield
    except MlxMmError as error:
        problem = problem_of(error)
        raise Problem(
            renamed(str(problem)),
            problem.status,
            param=problem.param and renamed(problem.param),
            code=problem.code,
            headers=problem.headers,
        ) from error


def _add(messages: list[JsonObject], item: JsonObject, where: str) -> None:
    kind = item.get("type", "message")
    if isinstance(kind, str) and kind in _ITEMS:
        only(item, _ITEMS[kind], where)
    if kind == "message" and item.get("role") in ("system", "developer", "user", "assistant"):
        said = {"role": item["role"], "content": item.get("content")}
        if said["role"] == "assistant" and messages and set(messages[-1]) == {"role", "reasoning_content"}:
            messages[-1]["content"] = said["content"]  # what it thought came before
        else:
            messages.append(said)
    elif kind == "reasoning":
        messages.append({"role": "assistant", "reasoning_content": _thought(item.get("content"), f"{where}.content")})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant"})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
    else:
        raise Problem(
            f"{where} has the type {kind!r} and the role {item.get('role')!r}; expected a message of system, "
            "developer, user or assistant, reasoning, function_call or function_call_output. Change it.",
            param=where,
            code="invalid_value",
        )


def _thought(parts: object, where: str) -> str:
    texts = []
    for part in parts if isinstance(parts, list) else [parts]:
        if not isinstance(part, dict) or part.get("type") != "reasoning_text" or not isinstance(part.get("text"), str):
            raise Problem(
                f"{where} is or holds something else than parts of type reasoning_text with a text; expected those "
                "alone. Change it.",
                param=where,
                code="invalid_value",
            )
        texts.append(part["text"])
    return "".join(texts)


def _tool(tool: JsonObject) -> JsonObject:
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
