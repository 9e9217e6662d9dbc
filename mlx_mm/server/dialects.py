"""Requests for vectors in the shapes of several APIs, and what all of them come to."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from mlx_mm.models.contracts import Modality
from mlx_mm.server.engine import EmbedOptions
from mlx_mm.server.errors import Problem
from mlx_mm.server.media import Reader
from mlx_mm.server.reading import JsonObject, Schema, only
from mlx_mm.server.schemas import CONTENT, FLAG, INPUT, INPUT_PART, TEXT

_DIMENSIONS = {"type": "integer", "minimum": 1, "description": "The first so many numbers, at unit length again."}
MOST_ITEMS = 2048  # of one request
_ITEMS = {
    "type": "array",
    "minItems": 1,
    "maxItems": MOST_ITEMS,
    "items": {"anyOf": [TEXT, INPUT]},
}

EMBEDDINGS: Final[Schema] = {
    "type": "object",
    "description": "OpenAI's shape. input: texts, or objects with text, image or audio (Jina, SGLang), or parts of a "
    "message. With modality (Infinity) its strings are data URIs. messages (vLLM) in the place of input give one "
    "vector.",
    "properties": {
        "model": TEXT,
        "input": {"anyOf": [TEXT, INPUT, {**_ITEMS, "title": "a list of texts or objects"}]},
        "messages": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "properties": {"role": {"type": "string", "enum": ["user"]}, "content": CONTENT},
                "required": ["content"],
                "additionalProperties": False,
            },
        },
        "modality": {"type": "string", "enum": ["text", "image", "audio"]},
        "encoding_format": {"type": "string", "enum": ["float", "base64"]},
        "dimensions": _DIMENSIONS,
        "task": TEXT,
        "truncate": FLAG,
        "normalized": FLAG,
        "user": {"type": "string", "description": "Who asks; it changes nothing."},
    },
    "required": ["model"],
    "additionalProperties": False,
}
VOYAGE: Final[Schema] = {
    "type": "object",
    "description": "Voyage's shape. input_type: query or document, which no model here tells apart.",
    "properties": {
        "model": TEXT,
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_ITEMS,
            "items": {
                "type": "object",
                "properties": {"content": {"type": "array", "minItems": 1, "maxItems": 1, "items": INPUT_PART}},
                "required": ["content"],
                "additionalProperties": False,
            },
        },
        "input_type": {"type": "string", "enum": ["query", "document"]},
        "truncation": FLAG,
        "output_encoding": {"type": "string", "enum": ["base64"]},
        "output_dimension": _DIMENSIONS,
    },
    "required": ["model", "inputs"],
    "additionalProperties": False,
}
COHERE: Final[Schema] = {
    "type": "object",
    "description": "Cohere's shape. input_type: what for, which no model here tells apart.",
    "properties": {
        "model": TEXT,
        "texts": {"type": "array", "maxItems": MOST_ITEMS, "items": TEXT},
        "images": {"type": "array", "maxItems": MOST_ITEMS, "items": TEXT},
        "inputs": VOYAGE["properties"]["inputs"],
        "input_type": {
            "type": "string",
            "enum": ["search_document", "search_query", "classification", "clustering", "image"],
        },
        "embedding_types": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": ["float", "base64"]}},
        "output_dimension": _DIMENSIONS,
        "truncate": {"type": "string", "enum": ["NONE", "END"]},
    },
    "required": ["model"],
    "additionalProperties": False,
}


class Item(NamedTuple):
    """source: a text, or bytes or a file of a picture or sound. place: in the request."""

    kind: Modality
    source: object
    place: str


# Type of a part, or key of an object -> its kind, and the keys that may hold its source.
_KEYS: dict[str, tuple[Modality, tuple[str, ...]]] = {
    "text": ("text", ("text",)),
    "image": ("image", ("image", "url")),
    "image_url": ("image", ("image_url",)),
    "image_base64": ("image", ("image_base64",)),
    "audio": ("audio", ("audio", "url")),
    "audio_url": ("audio", ("audio_url",)),
    "input_audio": ("audio", ("input_audio",)),
}


@dataclass(frozen=True)
class Wanted:
    """What all shapes come to. encodings: "float" or "base64". options: of texts, and those of all."""

    model: str
    items: list[Item]
    encodings: tuple[str, ...] = ("float",)
    options: EmbedOptions = field(default_factory=EmbedOptions)
    text_options: EmbedOptions = field(default_factory=EmbedOptions)


Read: TypeAlias = Callable[[JsonObject, Reader], Coroutine[object, object, Wanted]]


async def read_openai(body: JsonObject, reader: Reader) -> Wanted:
    """A body that `EMBEDDINGS` allows."""
    if ("input" in body) == ("messages" in body):
        raise Problem("input and messages are both given, or neither; expected one of them. Change it.", param="input")
    kind = body.get("modality")
    if "messages" in body:
        if kind is not None:
            raise Problem("modality is given with messages; expected input with it. Leave it out.", param="modality")
        items = [await _of_messages(body["messages"], reader)]
    else:
        given = body["input"] if isinstance(body["input"], list) else [body["input"]]
        places = [f"input[{place}]" for place in range(len(given))]
        items = [await _item(one, place, reader, kind) for one, place in zip(given, places, strict=True)]
    options = EmbedOptions()
    if "dimensions" in body:
        options["dim"] = body["dimensions"]
    if "normalized" in body:
        options["normalize"] = body["normalized"]
    texts = EmbedOptions()
    if "task" in body:
        texts["task"] = body["task"]
        if not any(item.kind == "text" for item in items):
            raise Problem("task is given, and no text; expected one with it. Leave it out.", param="task")
    if "truncate" in body:
        texts["truncate"] = body["truncate"]
    return Wanted(body["model"], items, (body.get("encoding_format", "float"),), options, texts)


async def read_voyage(body: JsonObject, reader: Reader) -> Wanted:
    """A body that `VOYAGE` allows."""
    items = [
        await _content(one["content"], f"inputs[{place}].content", reader) for place, one in enumerate(body["inputs"])
    ]
    return Wanted(
        body["model"],
        items,
        (body.get("output_encoding", "float"),),
        EmbedOptions(dim=body.get("output_dimension")),
        EmbedOptions(truncate=body.get("truncation", True)),
    )


async def read_cohere(body: JsonObject, reader: Reader) -> Wanted:
    """A body that `COHERE` allows: texts, pictures and mixed inputs, in this order."""
    items = [Item("text", text, f"texts[{place}]") for place, text in enumerate(body.get("texts", []))]
    for place, image in enumerate(body.get("images", [])):
        items.append(Item("image", await reader.read(image, "image", f"images[{place}]"), f"images[{place}]"))
    for place, one in enumerate(body.get("inputs", [])):
        items.append(await _content(one["content"], f"inputs[{place}].content", reader))
    if not items:
        raise Problem("texts, images and inputs are missing; expected some of them. Add one.", param="texts")
    return Wanted(
        body["model"],
        items,
        tuple(dict.fromkeys(body.get("embedding_types", ["float"]))),
        EmbedOptions(dim=body.get("output_dimension")),
        EmbedOptions(truncate=body.get("truncate", "END") == "END"),
    )


async def _item(given: object, where: str, reader: Reader, kind: Modality | None) -> Item:
    if isinstance(given, str):
        if kind == "image" or kind == "audio":
            return Item(kind, await reader.read(given, kind, where), where)
        return Item("text", given, where)
    if kind is not None:
        raise Problem(f"{where} is an object, and modality is given; expected text. Leave modality out.", param=where)
    assert isinstance(given, dict)  # as the schema says
    if "content" not in given:
        return await _part(given, where, reader)
    only(given, ("content",), where)
    return await _content(given["content"], f"{where}.content", reader)


async def _content(parts: object, where: str, reader: Reader) -> Item:
    """The only part of a list of them."""
    if isinstance(parts, str):
        return Item("text", parts, where)
    if not isinstance(parts, list) or len(parts) != 1 or not isinstance(parts[0], dict):
        count = f"{len(parts)} parts" if isinstance(parts, list) else type(parts).__name__
        raise Problem(
            f"{where} is {count}; expected one part, as a vector is that of one text, picture or sound. Send each as "
            "an input of its own.",
            param=where,
            code="invalid_value",
        )
    return await _part(parts[0], f"{where}[0]", reader)


async def _of_messages(messages: list[JsonObject], reader: Reader) -> Item:
    return await _content(messages[0]["content"], "messages[0].content", reader)


async def _part(part: JsonObject, where: str, reader: Reader) -> Item:
    named = part.get("type")
    names = [named] if named is not None else [name for name in _KEYS if part.get(name) is not None]
    if len(names) != 1 or not isinstance(names[0], str) or names[0] not in _KEYS:
        raise Problem(
            f"{where} has {'the type ' + repr(named) if named else 'the keys ' + ', '.join(part)}; expected one of "
            f"{', '.join(_KEYS)}. Change it.",
            param=where,
            code="invalid_value",
        )
    kind, keys = _KEYS[names[0]]
    odd = [key for key in part if key not in ("type", *keys) and part[key] is not None]
    given = [key for key in keys if part.get(key) is not None]
    if odd or len(given) != 1:
        raise Problem(
            f"{where} has the keys {', '.join(part)}; expected {' or '.join(keys)} alone. Change it.",
            param=where,
            code="invalid_value",
        )
    source, place = part[given[0]], f"{where}.{given[0]}"
    if isinstance(source, dict):
        source = _uri(source, place)
    if not isinstance(source, str):
        raise Problem(
            f"{place} is {type(source).__name__}; expected text. Change it.",
            param=place,
            code="invalid_value",
        )
    if kind == "image" or kind == "audio":
        return Item(kind, await reader.read(source, kind, place), place)
    return Item(kind, source, place)


def _uri(source: JsonObject, where: str) -> object:
    """Of {"url"}, or of OpenAI's {"data", "format"} of a sound."""
    only(source, ("data", "format") if "data" in source else ("url",), where)
    if isinstance(source.get("data"), str):
        return f"data:audio/{source.get('format', 'wav')};base64,{source['data']}"
    return source.get("url")
