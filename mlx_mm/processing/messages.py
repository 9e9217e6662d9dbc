"""Messages in the OpenAI shape, as users write them: what they say, and the images and videos in them."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from mlx_mm.errors import InputError, is_whole, reason
from mlx_mm.processing.plain import check_plain, check_text, quoted
from mlx_mm.processing.video import Video

_ROLES: dict[str, tuple[str, ...]] = {  # role -> keys of a message beside "role", "content" and "name"
    "system": (),
    "user": (),
    "assistant": ("reasoning_content", "reasoning", "tool_calls"),
    "tool": ("tool_call_id",),
}
_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
_VIDEO = (str, os.PathLike, bytes, bytearray, memoryview, Video, np.ndarray, list, tuple)
# type of a part -> the keys that can hold its source, and what they take
_MEDIA_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "image": {"image": _IMAGE, "path": (str, os.PathLike), "url": (str,)},
    "image_url": {"image_url": (str, Mapping)},
    "video": {"video": _VIDEO, "path": (str, os.PathLike), "url": (str,)},
    "video_url": {"video_url": (str, Mapping)},
}


@dataclass(frozen=True)
class MediaPart:
    """An image or a video of a chat.

    source: what `open_image` or `open_video` takes. options: what the part says beside it, such as fps. where: its
    place, in words.
    """

    kind: Literal["image", "video"]
    source: Any
    options: Mapping[str, object]
    where: str

    def keys(self) -> str:
        """The keys that can hold the source of such a part, in words."""
        return " or ".join(f'"{key}"' for key in _MEDIA_KEYS[self.kind])


@dataclass(frozen=True)
class Message:
    """shown: what a template sees of it, plain values. media: its images and videos, in their order."""

    shown: dict[str, Any]
    media: list[MediaPart]


def read_messages(messages: object) -> list[Message]:
    """A chat, message by message; InputError for one of another shape."""
    if not isinstance(messages, list | tuple) or not messages:
        empty = isinstance(messages, list | tuple)
        raise InputError(
            f"messages is {_type(messages)}{' without items' if empty else ''}; expected a list of "
            '{"role", "content"}. Put a single message in a list.'
        )
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise InputError(f'{where} is {_type(message)}; expected {{"role", "content"}}. Change it.')
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InputError(f"{where} has the role {quoted(role)}; expected one of {', '.join(_ROLES)}. Change it.")
    known = ("role", "content", "name", *_ROLES[role])
    for key, value in message.items():
        empty = value is None or (isinstance(value, str | list | dict) and not value)
        if key not in known and not empty:  # what APIs send back empty does not matter
            raise InputError(
                f"{where} has the key {quoted(key)}; a message of {role} has {', '.join(known)}. Leave it out."
            )
    content, media = _content(message.get("content"), role, where)
    shown: dict[str, Any] = {"role": role, "content": content}
    shown |= {key: message[key] for key in ("name", "tool_call_id") if message.get(key) is not None}
    if role == "assistant":
        reasoning = message.get("reasoning_content")
        reasoning = message.get("reasoning") if reasoning is None else reasoning
        shown |= {} if reasoning is None else {"reasoning_content": reasoning}
        calls = _calls(message.get("tool_calls"), where)
        shown |= {"tool_calls": calls} if calls else {}
    for key in ("name", "tool_call_id", "reasoning_content"):
        _check_text(shown.get(key, ""), f"{where}.{key}")
    return Message(shown, media)


def _content(content: Any, role: str, where: str) -> tuple[str | list[dict[str, Any]], list[MediaPart]]:
    if content is None and role in ("assistant", "tool"):  # calls need no words
        return "", []
    if isinstance(content, str):
        check_text(content, f"{where}.content")
        return content, []
    _check(content, (list, tuple), f"{where}.content", "a str or a list of parts")
    parts = [_part(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
    return [shown for shown, _ in parts], [media for _, media in parts if media is not None]


def _part(part: Any, where: str) -> tuple[dict[str, Any], MediaPart | None]:
    _check(part, Mapping, where, 'an object with "type"')
    kind = part.get("type")
    if _is(kind, "text"):
        _check_text(part.get("text"), f"{where}.text")
        return {"type": "text", "text": part["text"]}, None
    if not isinstance(kind, str) or kind not in _MEDIA_KEYS:
        expected = ", ".join(("text", *_MEDIA_KEYS))
        raise InputError(f"{where} is a part of type {quoted(kind)}; expected one of {expected}. Change it.")
    keys = _MEDIA_KEYS[kind]
    given = [key for key in keys if part.get(key) is not None]
    if len(given) > 1:
        raise InputError(f"{where} has its source twice, in {' and '.join(given)}; expected one. Leave one out.")
    source = part[given[0]] if given else None
    options = {key: value for key, value in part.items() if key not in ("type", *keys)}
    if given and not (given[0] == kind and hasattr(source, "read")):  # an open file
        _check(source, keys[given[0]], f"{where}.{given[0]}")
    if isinstance(source, Mapping):
        options |= {key: value for key, value in source.items() if key != "url"}
        source = source.get("url")
        _check(source, (str, type(None)), f"{where}.{given[0]}.url")
    if isinstance(source, str) and not source:
        source = None
    if _is(options.get("detail"), "auto"):  # OpenAI's way of asking for nothing
        del options["detail"]
    name: Literal["image", "video"] = "image" if kind.startswith("image") else "video"
    if odd := [key for key in options if not isinstance(key, str)]:
        raise InputError(f"{where} has the key {quoted(odd[0])}; expected text for keys. Leave it out.")
    options = {key: value for key, value in options.items() if value is not None}
    return {"type": name}, MediaPart(name, source, options, where)


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if calls is None:
        return []
    _check(calls, (list, tuple), f"{where}.tool_calls")
    return [_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]


def _call(call: Any, where: str) -> dict[str, Any]:
    _check(call, Mapping, where)
    if not _is(call.get("type", "function"), "function"):
        raise InputError(f'{where} is of type {quoted(call["type"])}; expected "function". Change it.')
    function = call.get("function")
    _check(function, Mapping, f"{where}.function", 'an object with "name" and "arguments"')
    _check_text(function.get("name"), f"{where}.function.name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where}.function.arguments is no JSON ({reason(error)}); expected an object. Change it."
            ) from error
    arguments = {} if arguments is None else arguments
    _check(arguments, dict, f"{where}.function.arguments", "an object, or its JSON")
    check_plain(arguments, f"{where}.function.arguments")
    identity = call.get("id")
    if identity is not None and not (is_whole(identity) and abs(identity) < 2**64):
        _check_text(identity, f"{where}.id")
    known = {} if identity is None else {"id": str(identity)}
    return {**known, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def check_tool(tool: object, where: str) -> None:
    """Raise InputError for what is no function schema in the OpenAI shape."""
    check_plain(tool, where)
    given: Any = tool
    _check(given, Mapping, where, 'an object with "type" and "function"')
    if not _is(given.get("type"), "function"):
        raise InputError(f'{where} has the type {quoted(given.get("type"))}; expected "type": "function". Add it.')
    function = given.get("function")
    _check(function, Mapping, f"{where}.function", 'an object with "name", "description" and "parameters"')
    _check(function.get("name"), str, f"{where}.function.name")
    _check(function.get("description", ""), (str, type(None)), f"{where}.function.description")
    _check(function.get("parameters", {}), (Mapping, type(None)), f"{where}.function.parameters", "a JSON schema")


def _check(value: Any, types: Any, where: str, expected: str = "") -> None:
    if not isinstance(value, types):
        names = [kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)) if kind is not type(None)]
        found = "missing" if value is None else _type(value)
        raise InputError(f"{where} is {found}; expected {expected or ' or '.join(names)}. Change it.")


def _check_text(value: Any, where: str) -> None:
    _check(value, str, where)
    check_text(value, where)


def _is(value: object, text: str) -> bool:
    """Whether a value is this text; an array would compare each of its items."""
    return isinstance(value, str) and value == text


def _type(value: Any) -> str:
    return type(value).__name__
