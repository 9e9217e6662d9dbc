"""Chats to prompts: messages in the OpenAI shape, their images and videos, and the checkpoint's chat template."""

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jinja2
import numpy as np
from PIL import Image

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.processing.files import read_json
from mlx_mm.processing.sandbox import RefusedError, Sandbox
from mlx_mm.processing.sources import is_file

Messages: TypeAlias = Sequence[Mapping[str, object]]  # in the OpenAI shape
Tools: TypeAlias = Sequence[Mapping[str, object]]  # function schemas in the OpenAI shape

_ROLES: dict[str, tuple[str, ...]] = {  # role -> keys of a message beside "role", "content" and "name"
    "system": (),
    "user": (),
    "assistant": ("reasoning_content", "reasoning", "tool_calls"),
    "tool": ("tool_call_id",),
}
# type of a part -> the keys that can hold its source, and what they take
_MEDIA_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "image": {
        "image": (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray),
        "path": (str, os.PathLike),
        "url": (str,),
    },
    "image_url": {"image_url": (str, Mapping)},
    "video": {
        "video": (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, list, tuple),
        "path": (str, os.PathLike),
        "url": (str,),
    },
    "video_url": {"video_url": (str, Mapping)},
}
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


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


def media_in(messages: Messages) -> list[MediaPart]:
    """The images and videos of a chat in reading order, those of tool results included; raises InputError."""
    found = [media for message in _read(messages) for media in message.media]
    for media in found:
        if media.source is None:
            keys = " or ".join(f'"{key}"' for key in _MEDIA_KEYS[media.kind])
            raise InputError(f"{media.where} is a part of type {media.kind} without a source; expected {keys}. Add it.")
    return found


def for_template(messages: Messages) -> list[dict[str, object]]:
    """What a template sees: texts, {"type": "image"} and {"type": "video"}, tool arguments as objects; no sources.

    A message keeps a string as a string and a list of parts as a list. The result may be given again and stays as it
    is; therefore a part without its source passes here and is refused by `media_in`. Raises InputError.
    """
    return [message.shown for message in _read(messages)]


