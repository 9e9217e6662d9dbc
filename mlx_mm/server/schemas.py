"""Schemas that several requests share: parts of messages, inputs of encoders, and tools."""

from __future__ import annotations

from typing import Final

from mlx_mm.server.reading import Schema

TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
_URI = {"type": "string", "description": "data:image/png;base64,... or mm://item/ID; an address with --allow-urls."}
_SIZES = {name: {"type": "integer", "minimum": 1} for name in ("min_pixels", "max_pixels")}
_FPS = {"fps": {"type": "number", "minimum": 0, "maximum": 1000, "description": "Of frames, or those to take."}}
_DETAIL = {"detail": {"type": "string", "enum": ["auto", "low", "high"]}}
_FRAMES = {"type": "array", "title": "a list of frames", "minItems": 1, "items": _URI}


def _source(more: Schema, *others: Schema) -> Schema:
    """A URI, or an object with one."""
    holder = {
        "type": "object",
        "title": 'an object such as {"url": "data:..."}',
        "properties": {"url": {"anyOf": [_URI, *others]} if others else _URI, **more},
        "required": ["url"],
    }
    return {"anyOf": [_URI, *others, holder]}


PART: Final[Schema] = {
    "type": "object",
    "title": "a part",
    "properties": {
        "type": {
            "type": "string",
            "enum": [
                "text",
                "input_text",
                "output_text",
                "image",
                "image_url",
                "input_image",
                "video",
                "video_url",
            ],
        },
        "text": TEXT,
        "image": _source({**_DETAIL, **_SIZES}),
        "image_url": _source({**_DETAIL, **_SIZES}),
        "video": _source({**_SIZES, **_FPS}, _FRAMES),
        "video_url": _source({**_SIZES, **_FPS}, _FRAMES),
        "url": _URI,
        **_DETAIL,
        **_SIZES,
        **_FPS,
    },
    "required": ["type"],
}
PARTS: Final[Schema] = {"type": "array", "title": "a list of parts", "items": PART}
_AUDIO = {
    "type": "object",
    "title": 'an object such as {"data": "...", "format": "wav"}',
    "properties": {"data": {"type": "string", "description": "base64"}, "format": TEXT, "url": _URI},
}
INPUT_PART: Final[Schema] = {
    "type": "object",
    "title": "a part",
    "description": "One of text, image and audio; type may say which.",
    "properties": {
        "type": {
            "type": "string",
            "enum": ["text", "image", "image_url", "image_base64", "audio", "audio_url", "input_audio"],
        },
        "text": TEXT,
        **dict.fromkeys(("image", "image_url", "image_base64", "audio", "audio_url"), _source({})),
        "input_audio": {"anyOf": [_URI, _AUDIO]},
        "url": _URI,
    },
}
CONTENT: Final[Schema] = {"anyOf": [TEXT, {"type": "array", "title": "a list of parts", "items": INPUT_PART}]}
INPUT: Final[Schema] = {
    **INPUT_PART,
    "title": 'an object such as {"image": "data:image/..."}',
    "properties": {**INPUT_PART["properties"], "content": CONTENT},
}

_FUNCTION = {
    "name": TEXT,
    "description": TEXT,
    "parameters": {"type": "object", "description": "JSON Schema of the arguments."},
    "strict": {"type": "boolean", "enum": [False]},
}
TOOL: Final[Schema] = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["function"]},
        "function": {
            "type": "object",
            "properties": _FUNCTION,
            "required": ["name"],
            "additionalProperties": False,
        },
    },
    "required": ["type", "function"],
    "additionalProperties": False,
}
FLAT_TOOL: Final[Schema] = {
    "type": "object",
    "properties": {"type": {"type": "string", "enum": ["function"]}, **_FUNCTION},
    "required": ["type", "name"],
    "additionalProperties": False,
}
TOOL_CALL: Final[Schema] = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "type": {"type": "string", "enum": ["function"]},
        "function": {
            "type": "object",
            "properties": {
                "name": TEXT,
                "arguments": {"anyOf": [{"type": "string", "description": "JSON"}, {"type": "object"}]},
            },
            "required": ["name"],
        },
    },
    "required": ["function"],
}
ITEM: Final[Schema] = {
    "type": "object",
    "title": "an item",
    "description": "Of /v1/responses: a message, what the model thought, a call of a function, or its output.",
    "properties": {
        "type": {"type": "string", "enum": ["message", "reasoning", "function_call", "function_call_output"]},
        "id": TEXT,
        "status": TEXT,
        "phase": TEXT,
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant"]},
        "content": {
            "anyOf": [TEXT, {"type": "array", "title": "a list of parts", "items": {"type": "object"}}],
        },
        "summary": {"type": "array", "maxItems": 0, "items": {"type": "object"}},
        "call_id": TEXT,
        "name": TEXT,
        "arguments": TEXT,
        "output": {"anyOf": [TEXT, PARTS]},
    },
}
