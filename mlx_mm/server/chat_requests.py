"""A request for an answer: its fields as a schema, and what of it the engine is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from mlx_mm.server.engine import ChatOptions
from mlx_mm.server.errors import Problem
from mlx_mm.server.media import Medium, Reader
from mlx_mm.server.reading import JsonObject, Schema, only
from mlx_mm.server.schemas import FLAG, PARTS, TEXT, TOOL, TOOL_CALL

MOST_TOKENS = 2048  # of an answer, where a request does not say

MESSAGE: Final[Schema] = {
    "type": "object",
    "title": "a message",
    "description": "In OpenAI's shape. content: text, or a list of parts of type text, image_url, image, video_url or "
    "video, whose sources are data URIs or mm://item/ID.",
    "properties": {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "anyOf": [
                {"type": "string"},
                PARTS,
            ]
        },
        "name": TEXT,
        "tool_call_id": TEXT,
        "tool_calls": {"type": "array", "items": TOOL_CALL},
        "reasoning_content": TEXT,
    },
    "required": ["role"],
}
CHAT: Final[Schema] = {
    "type": "object",
    "properties": {
        "model": TEXT,
        "messages": {"type": "array", "minItems": 1, "items": MESSAGE},
        "stream": FLAG,
        "stream_options": {
            "type": "object",
            "properties": {"include_usage": FLAG, "include_obfuscation": {"type": "boolean", "enum": [False]}},
            "additionalProperties": False,
        },
        "max_tokens": {"type": "integer", "minimum": 1, "description": f"{MOST_TOKENS} by default."},
        "max_completion_tokens": {"type": "integer", "minimum": 1},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "minimum": 0, "maximum": 1},
        "top_k": {"type": "integer", "minimum": 0},
        "min_p": {"type": "number", "minimum": 0, "maximum": 1},
        "repetition_penalty": {"type": "number", "minimum": 0, "maximum": 100},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        "stop": {"anyOf": [TEXT, {"type": "array", "items": TEXT, "title": "a list of texts"}]},
        "tools": {"type": "array", "items": TOOL},
        "tool_choice": {"type": "string", "enum": ["auto", "none"]},
        "parallel_tool_calls": {"type": "boolean", "enum": [True]},
        "reasoning_effort": {"type": "string", "enum": ["none"]},
        "chat_template_kwargs": {
            "type": "object",
            "properties": {"enable_thinking": FLAG},
            "additionalProperties": False,
        },
        "thinking_budget": {"type": "integer", "minimum": 0},
        "max_pixels": {"type": "integer", "minimum": 1},
        "fps": {"type": "number", "minimum": 0, "maximum": 1000, "description": "Frames a second that are taken."},
        "response_format": {
            "type": "object",
            "properties": {"type": {"type": "string", "enum": ["text"]}},
            "required": ["type"],
            "additionalProperties": False,
        },
        "n": {"type": "integer", "enum": [1]},
        "logprobs": {"type": "boolean", "enum": [False]},
        "presence_penalty": {"type": "number", "enum": [0]},
        "frequency_penalty": {"type": "number", "enum": [0]},
        "logit_bias": {"type": "object", "properties": {}, "additionalProperties": False},
        "modalities": {"type": "array", "items": {"type": "string", "enum": ["text"]}},
        "store": {"type": "boolean", "enum": [False]},
        "user": {"type": "string", "description": "Who asks; it changes nothing."},
    },
    "required": ["model", "messages"],
    "additionalProperties": False,
}
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "thinking_budget",
    "max_pixels",
    "fps",
)
_OFF = {"top_p": 1, "top_k": 0, "min_p": 0}  # what clients send along with a temperature of 0, and changes nothing
# type of a part -> the kind of its medium, and the keys that may hold it
_PARTS: dict[str, tuple[Medium, tuple[str, ...]]] = {
    "image": ("image", ("image", "url")),
    "image_url": ("image", ("image_url",)),
    "input_image": ("image", ("image_url",)),
    "video": ("video", ("video", "url")),
    "video_url": ("video", ("video_url",)),
}


@dataclass(frozen=True)
class Asked:
    """What the engine is asked, and how the client wants the answer."""

    model: str
    messages: list[dict[str, object]]
    tools: list[Mapping[str, object]] | None
    options: ChatOptions
    stream: bool
    usage: bool


async def read_chat(body: JsonObject, reader: Reader) -> Asked:
    """A body that `CHAT` allows, with its media read; Problem for what cannot be had together."""
    if len({"max_tokens", "max_completion_tokens"} & set(body)) == 2:
        raise Problem(
            "max_tokens and max_completion_tokens are both given; expected one. Leave one out.", param="max_tokens"
        )
    thinks = body.get("chat_template_kwargs", {}).get("enable_thinking")
    if "reasoning_effort" in body:
        if thinks is True:
            raise Problem(
                'reasoning_effort is "none", and enable_thinking true; expected one of them. Leave one out.',
                param="reasoning_effort",
            )
        thinks = False
    options = {name: body[name] for name in _SAMPLING if name in body}
    if options.get("temperature") == 0:
        options = {name: value for name, value in options.items() if name not in _OFF or value != _OFF[name]}
    options["max_tokens"] = body.get("max_completion_tokens", body.get("max_tokens", MOST_TOKENS))
    options["enable_thinking"] = thinks
    usage = body.get("stream_options", {}).get("include_usage", False)
    if "stream_options" in body and not body.get("stream"):
        raise Problem("stream_options is given without stream; expected both. Leave it out.", param="stream_options")
    return Asked(
        model=body["model"],
        messages=await read_media(body["messages"], reader),
        tools=None if body.get("tool_choice") == "none" else body.get("tools"),
        options=cast("ChatOptions", options),
        stream=body.get("stream", False),
        usage=usage,
    )


async def read_media(messages: list[JsonObject], reader: Reader) -> list[dict[str, object]]:
    """Messages whose media are bytes, or files of the index; Problem for media of other kinds."""
    return [await _message(message, f"messages[{place}]", reader) for place, message in enumerate(messages)]


async def _message(message: JsonObject, where: str, reader: Reader) -> dict[str, object]:
    role = "system" if message["role"] == "developer" else message["role"]
    content = message.get("content")
    if isinstance(content, list):
        content = [await _part(part, f"{where}.content[{place}]", reader) for place, part in enumerate(content)]
    return {**message, "role": role, "content": content}


async def _part(part: JsonObject, where: str, reader: Reader) -> dict[str, object]:
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text"):
        only(part, ("type", "text"), where)
        return {"type": "text", "text": part.get("text")}
    if not isinstance(kind, str) or kind not in _PARTS:
        raise Problem(
            f"{where}.type is {kind!r}; expected text, {', '.join(_PARTS)}. Change it.",
            param=f"{where}.type",
            code="invalid_value",
        )
    medium, keys = _PARTS[kind]
    given = [key for key in keys if part.get(key) is not None]
    if len(given) != 1:
        raise Problem(
            f"{where} has its source in {' and '.join(given) or 'no key'}; expected it in {' or '.join(keys)}. Change "
            "it.",
            param=where,
            code="invalid_value",
        )
    source, place = part[given[0]], f"{where}.{given[0]}"
    options = {key: value for key, value in part.items() if key not in ("type", *keys)}
    if isinstance(source, dict):
        options |= {key: value for key, value in source.items() if key != "url"}
        source, place = source.get("url"), f"{place}.url"
    if medium == "video" and isinstance(source, list) and source:
        frames = [await _read(frame, "image", f"{place}[{index}]", reader) for index, frame in enumerate(source)]
        return {**options, "type": "video", "video": frames}
    return {**options, "type": medium, medium: await _read(source, medium, place, reader)}


async def _read(source: object, medium: Medium, where: str, reader: Reader) -> object:
    if not isinstance(source, str) or not source:
        raise Problem(
            f"{where} is {type(source).__name__}; expected text, a data URI. Change it.",
            param=where,
            code="invalid_value",
        )
    return await reader.read(source, medium, where)
