"""Chats: messages, tools, and what a model answers."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from fuzz.kinds.using import PIXELS, answered
from fuzz.mutation import DEEP, HUGE, few, odd_text, spoil_json, spoil_text
from fuzz.outcome import BadOutputError, Trial
from fuzz.place import Place

CALL = {"id": "call_0", "type": "function", "function": {"name": "find", "arguments": '{"word": "cat", "most": 3}'}}
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image", "image": "a.png"}]},
    {"role": "assistant", "content": "A cat.", "reasoning_content": "It looks so."},
    {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "And?"}],
    },
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_0", "content": '{"found": 2}'},
    {"role": "user", "content": "Go on."},
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "enum": ["cat", "dog"]},
        "most": {"type": ["integer", "null"], "minimum": 1},
        "exact": {"type": "boolean"},
        "where": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}]},
        "like": {"$ref": "#/$defs/like"},
        "all": {"allOf": [{"type": "string"}, {"const": "1"}]},
        "kind": {"enum": ["1", "2"]},
    },
    "required": ["word"],
    "$defs": {"like": {"type": "string"}},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "find", "description": "Find words.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
ANSWER = (
    "<think>I call it.</think>Wait.\n<tool_call>find\n<arg_key>word</arg_key>\n<arg_value>cat</arg_value>\n"
    "<arg_key>most</arg_key>\n<arg_value>3</arg_value>\n</tool_call> "
    "It is at <|begin_of_box|>[[10, 20, 300, 400]]<|end_of_box|>."
)
PIECES = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    *(
        "<|begin_of_box|>",
        "<|end_of_box|>",
        "<answer>",
        "</answer>",
        "<|user|>",
        "<|endoftext|>",
        "find\n",
        "now",
        "\n",
    ),
    *(
        '{"name": "find", "arguments": {"word": "a"}}',
        "[1, 2, 3, 4]",
        "[[1,2,3,4],[5,6,7,8]]",
        "NaN",
        "1e999",
        "[" * 3000,
    ),
    *('"\\ud800"', "9" * 5000, "null", "true", "True", "[99999, 1, 2, 3]", "[1.5, -2, 3, 4]", "{}", "<", "<|", "</"),
)


class _Odd(dict):  # type: ignore[type-arg]
    """A mapping that is no plain one."""


def _spoil_live(random: Random, value: Any) -> Any:
    """As `spoil_json`, and with objects that JSON has no word for."""
    value = spoil_json(random, value)
    if random.random() < 0.3 and isinstance(value, list) and value and isinstance(value[0], dict):
        odd = (
            b"\xff",
            {1, 2},
            object(),
            np.int64(3),
            np.array([1]),
            Image.new("RGB", (8, 8)),
            _Odd(a=1),
            lambda: 1,
            (),
            1j,
        )
        message = random.choice([item for item in value if isinstance(item, dict)])
        message[random.choice(sorted(map(str, message)) or ["content"])] = random.choice(odd)
    return _deepen(random, value)


def _deepen(random: Random, value: Any) -> Any:
    """Marks of deep and of huge values, taken at their word."""
    if value == DEEP and isinstance(value, str):
        deep: Any = []
        for _ in range(random.choice((50, 990, 50_000))):
            deep = [deep]
        return deep
    if isinstance(value, str) and value == HUGE:
        return 10**5000
    if isinstance(value, dict):
        return {key: _deepen(random, item) for key, item in value.items()}
    return [_deepen(random, item) for item in value] if isinstance(value, list) else value


def _with_texts(random: Random, value: Any) -> Any:
    """As it should be, but for what its texts say."""
    if isinstance(value, dict):
        keys = ("content", "text", "reasoning_content")
        return {
            key: odd_text(random)[:5000]
            if key in keys and isinstance(item, str) and random.random() < 0.5
            else _with_texts(random, item)
            for key, item in value.items()
        }
    return [_with_texts(random, item) for item in value] if isinstance(value, list) else value


def messages(random: Random, place: Place) -> Trial:
    """A chat with wrong roles, parts, types, placeholders, markers in its texts."""
    chat = CHAT[random.randrange(3) : random.randrange(3, len(CHAT) + 1)]
    value = _spoil_live(random, chat) if random.random() < 0.7 else _with_texts(random, chat)
    if random.random() < 0.2:
        text = random.choice(("<|image|>", "<think>", "<|user|>", "<tool_response>", odd_text(random)))
        value = [*value, {"role": "user", "content": text}] if isinstance(value, list) else value
    pictures = random.choice(((), (), [PIXELS], [PIXELS] * 3, None, [None], "a.png"))
    model, processor = place.loaded("glm46v")
    Image.fromarray(PIXELS).save(place.folder / "a.png")
    how, thinking = random.random(), random.choice((None, None, True, False, "false", 0))

    def trial() -> None:
        import mlx_mm

        if how < 0.6:
            batch = processor.chat(value, images=pictures, enable_thinking=thinking)
            if batch["input_ids"].ndim != 2 or not batch["input_ids"].size:
                raise BadOutputError(f"input_ids of the shape {batch['input_ids'].shape}")
        elif how < 0.85:
            answered(mlx_mm.generate(model, processor, value, images=pictures, enable_thinking=thinking, max_tokens=1))
        else:
            conversation = mlx_mm.Conversation(model, processor, messages=value)
            for text in ("What?", None):
                for _ in conversation.ask(text, images=pictures, max_tokens=1):
                    pass
            conversation.save("chat.safetensors")
            mlx_mm.Conversation(model, processor).load("chat.safetensors")

    return trial


def tools(random: Random, place: Place) -> Trial:
    """Schemas of functions: in the prompt, and while an answer that calls them is read."""
    value = _spoil_live(random, TOOLS)
    if random.random() < 0.4:
        odd: list[Any] = [
            {"$ref": "#"},
            {"$ref": "#/$defs/x"},
            {"$ref": 5},
            {"allOf": [{"$ref": "#/$defs/like"}] * 99},
            True,
            None,
        ]
        odd += [{"type": "nonsense"}, {"const": float("nan")}, {"enum": 5}, {"type": []}, {"anyOf": {}}, {"not": {}}]
        schema = json.loads(json.dumps(SCHEMA))
        schema["properties"][random.choice(sorted(schema["properties"]))] = random.choice(odd)
        schema["$defs"] = random.choice(
            ({"x": {"$ref": "#/$defs/x"}}, {"like": {"$ref": "#/properties/like"}}, 5, None, {})
        )
        value = [{"type": "function", "function": {"name": "find", "parameters": schema}}]
    answer = _answer(random)
    model, processor = place.loaded("glm46v")
    how = random.random()

    def trial() -> None:
        import mlx_mm

        if how < 0.5:
            batch = processor.chat([{"role": "user", "content": "Find cats."}], tools=value)
            _parsed(processor, batch["input_ids"][0].tolist(), value, [answer])
        else:
            answered(mlx_mm.generate(model, processor, "Find cats.", tools=value, max_tokens=2))

    return trial


def _answer(random: Random) -> str:
    if random.random() < 0.4:
        return spoil_text(random, ANSWER)
    return "".join(random.choice((*PIECES, odd_text(random)[:300])) for _ in range(random.randrange(1, 25)))


def answers(random: Random, place: Place) -> Trial:
    """What a model might say, in pieces cut anywhere: they add up to the same, whole or not."""
    text = "".join(_answer(random) for _ in range(few(random)))
    text = text.encode("utf-8", "replace").decode()
    cuts = sorted({random.randrange(len(text) + 1) for _ in range(random.randrange(9))})
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    _, processor = place.loaded("glm46v")
    prompt = processor.chat([{"role": "user", "content": "Find cats."}], tools=TOOLS)["input_ids"][0].tolist()

    def trial() -> None:
        if (whole := _parsed(processor, prompt, TOOLS, [text])) != (cut := _parsed(processor, prompt, TOOLS, pieces)):
            raise BadOutputError(f"cut to pieces it reads {cut!r}, and whole {whole!r}")

    return trial


def _parsed(processor: Any, prompt: list[int], schemas: Any, pieces: list[str]) -> tuple[str, str, list[str]]:
    """Text, reasoning and calls of an answer that comes in pieces."""
    parser = processor.response(prompt, tools=schemas)
    parts = [part for piece in pieces for part in parser.feed(piece)] + parser.finish()
    calls = [part.tool_call for part in parts if part.tool_call is not None]
    for call in calls:
        arguments = json.loads(call["function"]["arguments"], parse_constant=_refuse)
        if not isinstance(arguments, dict) or not isinstance(call["function"]["name"], str):
            raise BadOutputError(f"a call is {call!r}")
    for box in parser.boxes():
        if len(box) != 4:
            raise BadOutputError(f"a box is {box!r}")
    text, reasoning = ("".join(getattr(part, name) for part in parts) for name in ("text", "reasoning"))
    json.dumps(calls, ensure_ascii=False).encode()
    return text, reasoning, [json.dumps(call) for call in calls]


def _refuse(name: str) -> None:
    raise BadOutputError(f"{name} in the JSON of a call")
