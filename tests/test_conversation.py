"""Conversations: what is said again, what is computed again, and what Ctrl-C leaves."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from glm_answers import count_encoded, picture, script

from mlx_mm import Conversation, generate, load
from mlx_mm.errors import InputError, MediaError
from mlx_mm.generation.answer import join

Checkpoint = Callable[..., Path]


@pytest.fixture
def loaded(tiny_checkpoint: Checkpoint) -> tuple[Any, Any]:
    return load(tiny_checkpoint("glm46v"))


@pytest.mark.parametrize("options", [{}, {"max_kv_size": 2000}, {"kv_bits": 8}])
def test_turns_are_those_of_the_whole_history(
    options: dict[str, Any], loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = count_encoded(loaded[0], monkeypatch)
    conversation = Conversation(*loaded, system="Be brief.", **options)
    for turn, images in enumerate(([picture(0)], [picture(1), picture(2, 60, 60)], [], [picture(0)])):
        before, encoded[:] = len(conversation.messages), []
        answer = join(conversation.ask(f"Question {turn}?", images=images, max_tokens=9))
        assert sum(encoded) == len(images)  # those of earlier turns are not encoded again
        assert (answer.cached_tokens > 0) == (turn > 0)
        if not options.get("kv_bits"):  # where it was cut, quantised keys round differently
            whole = generate(*loaded, conversation.messages[: before + 1], max_tokens=9, **options)
            assert (answer.raw, answer.prompt_tokens) == (whole.raw, whole.prompt_tokens)
    assert [message["role"] for message in conversation.messages] == ["system", *["user", "assistant"] * 4]


def test_a_full_rotating_cache_still_answers_the_whole_history(loaded: Any) -> None:
    conversation = Conversation(*loaded, max_kv_size=32)
    for turn in range(3):
        answer = join(conversation.ask(f"Question {turn}?", max_tokens=9))
        whole = generate(*loaded, conversation.messages[:-1], max_tokens=9, max_kv_size=32)
        assert answer.raw == whole.raw


def test_only_what_is_new_runs(loaded: Any) -> None:
    said = "<think>" + "long thoughts " * 20 + "</think>\nYes.<|user|>"
    conversation = Conversation(script(*loaded, said, "<think></think>\nNo.<|user|>"), loaded[1])
    first = join(conversation.ask("Is it?"))
    second = join(conversation.ask("Really?"))
    # reasoning of earlier turns is left out of the prompt, so what follows <think> runs again
    assert second.cached_tokens == first.prompt_tokens + 1
    third = join(conversation.ask("Sure?"))
    # nothing was reasoned: all that was said is as it was, the end token included
    assert third.cached_tokens == second.prompt_tokens + second.generation_tokens
    assert conversation.messages[1] == {
        "role": "assistant",
        "content": "Yes.",
        "reasoning_content": "long thoughts " * 19 + "long thoughts",
    }


def test_interrupted_answer_is_kept_as_far_as_it_came(loaded: Any) -> None:
    def interrupt(done: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    conversation = Conversation(script(*loaded, "<think></think>Yes, it is.", hook=interrupt), loaded[1])
    with pytest.raises(KeyboardInterrupt):
        list(conversation.ask("Is it?", images=[picture()]))
    assert conversation.messages[1:] == [{"role": "assistant", "content": "Yes"}]
    del loaded[0].request
    answer = join(conversation.ask("Go on.", max_tokens=8))
    assert answer.raw == generate(*loaded, conversation.messages[:-1], max_tokens=8).raw
    assert answer.cached_tokens > 20


@pytest.mark.parametrize("at", [-30, 0, 2])
def test_question_without_an_answer_is_taken_back(at: int, loaded: Any) -> None:
    def interrupt(done: int) -> None:
        if done >= at:
            raise KeyboardInterrupt

    conversation = Conversation(script(*loaded, "<think>hm</think>Yes", hook=interrupt), loaded[1], system="Be brief.")
    with pytest.raises(KeyboardInterrupt):
        list(conversation.ask("Is it?", images=[picture()], prefill_step_size=8))
    assert [message["role"] for message in conversation.messages] == ["system"]
    del loaded[0].request
    answer = join(conversation.ask("Is it?", images=[picture()], max_tokens=8))
    assert answer.raw == generate(*loaded, conversation.messages[:-1], max_tokens=8).raw


def test_answer_that_was_left_ends_with_the_next_question(loaded: Any) -> None:
    conversation = Conversation(script(*loaded, "<think></think>Yes, it is."), loaded[1])
    left = conversation.ask("Is it?")
    text = ""
    while text != "Yes":
        text += next(left).text
    assert [message["role"] for message in conversation.messages] == ["user"]
    join(conversation.ask("Really?"))
    assert [message["content"] for message in conversation.messages] == ["Is it?", "Yes", "Really?", "Yes, it is."]
    assert list(left) == []


def test_errors_leave_a_conversation_as_it_was(loaded: Any, tmp_path: Path) -> None:
    conversation = Conversation(*loaded)
    join(conversation.ask("Hello", max_tokens=4))
    before = list(conversation.messages)
    for error, text, options in [
        (MediaError, "q", {"images": [tmp_path / "none.png"]}),
        (InputError, "a <|image|> b", {}),
        (InputError, "q", {"max_tokens": 0}),
        (InputError, "long " * 4096, {}),
        (InputError, None, {"images": [picture()]}),
    ]:
        with pytest.raises(error):
            list(conversation.ask(text, **options))  # type: ignore[arg-type]
        assert conversation.messages == before
    assert join(conversation.ask("Hello", max_tokens=4)).cached_tokens > 8


def test_answer_that_speaks_of_placeholders_does_not_end_a_conversation(loaded: Any) -> None:
    model = script(*loaded, "<think></think>Write <|image|> there.", "<think></think>Yes.")
    conversation = Conversation(model, loaded[1])
    assert join(conversation.ask("How?")).text == "Write <|image|> there."
    assert conversation.messages[-1]["content"] == "Write < |image|> there."
    assert join(conversation.ask("Really?")).text == "Yes."


def test_tool_results(loaded: Any) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    model = script(*loaded, "<think></think>\n<tool_call>weather\n</tool_call><|observation|>", "<think></think>Rain.")
    conversation = Conversation(model, loaded[1], tools=tools)
    call = join(conversation.ask("How is the weather?")).tool_calls[0]
    assert call["function"] == {"name": "weather", "arguments": "{}"}
    conversation.messages.append({"role": "tool", "tool_call_id": call["id"], "content": "rain"})
    answer = join(conversation.ask(None))
    assert answer.text == "Rain."
    assert answer.cached_tokens > 20
    assert [message["role"] for message in conversation.messages] == ["user", "assistant", "tool", "assistant"]


def test_save_and_load(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, file = tmp_path / "a.png", tmp_path / "chat.safetensors"
    picture().save(image)
    data = io.BytesIO()
    picture(1).save(data, "PNG")
    conversation = Conversation(*loaded, system="Be brief.")
    join(conversation.ask("What?", images=[image, data.getvalue()], max_tokens=6))
    conversation.save(file)
    other = Conversation(*loaded)
    other.load(file)
    encoded = count_encoded(loaded[0], monkeypatch)
    expected = join(conversation.ask("And?", max_tokens=6))
    answer = join(other.ask("And?", max_tokens=6))
    assert encoded == []
    assert (answer.raw, answer.cached_tokens) == (expected.raw, expected.cached_tokens)
    assert [message["role"] for message in other.messages] == ["system", "user", "assistant", "user", "assistant"]
    join(other.ask("This?", images=[picture(2)], max_tokens=2))
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"cannot be saved; expected pictures by path"):
        other.save(file)
    assert file.read_bytes() == before
