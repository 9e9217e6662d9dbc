"""/v1/responses: what OpenAI's client sends and reads, with the answers of /v1/chat/completions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from asking import Answer, ask
from shown import picture, uri

MODEL = "emoji-glm4v"
TOOL = {
    "type": "function",
    "name": "find_picture",
    "description": "Find a picture by name.",
    "strict": None,
    "parameters": {
        "type": "object",
        "properties": {"name": {"type": "string", "description": "Name in English."}},
        "required": ["name"],
    },
}
PICTURE = {"type": "input_image", "image_url": uri("image/png", picture("cat")), "detail": "auto"}
NONE = {"type": "input_image", "image_url": uri("image/png", b"no picture")}


@pytest.fixture
def respond(app: Any) -> Callable[..., Answer]:
    def create(given: Any, **fields: Any) -> Answer:
        plain = {"temperature": 0, "max_output_tokens": 64, "reasoning": {"effort": "none"}}
        return ask(app, "POST", "/v1/responses", {"model": MODEL, "input": given, **plain, **fields})

    return create


def seen(text: str) -> list[Any]:
    return [{"role": "user", "content": [PICTURE, {"type": "input_text", "text": text}]}]


def words(response: Any) -> str:
    [item] = [item for item in response["output"] if item["type"] == "message"]
    [part] = item["content"]
    assert part["type"] == "output_text"
    return str(part["text"])


def test_an_answer_and_the_next_turn(respond: Callable[..., Answer]) -> None:
    first = respond(seen("What is this?"), instructions=None).json
    assert first["object"] == "response"
    assert first["status"] == "completed"
    assert words(first) == "cat"
    usage = first["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    turn = [*seen("What is this?"), *first["output"], {"role": "user", "content": "And in German?"}]
    second = respond(turn).json
    assert words(second) == "Katze"
    assert second["usage"]["input_tokens_details"]["cached_tokens"] >= usage["input_tokens"]
    assert words(respond("Hello", store=True).json)
    cut = respond("Hello", max_output_tokens=2).json
    assert cut["status"] == "incomplete"
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}


def test_instructions_are_what_the_model_is_told_first(respond: Callable[..., Answer], app: Any) -> None:
    told = respond("Hello", instructions="a cat").json["usage"]["input_tokens"]
    messages = [{"role": "system", "content": "a cat"}, {"role": "user", "content": "Hello"}]
    body = {"model": MODEL, "messages": messages, "temperature": 0, "reasoning_effort": "none"}
    assert ask(app, "POST", "/v1/chat/completions", body).json["usage"]["prompt_tokens"] == told


def test_events_add_up(respond: Callable[..., Answer]) -> None:
    whole = respond(seen("What is this?")).json
    answer = respond(seen("What is this?"), stream=True)
    events = answer.events
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [line[7:] for line in answer.body.decode().split("\n") if line.startswith("event: ")] == kinds
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == words(whole) == words(events[-1]["response"])
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1


def test_a_tool_is_called_and_its_answer_read(respond: Callable[..., Answer]) -> None:
    question = {"role": "user", "content": "Find a pizza."}
    whole = respond([question], tools=[TOOL]).json
    [call] = [item for item in whole["output"] if item["type"] == "function_call"]
    assert (call["name"], json.loads(call["arguments"])) == ("find_picture", {"name": "pizza"})
    streamed = respond([question], tools=[TOOL], stream=True).events
    deltas = [event["delta"] for event in streamed if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call["arguments"]
    [again] = [item for item in streamed[-1]["response"]["output"] if item["type"] == "function_call"]
    assert {**again, "id": "", "call_id": ""} == {**call, "id": "", "call_id": ""}
    for result in ("pizza.png", "nothing"):
        told = [question, *whole["output"], _output(call, result)]
        assert ("pizza.png" in words(respond(told, tools=[TOOL]).json)) == (result == "pizza.png")


def _output(call: Any, result: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call["call_id"], "output": result}


def test_what_the_model_thinks_is_told(respond: Callable[..., Answer]) -> None:
    thinking = {"reasoning": None}
    whole = respond(seen("What is this?"), **thinking).json
    thought, said = whole["output"]
    assert thought["type"] == "reasoning"
    assert thought["content"] == [{"type": "reasoning_text", "text": "I see cat."}]
    assert thought["summary"] == []
    assert said["type"] == "message"
    streamed = respond(seen("What is this?"), **thinking, stream=True).events
    deltas = [event["delta"] for event in streamed if event["type"] == "response.reasoning_text.delta"]
    assert "".join(deltas) == "I see cat."
    assert [item["type"] for item in streamed[-1]["response"]["output"]] == ["reasoning", "message"]
    assert [event["output_index"] for event in streamed if event["type"] == "response.output_item.done"] == [0, 1]
    turn = [*seen("What is this?"), *whole["output"], {"role": "user", "content": "And in German?"}]
    assert words(respond(turn).json) == "Katze"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}, "text.format.type"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "strict": True}]}, "tools[0].strict"),
        ({"tools": [{**TOOL, "name": 1}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"metadata": {"a": "b"}}, "metadata.a"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type"),
        ({"input": [{"type": []}]}, "input[0].type"),
        ({"input": [{"role": "oracle", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": "a", "mood": "b"}]}, "input[0].mood"),
        ({"input": [{"type": "function_call", "name": "a", "arguments": 5}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": 5}]}, "input[0].output"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "a"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"role": "user"}], "instructions": "a"}, "input[0].content"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "user", "content": [NONE]}]}, "input[1].content[0]"),
        ({"input": [{"role": "user", "content": [NONE]}], "stream": True}, "input[0].content[0]"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(respond: Callable[..., Answer], fields: Any, param: str | None) -> None:
    asked = {"given": "Hello", **fields}
    given = asked.pop("given")
    answer = respond(asked.pop("input", given), **asked)
    assert answer.status == 400, answer.body
    assert answer.error["param"] is not None
    assert param is None or answer.error["param"] == param