def texts_in(messages: Messages) -> list[str]:
    """Every string of a chat that reaches the prompt; texts that stand side by side in a message are joined."""
    found: list[str] = []
    for message in _read(messages):
        content = message.shown["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        run = ["\0" if part["type"] != "text" else part["text"] for part in parts]
        others = {key: value for key, value in message.shown.items() if key not in ("role", "content")}
        found += [*"".join(run).split("\0"), *_strings(others)]
    return [text for text in found if text]


def typed_markers(text: str, markers: Sequence[str]) -> list[str]:
    """Those of a model's special strings that occur in a text, in the order in which they are given."""
    return [marker for marker in markers if marker in text]


def check_tools(tools: object) -> list[Mapping[str, object]] | None:
    """Function schemas in the OpenAI shape, unchanged; None for none at all. Raises InputError."""
    if tools is None:
        return None
    if not isinstance(tools, list | tuple):
        raise InputError(f"tools is {_type(tools)}; expected a list of function schemas. Put a single one in a list.")
    for index, tool in enumerate(tools):
        _check_tool(tool, f"tools[{index}]")
    return list(tools) or None


class ChatTemplate:
    """A checkpoint's chat template, run in a sandbox.

    source: Jinja text. name: what errors call it. tokens: variables that a template always has, such as bos_token.
    Raises ConfigError for a syntax error.
    """

    def __init__(self, source: str, *, name: str = "The chat template", tokens: Mapping[str, str] | None = None):
        self.source = source
        self.name = name
        self.tokens = dict(tokens or {})
        self._environment = Sandbox()
        try:
            self._template = self._environment.compiled(source)
        except Exception as error:  # whatever the parser and the compiler meet, deep nesting included
            raise ConfigError(
                f"{name} cannot be read ({_reason(error)}); expected a Jinja template. Take the checkpoint's "
                "own file again."
            ) from error

    def __reduce__(self) -> tuple[Callable[[], "ChatTemplate"], tuple[()]]:
        """A copy or a pickle compiles the source anew."""
        return functools.partial(ChatTemplate, self.source, name=self.name, tokens=self.tokens), ()

    @classmethod
    def from_folder(cls, folder: Path) -> "ChatTemplate | None":
        """The template of a checkpoint's folder, None where it has none; raises ConfigError for a file without sense.

        In this order: chat_template.jinja, tokenizer_config.json, chat_template.json (older processors).
        """
        named = read_json(folder / "tokenizer_config.json")
        tokens = {key: _token_text(named[key]) for key in _TOKENS if named.get(key) is not None}
        path = folder / "chat_template.jinja"
        if path.is_file():
            try:
                return cls(path.read_text("utf-8"), name=str(path), tokens=tokens)
            except (OSError, UnicodeError) as error:
                raise ConfigError(
                    f"{path} cannot be read ({_reason(error)}); expected UTF-8 text. Download it again."
                ) from error
        for path in (folder / "tokenizer_config.json", folder / "chat_template.json"):
            found = read_json(path).get("chat_template")
            if found is not None:
                return cls(_default(found, path), name=f"chat_template of {path}", tokens=tokens)
        return None

    def render(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
        **variables: object,
    ) -> str:
        """The prompt of a chat. messages: as users write them; what the template sees is `for_template` of them.

        enable_thinking None: the template decides. Raises InputError for messages or tools of another shape and where
        the template refuses them, ConfigError where the template itself fails.
        """
        if enable_thinking is not None:
            variables["enable_thinking"] = enable_thinking
        values = self.tokens | variables | {"messages": for_template(messages), "tools": check_tools(tools)}
        try:
            return self._environment.run(self._template, values | {"add_generation_prompt": add_generation_prompt})
        except RefusedError as error:
            raise InputError(
                f"{self.name} refuses these messages: {_reason(error)}. Expected a chat as this model has it. "
                "Change the messages."
            ) from error
        except Exception as error:  # a template is a program, and can fail like one
            raise ConfigError(
                f"{self.name} fails on these messages ({_reason(error)}); expected text. Take the checkpoint's own "
                "file, or give fewer kinds of message."
            ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"line {error.lineno}: {text}" if isinstance(error, jinja2.TemplateSyntaxError) else text
    return text if len(text) <= 300 else f"{text[:300]}…"


def _default(found: Any, path: Path) -> str:
    """The template among those of a file: one string, or several by name, of which "default" counts."""
    if isinstance(found, str):
        return found
    if isinstance(found, list) and all(isinstance(item, dict) for item in found):
        found = {item.get("name"): item.get("template") for item in found}
    if isinstance(found, dict) and isinstance(found.get("default"), str):
        return str(found["default"])
    names = f"the templates {', '.join(map(str, found))}" if isinstance(found, dict) else _type(found)
    raise ConfigError(
        f'chat_template of {path} holds {names}; expected text, or one called "default". Put the one to use into '
        "chat_template.jinja."
    )


def _token_text(value: Any) -> str:
    return str(value.get("content") if isinstance(value, dict) else value)


# --- messages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Message:
    shown: dict[str, Any]
    media: list[MediaPart]


def _read(messages: Any) -> list[_Message]:
    if not isinstance(messages, list | tuple) or not messages:
        raise InputError(
            f"messages is {_type(messages)}{' without items' if messages in ([], ()) else ''}; expected a list of "
            '{"role", "content"}. Put a single message in a list.'
        )
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, where: str) -> _Message:
    if not isinstance(message, Mapping):
        raise InputError(f'{where} is {_type(message)}; expected {{"role", "content"}}. Change it.')
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InputError(f"{where} has the role {role!r}; expected one of {', '.join(_ROLES)}. Change it.")
    known = ("role", "content", "name", *_ROLES[role])
    for key, value in message.items():
        empty = value is None or (isinstance(value, str | list | dict) and not value)
        if key not in known and not empty:  # what APIs send back empty does not matter
            raise InputError(f"{where} has the key {key!r}; a message of {role} has {', '.join(known)}. Leave it out.")
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
        _check(shown.get(key, ""), str, f"{where}.{key}")
    return _Message(shown, media)


def _content(content: Any, role: str, where: str) -> tuple[str | list[dict[str, Any]], list[MediaPart]]:
    if content is None and role in ("assistant", "tool"):  # calls need no words
        return "", []
    if isinstance(content, str):
        return content, []
    _check(content, (list, tuple), f"{where}.content", "a str or a list of parts")
    parts = [_part(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
    return [shown for shown, _ in parts], [media for _, media in parts if media is not None]


def _part(part: Any, where: str) -> tuple[dict[str, Any], MediaPart | None]:
    _check(part, Mapping, where, 'an object with "type"')
    kind = part.get("type")
    if kind == "text":
        _check(part.get("text"), str, f"{where}.text")
        return {"type": "text", "text": part["text"]}, None
    if not isinstance(kind, str) or kind not in _MEDIA_KEYS:
        expected = ", ".join(("text", *_MEDIA_KEYS))
        raise InputError(f"{where} is a part of type {kind!r}; expected one of {expected}. Change it.")
    keys = _MEDIA_KEYS[kind]
    given = [key for key in keys if part.get(key) is not None]
    if len(given) > 1:
        raise InputError(f"{where} has its source twice, in {' and '.join(given)}; expected one. Leave one out.")
    source = part[given[0]] if given else None
    options = {key: value for key, value in part.items() if key not in ("type", *keys)}
    if given and not (given[0] == kind and is_file(source)):
        _check(source, keys[given[0]], f"{where}.{given[0]}")
    if isinstance(source, Mapping):
        options |= {key: value for key, value in source.items() if key != "url"}
        source = source.get("url")
        _check(source, (str, type(None)), f"{where}.{given[0]}.url")
    if isinstance(source, str) and not source:
        source = None
    if options.get("detail") == "auto":  # OpenAI's way of asking for nothing
        del options["detail"]
    name: Literal["image", "video"] = "image" if kind.startswith("image") else "video"
    options = {key: value for key, value in options.items() if value is not None}
    return {"type": name}, MediaPart(name, source, options, where)


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if calls is None:
        return []
    _check(calls, (list, tuple), f"{where}.tool_calls")
    return [_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]


def _call(call: Any, where: str) -> dict[str, Any]:
    _check(call, Mapping, where)
    if call.get("type", "function") != "function":
        raise InputError(f'{where} is of type {call["type"]!r}; expected "function". Change it.')
    function = call.get("function")
    _check(function, Mapping, f"{where}.function", 'an object with "name" and "arguments"')
    _check(function.get("name"), str, f"{where}.function.name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where}.function.arguments is no JSON ({_reason(error)}); expected an object. Change it."
            ) from error
    arguments = {} if arguments is None else arguments
    _check(arguments, dict, f"{where}.function.arguments", "an object, or its JSON")
    _check_json(arguments, f"{where}.function.arguments")
    identity = {} if call.get("id") is None else {"id": str(call["id"])}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _check_tool(tool: Any, where: str) -> None:
    _check(tool, Mapping, where, 'an object with "type" and "function"')
    if tool.get("type") != "function":
        raise InputError(f'{where} has the type {tool.get("type")!r}; expected "type": "function". Add it.')
    function = tool.get("function")
    _check(function, Mapping, f"{where}.function", 'an object with "name", "description" and "parameters"')
    _check(function.get("name"), str, f"{where}.function.name")
    _check(function.get("description", ""), (str, type(None)), f"{where}.function.description")
    _check(function.get("parameters", {}), (Mapping, type(None)), f"{where}.function.parameters", "a JSON schema")
    _check_json(tool, where)


def _check(value: Any, types: Any, where: str, expected: str = "") -> None:
    if not isinstance(value, types):
        names = [kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)) if kind is not type(None)]
        found = "missing" if value is None else _type(value)
        raise InputError(f"{where} is {found}; expected {expected or ' or '.join(names)}. Change it.")


def _check_json(value: Any, where: str) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} cannot be JSON ({_reason(error)}); expected plain values. Change it.") from error


def _strings(value: Any) -> Iterator[str]:
    """Every string in plain values, keys included."""
    if isinstance(value, str):
        yield value
    for item in value.items() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _strings(item)


def _type(value: Any) -> str:
    return type(value).__name__
