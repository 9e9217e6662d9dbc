"""Chats to prompts: messages in the OpenAI shape, their images and videos, and the checkpoint's chat template."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from mlx_mm.errors import ConfigError, InputError, foreign
from mlx_mm.processing import template_process
from mlx_mm.processing.arguments import flag, optional_flag
from mlx_mm.processing.files import read_json, read_regular
from mlx_mm.processing.messages import MediaPart, check_tool, read_messages
from mlx_mm.processing.plain import check_plain
from mlx_mm.processing.token_names import token_text

Messages: TypeAlias = Sequence[Mapping[str, object]]  # in the OpenAI shape
Tools: TypeAlias = Sequence[Mapping[str, object]]  # function schemas in the OpenAI shape

Source = TypeVar("Source")

MAX_SOURCE = 2**20  # characters; published templates have up to 30,000
QUOTED_NAMES = 300
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def media_in(messages: Messages) -> list[MediaPart]:
    """The images and videos of a chat in reading order, those of tool results included; raises InputError."""
    return with_sources(parts_in(messages))


def parts_in(messages: Messages) -> list[MediaPart]:
    """What `media_in` gives, and also those that have no source yet."""
    return [media for message in read_messages(messages) for media in message.media]


def with_sources(parts: list[MediaPart]) -> list[MediaPart]:
    """The parts as they are; InputError where one has no source."""
    for media in parts:
        if media.source is None:
            raise InputError(
                f"{media.where} is a part of type {media.kind} without a source; expected {media.keys()}. Add it."
            )
    return parts


def fill_media(
    messages: Messages, kind: Literal["image", "video"], sources: Sequence[Source]
) -> tuple[Messages, Sequence[Source]]:
    """The messages with these sources in their parts of a kind that have none, in reading order; and what is left.

    Left are all where no part lacks its source, and else none: as many are expected as parts lack one. InputError.
    """
    read = read_messages(messages)
    empty = [media for message in read for media in message.media if media.kind == kind and media.source is None]
    if not empty:
        return messages, sources
    if len(empty) != len(sources):
        raise InputError(
            f"The messages have {len(empty)} parts of type {kind} without a source, {empty[0].where} first, and "
            f"{len(sources)} {kind}s were given; expected as many of both. Give one for each, or take parts out."
        )
    rest, filled = iter(sources), list[Mapping[str, object]]()
    for message, found in zip(messages, read, strict=True):
        content, media = message.get("content"), iter(found.media)
        if isinstance(content, list | tuple):
            content = [part if part["type"] == "text" else _filled(part, next(media), kind, rest) for part in content]
            message = {**message, "content": content}
        filled.append(message)
    return filled, ()


def for_template(messages: Messages) -> list[dict[str, object]]:
    """What a template sees: texts, {"type": "image"} and {"type": "video"}, tool arguments as objects; no sources.

    A message keeps a string as a string and a list of parts as a list. The result may be given again and stays as it
    is; therefore a part without its source passes here and is refused by `media_in`. Raises InputError.
    """
    return [message.shown for message in read_messages(messages)]


def texts_in(messages: Messages) -> list[str]:
    """Every string of a chat that reaches the prompt; texts that stand side by side in a message are joined."""
    found: list[str] = []
    for message in read_messages(messages):
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
        raise InputError(
            f"tools is {type(tools).__name__}; expected a list of function schemas. Put a single one in a list."
        )
    for index, tool in enumerate(tools):
        check_tool(tool, f"tools[{index}]")
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
        if len(source) > MAX_SOURCE:
            raise ConfigError(
                f"{name} has {len(source):,} characters; expected at most {MAX_SOURCE:,}. Take the checkpoint's own "
                "file again."
            )
        template_process.render(source, None, name=name)

    def __reduce__(self) -> tuple[Callable[[], "ChatTemplate"], tuple[()]]:
        """A copy or a pickle compiles the source anew."""
        return functools.partial(ChatTemplate, self.source, name=self.name, tokens=self.tokens), ()

    @classmethod
    def from_folder(cls, folder: Path) -> "ChatTemplate | None":
        """The template of a checkpoint's folder, None where it has none; raises ConfigError for a file without sense.

        In this order: chat_template.jinja, tokenizer_config.json, chat_template.json (older processors).
        """
        named = read_json(folder / "tokenizer_config.json")
        tokens = {key: token_text(named, key, folder) for key in _TOKENS if named.get(key) is not None}
        path = folder / "chat_template.jinja"
        if os.path.lexists(path):
            with foreign(ConfigError, f"{path} cannot be read", "expected UTF-8 text. Download it again."):
                return cls(read_regular(path, 4 * MAX_SOURCE).decode("utf-8-sig"), name=str(path), tokens=tokens)
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
        add_generation_prompt = flag("add_generation_prompt", add_generation_prompt)
        enable_thinking = optional_flag("enable_thinking", enable_thinking)
        if enable_thinking is not None:
            variables["enable_thinking"] = enable_thinking
        variables |= {"messages": for_template(messages), "tools": check_tools(tools)}
        variables["add_generation_prompt"] = add_generation_prompt
        check_plain(variables, "The chat")
        return template_process.render(self.source, self.tokens | variables, name=self.name)


def _default(found: object, path: Path) -> str:
    """The template among those of a file: one string, or several by name, of which "default" counts."""
    if isinstance(found, str):
        return found
    if isinstance(found, list) and all(isinstance(item, dict) for item in found):
        found = {item["name"]: item.get("template") for item in found if isinstance(item.get("name"), str)}
    if isinstance(found, dict) and isinstance(found.get("default"), str):
        return str(found["default"])
    names = f"the templates {', '.join(found)}"[:QUOTED_NAMES] if isinstance(found, dict) else type(found).__name__
    raise ConfigError(
        f'chat_template of {path} holds {names}; expected text, or one called "default". Put the one to use into '
        "chat_template.jinja."
    )


def _filled(part: object, media: MediaPart, kind: str, sources: Iterator[object]) -> object:
    """A part as it is, or with the next source where it is of this kind and has none."""
    if media.kind != kind or media.source is not None:
        return part
    return {"type": kind, kind: next(sources), **media.options}


def _strings(value: Any) -> Iterator[str]:
    """Every string in plain values, keys included."""
    if isinstance(value, str):
        yield value
    for item in value.items() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _strings(item)
