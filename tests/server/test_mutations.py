"""Good requests with one or two values put in the place of others: whatever comes of it, the server has not failed."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
from asking import ask
from comparing import LONG
from shown import picture, sound, uri

PICTURE, SOUND = uri("image/png", picture("cat")), uri("audio/flac", sound("bell"))
_PARTS = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
    {"type": "video", "video": [PICTURE, PICTURE], "fps": 2},
]
_SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
_CALL = {"id": "a", "type": "function", "function": {"name": "find", "arguments": '{"name": "a"}'}}
GOOD: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": "emoji-glm4v",
            "messages": [
                {"role": "system", "content": "a"},
                {"role": "user", "content": _PARTS},
                {"role": "assistant", "content": "b", "reasoning_content": "c", "tool_calls": [_CALL]},
                {"role": "tool", "tool_call_id": "a", "content": "d"},
            ],
            "tools": [{"type": "function", "function": {"name": "find", "description": "e", "parameters": _SCHEMA}}],
            "max_tokens": 2,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "seed": 1,
            "stop": ["x"],
            "stream": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"enable_thinking": True},
            "thinking_budget": 1,
            "max_pixels": 50_000,
        },
    ),
    (
        "/v1/responses",
        {
            "model": "emoji-glm4v",
            "instructions": "a",
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]},
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "b"}], "summary": []},
                {"type": "function_call", "call_id": "a", "name": "find", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "a", "output": "c"},
            ],
            "tools": [{"type": "function", "name": "find", "parameters": _SCHEMA}],
            "max_output_tokens": 2,
            "reasoning": {"effort": "none"},
            "text": {"format": {"type": "text"}},
        },
    ),
    (
        "/v1/embeddings",
        {
            "model": "emoji-siglip2",
            "input": ["a", {"text": "b"}, {"image": PICTURE}, {"type": "image_url", "image_url": {"url": PICTURE}}],
            "dimensions": 8,
            "encoding_format": "base64",
            "truncate": True,
            "normalized": False,
        },
    ),
    ("/v1/embeddings", {"model": "sounds-clap", "input": [SOUND], "modality": "audio"}),
    (
        "/v1/embeddings",
        {"model": "emoji-siglip2", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    ),
    (
        "/v1/multimodalembeddings",
        {
            "model": "emoji-siglip2",
            "inputs": [
                {"content": [{"type": "text", "text": "a"}]},
                {"content": [{"type": "image_base64", "image_base64": PICTURE}]},
            ],
            "input_type": "query",
            "truncation": True,
            "output_dimension": 4,
        },
    ),
    (
        "/v2/embed",
        {"model": "emoji-siglip2", "texts": ["a"], "images": [PICTURE], "embedding_types": ["float", "base64"]},
    ),
    (
        "/v1/classify",
        {"model": "emoji-siglip2", "input": [{"image": PICTURE}], "labels": ["a", "b"], "template": "one {}"},
    ),
    ("/v1/classify", {"model": "sounds-clap", "input": [{"audio": SOUND}], "labels": ["a", "b"]}),
]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0, 1e308, 1e-320),
    *("", "a", "\0", "\u202e", "\ufffe", "🙂", "a" * 5000, "{}", "{", "{{ x }}", "{% for %}", "<|user|>", "<|image|>"),
    *(
        "<think>",
        "<tool_call>",
        "data:",
        "data:,",
        "data:image/png;base64,",
        "data:image/png;base64,AAAA",
        PICTURE[:200],
    ),
    *(
        PICTURE,
        SOUND,
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "mm://item/1",
        "text",
        "image",
        "float",
        "emoji-glm4v",
    ),
    *(
        [],
        {},
        [None],
        [[]],
        [{}],
        [""],
        ["a"] * 40,
        {"a": None},
        {"": ""},
        {"url": "a"},
        {"type": "text"},
        {"text": "a"},
    ),
]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of everything in a body."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from places(inner)


def mutated(draw: random.Random) -> tuple[str, dict[str, Any]]:
    path, good = draw.choice(GOOD)
    body = copy.deepcopy(good)
    for _ in range(draw.choice((1, 1, 2))):
        found = list(places(body))
        holder, key = draw.choice(found)
        way = draw.randrange(6)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[draw.choice(("x", "", "type", "url", "content", "text", "image", "audio", "role"))] = draw.choice(
                ODD
            )
        elif way == 2:
            other, name = draw.choice(found)
            holder[key] = (
                copy.deepcopy(other[name])
                if name in (other if isinstance(other, dict) else range(len(other)))
                else None
            )
        else:
            holder[key] = copy.deepcopy(draw.choice(ODD))
    return path, body


@pytest.mark.parametrize(("seed", "count"), [(1, 150), pytest.param(2, 4000, marks=LONG)])
def test_a_server_never_fails(app: Any, seed: int, count: int) -> None:
    draw = random.Random(seed)
    refused = 0
    for _ in range(count):
        path, body = mutated(draw)
        answer = ask(app, "POST", path, body)
        assert answer.status in (200, 400, 404), (path, body, answer.body[:500])
        if answer.status != 200:
            refused += 1
            assert answer.error["type"] == "invalid_request_error"
        elif answer.headers["content-type"].startswith("text/event-stream"):
            assert not any("error" in event for event in answer.events), (body, answer.body)
    assert count // 4 < refused < count
    assert ask(app, "GET", "/health").status == 200
