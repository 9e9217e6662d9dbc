"""Conversations and the chat loop: what is said again, what is computed again, and what Ctrl-C leaves."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from glm_answers import count_encoded, picture, script

from mlx_mm import Conversation, generate, load
from mlx_mm.cli import chat
from mlx_mm.cli.chat import Screen, find_media, run_chat
from mlx_mm.errors import InputError, MediaError
from mlx_mm.generate import Generation, join

Checkpoint = Callable[..., Path]


@pytest.fixture
def loaded(tiny_checkpoint: Checkpoint) -> tuple[Any, Any]:
    return load(tiny_checkpoint("glm46v"))


# --- conversations ----------------------------------------------------------------------------------------------


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


# --- the loop ---------------------------------------------------------------------------------------------------


class Keyboard(io.StringIO):
    """Standard input with somebody at it."""

    def isatty(self) -> bool:
        return True


class Terminal(io.StringIO):
    """Standard output that somebody watches."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def talk(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`talk(lines, answers, …)` runs the loop over a pipe; `.said` are the conversations it had."""

    def run(lines: str, *answers: str, hook: Any = None, **options: Any) -> int:
        model = script(*loaded, *answers, hook=hook)
        run.said = []  # type: ignore[attr-defined]

        def begin() -> Conversation:
            run.said.append(Conversation(model, loaded[1]))  # type: ignore[attr-defined]
            return run.said[-1]  # type: ignore[attr-defined,no-any-return]

        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        return run_chat(begin(), begin, {}, **options)

    return run


