"""/v1/chat/completions with the bundled model: what `generate` answers, in OpenAI's shape, at once or in chunks."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from asked import idle
from asking import Answer, ask, asking
from PIL import Image
from shown import film, picture, uri

from mlx_mm import generate, load

MODEL = "emoji-glm4v"
CHAT = "/v1/chat/completions"
FIND = {
    "type": "function",
    "function": {
        "name": "find_picture",
        "description": "Find a picture by name.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string", "description": "Name in English."}},
            "required": ["name"],
        },
    },
}
PLAIN: dict[str, Any] = {"temperature": 0, "chat_template_kwargs": {"enable_thinking": False}}
OURS: dict[str, Any] = {"temperature": 0, "enable_thinking": False, "max_tokens": 24}


@pytest.fixture(scope="module")
def loaded() -> Any:
    return load(MODEL)


@pytest.fixture
def chat(app: Any) -> Callable[..., Answer]:
    def complete(messages: Any, **fields: Any) -> Answer:
        given = messages if isinstance(messages, list) else [{"role": "user", "content": messages}]
        return ask(app, "POST", CHAT, {"model": MODEL, "messages": given, "max_tokens": 24, **PLAIN, **fields})

    return complete


def with_media(text: str, *parts: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def pictured(text: str, *names: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": uri("image/png", picture(name))}} for name in names]
    return with_media(text, *parts)


def words(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    [choice] = answer.json["choices"]
    return choice["message"]["content"]


def test_answers_are_those_of_generate(loaded: Any, chat: Callable[..., Answer]) -> None:
    cat, owl = (Image.open(io.BytesIO(picture(name))) for name in ("cat", "owl"))
    video = film("owl", "pizza")
    filmed = with_media("What changed?", {"type": "video_url", "video_url": {"url": uri("image/png", video)}})
    frames = [picture(name) for name in ("owl", "owl", "pizza", "pizza")]
    framed = with_media("What changed?", {"type": "video", "video": [uri("image/png", frame) for frame in frames]})
    changed = generate(*loaded, framed, fps=2, **OURS)
    assert changed.text.lower().index("owl") < changed.text.lower().index("pizza")
    for messages, want in (
        ("Hello", generate(*loaded, "Hello", **OURS)),
        (pictured("What is this?", "cat"), generate(*loaded, "What is this?", images=[cat], **OURS)),
        (pictured("What is this?", "cat", "owl"), generate(*loaded, "What is this?", images=[cat, owl], **OURS)),
        (filmed, generate(*loaded, "What changed?", videos=[video], **OURS)),
        (framed, changed),
    ):
        answer = chat(messages, fps=2 if messages is framed else None)
        assert words(answer) == want.text
        assert answer.json["choices"][0]["finish_reason"] == want.finish_reason
        usage = answer.json["usage"]
        assert usage["prompt_tokens"] == want.prompt_tokens
        assert usage["completion_tokens"] == want.generation_tokens
        assert usage["total_tokens"] == want.prompt_tokens + want.generation_tokens


def test_what_an_answer_costs(chat: Callable[..., Answer]) -> None:
    """Of a picture as many tokens as the prompt is longer by; a second turn reads what is new alone."""
    bare = chat("What is this?").json["usage"]
    assert bare["prompt_tokens_details"]["image_tokens"] == 0
    first = chat(pictured("What is this?", "cat"))
    costs = first.json["usage"]
    images = costs["prompt_tokens_details"]["image_tokens"]
    assert images > 0
    assert images < costs["prompt_tokens"] - bare["prompt_tokens"] <= images + 8  # and what stands around it
    said = {"role": "assistant", "content": words(first)}
    again = [*pictured("What is this?", "cat"), said, {"role": "user", "content": "And in German?"}]
    second = chat(again).json
    assert second["choices"][0]["message"]["content"] == "Katze"
    details = second["usage"]["prompt_tokens_details"]
    assert details["image_tokens"] == images
    assert costs["prompt_tokens"] <= details["cached_tokens"] < second["usage"]["prompt_tokens"]


def test_chunks_add_up(chat: Callable[..., Answer]) -> None:
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    whole = chat(pictured("What is this?", "cat"), **thinking)
    answer = chat(pictured("What is this?", "cat"), **thinking, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert all(event["object"] == "chat.completion.chunk" for event in answer.events)
    assert len({event["id"] for event in answer.events}) == 1
    deltas = [event["choices"][0]["delta"] for event in answer.events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    message = whole.json["choices"][0]["message"]
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"] == "cat"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == message["reasoning_content"]
    assert [event["choices"][0]["finish_reason"] for event in answer.events] == [None] * (len(deltas) - 1) + ["stop"]
    assert not any("usage" in event for event in answer.events)
    for effort in (thinking, {"chat_template_kwargs": None, "reasoning_effort": "none"}):
        reasoned = "reasoning_content" in chat("Hello", **effort).json["choices"][0]["message"]
        assert reasoned == ("reasoning_effort" not in effort)


def test_usage_of_a_stream_where_it_is_asked_for(chat: Callable[..., Answer]) -> None:
    asked = chat(pictured("What is this?", "key"), stream=True, stream_options={"include_usage": True})
    *_, last = asked.events
    assert last["choices"] == []
    assert (
        last["usage"]["completion_tokens"] == chat(pictured("What is this?", "key")).json["usage"]["completion_tokens"]
    )
    assert refused(chat("Hello", stream_options={"include_usage": True}))["param"] == "stream_options"


def test_a_tool_is_called_and_its_answer_read(chat: Callable[..., Answer]) -> None:
    question = {"role": "user", "content": "Find a pizza."}
    options: Any = {"tools": [FIND], "max_tokens": 64}
    whole = chat([question], **options).json["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    [call] = whole["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "find_picture"
    assert json.loads(call["function"]["arguments"]) == {"name": "pizza"}
    streamed = chat([question], **options, stream=True)
    deltas = [event["choices"][0]["delta"] for event in streamed.events]
    begun, *rest = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert begun == {**call, "index": 0, "function": {"name": "find_picture", "arguments": ""}}
    assert all(set(delta) == {"index", "function"} and delta["index"] == 0 for delta in rest)
    assert "".join(delta["function"]["arguments"] for delta in rest) == call["function"]["arguments"]
    assert streamed.events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    for result in ("pizza.png", "nothing"):
        told = [question, whole["message"], {"role": "tool", "tool_call_id": call["id"], "content": result}]
        answer = chat(told, **options)
        assert ("pizza.png" in words(answer)) == (result == "pizza.png")
        assert answer.json["choices"][0]["finish_reason"] == "stop"
    assert "tool_calls" not in chat([question], **options, tool_choice="none").json["choices"][0]["message"]


def test_stop_seed_and_length(chat: Callable[..., Answer]) -> None:
    full = words(chat("Hello"))
    assert len(full) > 8
    for stop in (full[4:7], [full[4:7], "never said"]):
        answer = chat("Hello", stop=stop)
        assert words(answer) == full[: full.index(full[4:7])]
        assert answer.json["choices"][0]["finish_reason"] == "stop"
    cut = chat("Hello", max_tokens=None, max_completion_tokens=2).json
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 2
    hot = {"temperature": 2, "max_tokens": 12}
    drawn = [words(chat("Hello", **hot, seed=seed)) for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert words(chat("Hello", top_p=1, top_k=0, min_p=0)) == full  # what clients send with a temperature of 0


def test_boxes_are_told(chat: Callable[..., Answer], loaded: Any) -> None:
    cat = Image.open(io.BytesIO(picture("cat")))
    want = generate(*loaded, "Where is the cat?", images=[cat], **OURS)
    assert len(want.boxes) == 1
    told = {"boxes": want.boxes, "pixel_boxes": want.pixel_boxes}
    assert chat(pictured("Where is the cat?", "cat")).json["mlx_mm"] == told
    assert chat(pictured("Where is the cat?", "cat"), stream=True).events[-1]["mlx_mm"] == told


def refused(answer: Answer, status: int = 400) -> Any:
    assert answer.status == status, answer.body[:300]
    assert answer.error["message"].endswith(".")
    return answer.error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias.5"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}, None),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "a"}}}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, "reasoning_effort"),
        ({"chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs.thinking"),
        ({"functions": []}, "functions"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"store": True}, "store"),
        ({"service_tier": "auto"}, "service_tier"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": 10**400}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": 1}, "stop"),
        ({"stop": [None]}, "stop[0]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"fps": 10**300}, "fps"),
        ({"repetition_penalty": 10**300}, "repetition_penalty"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [FIND, {"type": "function", "function": {"name": 1}}]}, "tools[1].function.name"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "oracle", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "mood": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]},
            "messages[0].content[0].x",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(chat: Callable[..., Answer], fields: Any, param: str | None) -> None:
    asked = {"messages": "Hello", **fields}
    error = refused(chat(asked.pop("messages"), **asked))
    assert error["type"] == "invalid_request_error"
    assert error["param"] is not None
    assert param is None or error["param"] == param


def test_errors_of_models(app: Any) -> None:
    hello = {"messages": [{"role": "user", "content": "Hello"}]}
    unknown = ask(app, "POST", CHAT, {"model": "nothing", **hello})
    assert refused(unknown, 404)["param"] == "model"
    assert "emoji-siglip2, sounds-clap, emoji-glm4v" in unknown.error["message"]
    assert refused(ask(app, "POST", CHAT, {"model": "emoji-siglip2", **hello}))["param"] == "model"
    long = {"model": MODEL, "messages": [{"role": "user", "content": "a cat " * 5000}]}
    assert refused(ask(app, "POST", CHAT, long))["code"] == "context_length_exceeded"
    assert refused(ask(app, "POST", CHAT, {**long, "stream": True}))["code"] == "context_length_exceeded"


def test_who_leaves_is_not_answered(app: Any, engine: Any) -> None:
    """A stream, and an answer at once: the engine is idle soon, having written little of what was asked for."""
    before = engine.stats()
    for stream in (False, True):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
        body |= {"temperature": 2, "min_p": 0.01, "max_tokens": 2000, "stop": []}
        asyncio.run(asking(app, "POST", CHAT, body, leave_after=0.02))
    after = idle(engine)
    assert after["requests_total"] - before["requests_total"] == 2
    assert after["running"] == after["waiting"] == 0
