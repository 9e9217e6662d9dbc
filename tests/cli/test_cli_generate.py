"""`mlx_mm generate`: what goes to stdout, what to stderr, and the exit status."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Checkpoint, Run, environment
from glm_answers import picture
from tiny import write_json

from mlx_mm import generate, load

CALL = "<tool_call>weather\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"


def test_answer_on_stdout(run: Run, glm: Path, says: Any) -> None:
    says("<think>hm</think>\nIt is <|begin_of_box|>7<|end_of_box|>.")
    assert run("generate", "What?", "-m", glm) == (0, "It is 7.\n", "")
    assert run("generate", "What?", "-m", glm, "--show-thinking") == (0, "hm\n\nIt is 7.\n", "")
    status, out, err = run("generate", "What?", "-m", glm, "--stats", "--max-tokens", 10)
    assert (status, out) == (0, "It is\n")
    cut, stats = err.splitlines()
    assert cut == "the answer was cut at 10 tokens; --max-tokens allows more"
    assert "10 generated" in stats


def test_json_holds_everything(run: Run, glm: Path, says: Any, tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    function = {"name": "weather", "parameters": {"properties": {"days": {"type": "string"}}}}
    write_json(tools, [{"type": "function", "function": function}])
    says(f"<think>hm</think>\nÉ.\n{CALL}<|observation|>")
    status, out, _ = run("generate", "What?", "-m", glm, "--tools", tools, "--json")
    answer = json.loads(out)
    assert status == 0
    assert (answer["text"], answer["reasoning"], answer["finish_reason"]) == ("É.", "hm", "tool_calls")
    assert json.loads(answer["tool_calls"][0]["function"]["arguments"]) == {"days": "3"}
    assert answer["raw"].endswith("</tool_call>")
    assert {"prompt_tokens", "generation_tokens", "prompt_tps", "generation_tps", "peak_memory"} <= answer.keys()
    status, out, _ = run("generate", "What?", "-m", glm, "--tools", tools)
    assert out.splitlines()[0] == "É."
    assert json.loads(out.splitlines()[1]) == answer["tool_calls"][0]


def test_options_reach_the_model(run: Run, glm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(2):
        picture(index).save(tmp_path / f"{index}.png")
    images = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n"))
    options = ["--temperature", 1.3, "--top-k", 50, "--top-p", 0.99, "--min-p", 0.01, "--repetition-penalty", 1.2]
    options += ["--seed", 3, "--system", "Be brief.", "--max-tokens", 12, "--no-thinking", "--max-pixels", 20000]
    status, out, _ = run("generate", "-", "-m", glm, "--image", images[0], "--image", images[1], *options, "--json")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?\n"}]
    own = {"temperature": 1.3, "top_k": 50, "top_p": 0.99, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 3}
    own |= {"max_tokens": 12, "enable_thinking": False, "max_pixels": 20000}
    expected = generate(*load(glm), messages, images=images, **own)  # type: ignore[arg-type]
    found = json.loads(out)
    assert status == 0
    assert (found["raw"], found["prompt_tokens"]) == (expected.raw, expected.prompt_tokens)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--stop", "wor", "--stop", "xyz"], "hello\n"),
        (["--thinking-budget", "2"], "hello world\n"),
        (["--max-kv-size", "64"], "hello world\n"),
        (["--kv-bits", "4"], "hello world\n"),
    ],
)
def test_more_options(options: list[str], text: str, run: Run, glm: Path, says: Any) -> None:
    says("<think>ab</think>\nhello world")
    assert run("generate", "What?", "-m", glm, *options)[:2] == (0, text)


def test_thinking_budget_of_the_command_line(run: Run, glm: Path, says: Any) -> None:
    says("<think>abcdef")
    found = json.loads(run("generate", "What?", "-m", glm, "--thinking-budget", 2, "--json")[1])
    assert (found["reasoning"], found["text"]) == ("ab", "def")


def test_errors(run: Run, glm: Path, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    status, _, err = run("generate", "What?", "-m", tiny_checkpoint("siglip"))
    assert status == 1
    assert err.startswith("error: This checkpoint takes text and image and gives vectors")
    for arguments, message in [
        (["What?", "--image", tmp_path / "none.png"], "none.png"),
        (["a <|image|> b"], "<|image|>"),
        (["What?", "--top-k", 3], "temperature is 0"),
        ([" "], "The prompt is empty"),
        (["What?", "--tools", tmp_path / "none.json"], "none.json"),
        (["What?", "--kv-bits", 4, "--max-kv-size", 64], "both given"),
        (["What?", "--pipeline"], "there is one process. Start each rank with mlx.launch"),
        (["What?", "--memory", "64GB"], "--memory says how --pipeline divides a model"),
    ]:
        status, out, err = run("generate", *arguments, "-m", glm)
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert message in err
    assert run("generate", "What?", "-m", glm, "--kv-bits", 5)[0] == 2
    assert run("generate", "-m", glm)[0] == 2
    status, _, err = run("embed", "x", "--text", "-m", glm)
    assert (status, "Use generate or chat" in err) == (1, True)


def test_interrupted(run: Run, glm: Path, says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    says("<think></think>Yes")
    monkeypatch.setattr("mlx_mm.cli.screen.Screen.show", stop)
    assert run("generate", "What?", "-m", glm)[0] == 130


def test_what_answers_is_imported_late() -> None:
    code = "import sys, mlx_mm.generate, mlx_mm.conversation\nprint('mlx_lm' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert ended.stdout == "False\n"
