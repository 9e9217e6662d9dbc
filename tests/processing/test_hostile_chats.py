"""Chats and tools of any shape, as a program may pass them on from strangers: used, or one InputError."""

from __future__ import annotations

import enum
import time
from typing import Any

import numpy as np
import pytest

from mlx_mm.errors import InputError
from mlx_mm.models.glm4v.prompt import part_options, refuse_typed
from mlx_mm.processing.chat import ChatTemplate, check_tools, for_template, media_in, texts_in
from mlx_mm.processing.plain import check_plain

TEMPLATE = ChatTemplate("{% for m in messages %}{{ m | tojson }}{% endfor %}{{ tools | tojson }}")


def nested(depth: int, inner: Any = 1, key: str | None = None) -> Any:
    for _ in range(depth):
        inner = [inner] if key is None else {key: inner}
    return inner


def loops() -> dict[str, Any]:
    itself: list[Any] = []
    itself.append(itself)
    wide: list[Any] = [1]
    for _ in range(60):
        wide = [wide] * 10
    around: dict[str, Any] = {}
    around["x"] = {"y": [around]}
    many: list[Any] = []
    many += [many] * 50
    return {"list": itself, "dict": around, "wide": wide, "many": many}


class Colour(enum.Enum):
    RED = "red"


ODD: dict[str, Any] = {
    "deep list": nested(10_000),
    "deep dict": nested(10_000, key="x"),
    "101 deep": nested(101),
    **loops(),
    "nan": float("nan"),
    "infinity": [1, {"x": -float("inf")}],
    "half a pair": "a \ud83d b",
    "half a pair as key": {"\udc80": 1},
    "number as key": {1: 2},
    "None as key": {None: 1},
    "tuple as key": {(1, 2): 3},
    "mixed keys": {"a": 1, 2: 3},
    "object": object(),
    "bytes": b"x",
    "set": {1},
    "array": np.zeros(3),
    "number of NumPy": np.int64(5),
    "complex": 1j,
    "enum": Colour.RED,
    "long number": 10**5000,
    "long text": "x" * (2**24 + 1),
    "many values": [0] * 1_000_001,
}


def call(arguments: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]


def check(messages: Any, tools: Any = None) -> None:
    """All that looks at a chat says the same of it, in one short line, and soon."""
    start = time.monotonic()
    for function in (media_in, for_template, texts_in, TEMPLATE.render) if tools is None else ():
        with pytest.raises(InputError) as caught:
            function(messages)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
    for refusing in (lambda: TEMPLATE.render(messages, tools=tools), lambda: refuse_typed(messages, tools)):
        with pytest.raises(InputError) as caught:
            refusing()
        assert str(caught.value).isprintable()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("name", ODD)
def test_arguments_of_calls(name: str) -> None:
    check(call({"x": ODD[name]}))
    if isinstance(ODD[name], dict):
        check(call(ODD[name]))


@pytest.mark.parametrize("name", ODD)
def test_schemas(name: str) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": ODD[name]}}
    check([{"role": "user", "content": "x"}], [{"type": "function", "function": function}])


@pytest.mark.parametrize("place", ["content", "part", "text", "role", "name", "key", "type", "call", "id", "reasoning"])
def test_places_for_text(place: str) -> None:
    for name in [name for name in ODD if name not in ("long text", "half a pair")]:
        odd = ODD[name]
        messages: dict[str, Any] = {
            "content": [{"role": "user", "content": odd}],
            "part": [{"role": "user", "content": [odd]}],
            "text": [{"role": "user", "content": [{"type": "text", "text": odd}]}],
            "role": [{"role": odd, "content": "x"}],
            "name": [{"role": "user", "content": "x", "name": odd}],
            "key": [{"role": "user", "content": "x", "else": odd}],
            "type": [{"role": "user", "content": [{"type": odd}]}],
            "call": [{"role": "assistant", "tool_calls": [odd]}],
            "id": [{"role": "assistant", "tool_calls": [{"id": odd, "function": {"name": "f"}}]}],
            "reasoning": [{"role": "assistant", "content": "x", "reasoning_content": odd}],
        }
        if (place, name) != ("id", "number of NumPy"):
            check(messages[place])


@pytest.mark.parametrize("text", ["a \ud83d b", "\udc80"])
def test_half_a_surrogate_pair_is_named(text: str) -> None:
    chats: dict[str, Any] = {
        r"messages\[0\]\.content": [{"role": "user", "content": text}],
        r"messages\[0\]\.content\[1\]\.text": [
            {"role": "user", "content": [{"type": "image", "image": "x"}, {"type": "text", "text": text}]}
        ],
        r"messages\[1\]\.reasoning_content": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "x", "reasoning_content": text},
        ],
        r"messages\[0\]\.tool_call_id": [{"role": "tool", "content": "x", "tool_call_id": text}],
    }
    for where, messages in chats.items():
        with pytest.raises(InputError, match=rf"^{where} holds half of a surrogate pair .*; expected valid Unicode\."):
            for_template(messages)


def test_a_book_is_refused_before_it_is_rendered() -> None:
    with pytest.raises(InputError, match=r"The chat cannot be JSON \(it holds more than .* 16,777,216 characters\)"):
        TEMPLATE.render([{"role": "user", "content": "x" * 9_000_000}] * 2)


@pytest.mark.parametrize(
    "messages", [[nested(5000)], nested(5000), [{5: "x"}], [{None: 1, "role": "user"}], [[]], [None]]
)
def test_shapes(messages: Any) -> None:
    check(messages)
    loop: list[Any] = []
    loop.append(loop)
    check(loop)
    message: dict[str, Any] = {"role": "user"}
    message["content"] = [message]
    check([message])


def test_plain_values_pass() -> None:
    values = {"a": [1, -2.5, True, None, "ä🙂", (), {}], "b": nested(50), "": 2**64}
    check_plain(values, "x")
    shared = [1, 2]
    check_plain([shared] * 100, "x")
    assert for_template(call(values))[0]["tool_calls"][0]["function"]["arguments"] == values  # type: ignore[index]
    assert check_tools([{"type": "function", "function": {"name": "f", "parameters": values}}])


@pytest.mark.parametrize(
    "options",
    [
        {"fps": nested(10_000)},
        {"max_pixels": "many"},
        {"else": nested(10_000)},
        {"detail": nested(9000)},
        {"min_pixels": {}},
    ],
)
def test_options_of_parts(options: dict[str, Any]) -> None:
    for kind in ("image", "video"):
        (media,) = media_in([{"role": "user", "content": [{"type": kind, kind: "x.png", **options}]}])
        with pytest.raises(
            InputError, match=r"messages\[0\]\.content\[0\] has .*; expected of .*\. Leave it out"
        ) as caught:
            part_options(media)
        assert len(str(caught.value)) < 300
    with pytest.raises(InputError, match=r"messages\[0\]\.content\[0\] has the key 5; expected text for keys"):
        media_in([{"role": "user", "content": [{"type": "image", "image": "x", 5: 1}]}])


@pytest.mark.parametrize("value", ["false", "true", "", 0, 1, 0.0, [], "None"])
def test_switches(value: Any) -> None:
    """ "false" would be true, and change nothing."""
    said = [{"role": "user", "content": "x"}]
    with pytest.raises(InputError, match=r"^enable_thinking is .*; expected True or False\. Leave it out"):
        TEMPLATE.render(said, enable_thinking=value)
    with pytest.raises(InputError, match=r"^add_generation_prompt is .*; expected True or False\. Leave it out"):
        TEMPLATE.render(said, add_generation_prompt=value)