def test_piped_chat(talk: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status = talk("Hello\n\n  Again  \n", "<think>hm</think>\nHi.", "<think></think>\nWell.")
    out, err = capsys.readouterr()
    assert (status, out, err) == (0, "Hi.\nWell.\n", "")  # no prompt signs, no reasoning
    assert [message["content"] for message in talk.said[0].messages] == ["Hello", "Hi.", "Again", "Well."]
    talk("Hello\n", "<think>hm</think>\nHi.", show_thinking=True, show_stats=True)
    out, err = capsys.readouterr()
    assert out == "hm\n\nHi.\n"
    assert "prompt tokens" in err
    assert "peak memory" in err


def test_reasoning_is_dimmed_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for no_colour, thought in (("", "\x1b[2mhm\x1b[0m"), ("1", "hm")):
        out = Terminal()
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setenv("NO_COLOR", no_colour)
        screen = Screen()
        for piece in (Generation(reasoning="hm"), Generation(), Generation(text="Hi\x1b[31m\n"), Generation(text=".")):
            screen.show(piece)
        screen.end()
        assert out.getvalue() == f"{thought}\n\nHi[31m\n.\n"  # what a model writes does not steer the terminal


def test_commands(talk: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, file = tmp_path / "my cat.png", tmp_path / "chat.safetensors"
    picture().save(image)
    lines = [f'/image "{image}"', "What?", f"/save {file}", "/clear", "New", f"/load {file}", "/help", "/exit", "never"]
    assert talk("\n".join(lines), "<think></think>Yes.") == 0
    out, err = capsys.readouterr()
    assert out.startswith("Yes.\nYes.\n")
    assert all(command in out for command in ("/image", "/video", "/clear", "/save", "/load", "/exit"))
    assert err.splitlines() == [f"saved to {file}", "going on after 2 messages"]
    first, second = talk.said
    assert first.messages[0]["content"] == [
        {"type": "image", "image": str(image)},
        {"type": "text", "text": "What?"},
    ]
    assert second.messages == first.messages  # loaded over "New"


def test_errors_do_not_end_a_chat(talk: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    lines = f"/nonsense\n/image\n/image none.png\n/save a.txt\n{broken} what?\nStill there?"
    assert talk(lines, "<think></think>Yes.") == 1
    out, err = capsys.readouterr()
    assert out == "Yes.\n"
    errors = err.splitlines()
    assert len(errors) == 5
    assert all(line.startswith("error: ") for line in errors)
    assert "no command /nonsense" in errors[0]
    assert "needs a file" in errors[1]
    assert "none.png" in errors[2]
    assert "safetensors" in errors[3]
    assert "broken.png" in errors[4]


def test_ctrl_c_stops_the_answer_alone(talk: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stops = [6]

    def interrupt(done: int) -> None:
        if stops and done >= stops[0]:
            stops.clear()
            raise KeyboardInterrupt

    assert talk("One?\nTwo?\n", "<think></think>Yes, it is.", hook=interrupt) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("Yes\nYes, it is.\n", "stopped\n")
    contents = [message["content"] for message in talk.said[0].messages]
    assert contents == ["One?", "Yes", "Two?", "Yes, it is."]


def test_ctrl_c_at_the_empty_prompt_leaves(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for last in (KeyboardInterrupt, EOFError):
        typed = iter(["Hello", last])

        def read(sign: str, typed: Iterator[Any] = typed) -> str:
            assert sign == "> "
            item = next(typed)
            if isinstance(item, str):
                return item
            raise item

        monkeypatch.setattr("sys.stdin", Keyboard())
        monkeypatch.setattr("builtins.input", read)
        begin = Conversation(script(*loaded, "<think></think>Hi."), loaded[1])
        assert run_chat(begin, lambda begin=begin: begin, {}) == 0  # type: ignore[misc]
        out, err = capsys.readouterr()
        assert out.startswith("Hi.\n")
        assert "/help" in err


def test_media_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "my cat.PNG", "clip.mp4", "it's.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    url = "https://example.org/a/b.png?size=2"
    cases = [
        ("What is in cat.jpg?", "What is in?", ["cat.jpg"], []),
        ('"my cat.PNG" what is it', "what is it", ["my cat.PNG"], []),
        ("'my cat.PNG'", "", ["my cat.PNG"], []),
        (r"my\ cat.PNG and cat.jpg, compare", "and, compare", ["my cat.PNG", "cat.jpg"], []),
        (f"{tmp_path}/cat.jpg what", "what", [f"{tmp_path}/cat.jpg"], []),
        (f"file://{tmp_path}/my%20cat.PNG what", "what", [f"{tmp_path}/my cat.PNG"], []),
        (f"see {url} please", "see please", [url], []),
        ("summarise clip.mp4.", "summarise.", [], ["clip.mp4"]),
        ("what's it's.webp", "what's", ["it's.webp"], []),
        ("dog.jpg is missing  here", "dog.jpg is missing  here", [], []),
        ('notes.txt stays, and "quotes" too, don\'t they', 'notes.txt stays, and "quotes" too, don\'t they', [], []),
        ("https://example.org/page", "https://example.org/page", [], []),
        ("x" * 5000 + ".jpg", "x" * 5000 + ".jpg", [], []),
    ]
    for line, text, images, videos in cases:
        found = find_media(line)
        assert (found[0], found[1].images, found[1].videos) == (text, images, videos)
    assert capsys.readouterr().err == ""
    assert find_media("/no/such.jpg what")[0] == "/no/such.jpg what"
    assert "no file /no/such.jpg" in capsys.readouterr().err


def test_pictures_wait_for_a_question(talk: Any, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    picture().save(image)
    talk(f"{image}\nWhat?\nAnd now?\n", "<think></think>Yes.")
    contents = [message["content"] for message in talk.said[0].messages[::2]]
    assert contents == [[{"type": "image", "image": str(image)}, {"type": "text", "text": "What?"}], "And now?"]


def test_stats_name_what_was_kept() -> None:
    line = chat.stats(Generation(prompt_tokens=1200, cached_tokens=1000, prompt_tps=10, generation_tokens=5))
    assert line.startswith("1,200 prompt tokens (1,000 of them kept from before), 10.0 per second; 5 generated")
