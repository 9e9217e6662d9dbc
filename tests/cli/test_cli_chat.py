"""`mlx_mm chat`: lines in, answers out; commands, errors, and what Ctrl-C leaves."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Run
from glm_answers import picture, script

from mlx_mm import Conversation, load
from mlx_mm.cli import chat, main


def test_piped_chat(run: Run, glm: Path, says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    says("<think>hm</think>Yes.", "<think></think>No.")
    monkeypatch.setattr("sys.stdin", io.StringIO("One?\nTwo?\n/nonsense\n"))
    status, out, err = run("chat", "-m", glm, "--stats", "--system", "Be brief.", "--max-kv-size", 900)
    assert (status, out) == (1, "Yes.\nNo.\n")
    assert "kept from before" in err.splitlines()[1]
    assert err.splitlines()[2].startswith("error: There is no command /nonsense")
    assert run("chat", "-m", glm, "--json")[0] == 1


def test_what_a_line_of_a_pipe_is(glm: Path, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to its line feed, without a mark at the beginning."""
    data = "\ufeffOne?\r\nTwo\u2028three\x85four?\n\n  Five\rsix? ".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    model, processor = loaded
    chats: list[Conversation] = []

    def begin() -> Conversation:
        chats.append(Conversation(script(model, processor, "<think></think>Yes."), processor))
        return chats[-1]

    assert chat.talk(begin, {"max_tokens": 20}) == 0
    asked = [message["content"] for message in chats[0].messages if message["role"] == "user"]
    assert asked == ["One?", "Two\u2028three\x85four?", "Five\rsix?"]


def test_closed_streams_end_a_chat(
    run: Run, glm: Path, says: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says("<think></think>Yes.")
    monkeypatch.setattr("sys.stdin", None)
    assert run("chat", "-m", glm)[:2] == (1, "")
    monkeypatch.setattr("sys.stdin", io.StringIO("One?\n"))
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(SystemExit) as stop:
        main(["chat", "-m", str(glm)])
    assert stop.value.code == 1
    assert "error: stdout is closed" in capsys.readouterr().err


def test_errors_of_a_chat_name_options(run: Run, glm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("One?\n"))
    status, _, err = run("chat", "-m", glm, "--max-tokens", "0", "--no-thinking")
    assert status == 1
    assert "error: --max-tokens is 0" in err


def test_chat_forgets_on_clear_but_not_the_system(
    run: Run, glm: Path, says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    says("<think></think>Yes.")
    lines, counts = "One?\n/clear\nOne?\n/clear\nOne?\n", []
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    for system in ([], ["--system", "Be very brief."]):
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        err = run("chat", "-m", glm, "--stats", *system)[2]
        assert "kept" not in err
        counts.append([int(line.split()[0]) for line in err.splitlines()])
    assert len(set(counts[0])) == len(set(counts[1])) == 1
    assert counts[1][0] > counts[0][0] + 10


# --- the loop ---------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(glm: Path) -> tuple[Any, Any]:
    return load(glm)


class Keyboard(io.StringIO):
    """Standard input with somebody at it."""

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
        return chat.talk(begin, {}, **options)

    return run


def test_lines_of_a_pipe(talk: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status = talk("Hello\n\n  Again  \n", "<think>hm</think>\nHi.", "<think></think>\nWell.")
    out, err = capsys.readouterr()
    assert (status, out, err) == (0, "Hi.\nWell.\n", "")  # no prompt signs, no reasoning
    assert [message["content"] for message in talk.said[0].messages] == ["Hello", "Hi.", "Again", "Well."]
    talk("Hello\n", "<think>hm</think>\nHi.", show_thinking=True, show_stats=True)
    out, err = capsys.readouterr()
    assert out == "hm\n\nHi.\n"
    assert "prompt tokens" in err
    assert "peak memory" in err


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
        assert chat.talk(lambda begin=begin: begin, {}) == 0  # type: ignore[misc]
        out, err = capsys.readouterr()
        assert out.startswith("Hi.\n")
        assert "/help" in err


def test_pictures_wait_for_a_question(talk: Any, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    picture().save(image)
    talk(f"{image}\nWhat?\nAnd now?\n", "<think></think>Yes.")
    contents = [message["content"] for message in talk.said[0].messages[::2]]
    assert contents == [[{"type": "image", "image": str(image)}, {"type": "text", "text": "What?"}], "And now?"]
