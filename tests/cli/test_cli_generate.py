"""`mlx_mm generate`, `chat` and `info --image`: what goes to stdout, what to stderr, and the exit status."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from glm_answers import picture, script
from tiny import write_json

import mlx_mm
from mlx_mm import generate, load
from mlx_mm.cli import program as cli

Checkpoint = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]
CALL = "<tool_call>weather\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("generate", …)` runs a command in this process: (status, out, err)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        assert stop.value.code is None or isinstance(stop.value.code, int)
        return (stop.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def folder(tiny_checkpoint: Checkpoint) -> Path:
    return tiny_checkpoint("glm46v")


@pytest.fixture
def says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`says(text, …)`: what the model answers from now on."""

    def set_answers(*answers: str) -> None:
        model, processor = load(folder)
        script(model, processor, *answers)
        monkeypatch.setattr(mlx_mm, "load", lambda *_args, **_options: (model, processor))

    return set_answers


def test_answer_on_stdout(run: Run, folder: Path, says: Any) -> None:
    says("<think>hm</think>\nIt is <|begin_of_box|>7<|end_of_box|>.")
    assert run("generate", "What?", "-m", folder) == (0, "It is 7.\n", "")
    assert run("generate", "What?", "-m", folder, "--show-thinking") == (0, "hm\n\nIt is 7.\n", "")
    status, out, err = run("generate", "What?", "-m", folder, "--stats", "--max-tokens", 10)
    assert (status, out) == (0, "It is\n")
    cut, stats = err.splitlines()
    assert cut == "the answer was cut at 10 tokens; --max-tokens allows more"
    assert "10 generated" in stats


def test_json_holds_everything(run: Run, folder: Path, says: Any, tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    function = {"name": "weather", "parameters": {"properties": {"days": {"type": "string"}}}}
    write_json(tools, [{"type": "function", "function": function}])
    says(f"<think>hm</think>\nÉ.\n{CALL}<|observation|>")
    status, out, _ = run("generate", "What?", "-m", folder, "--tools", tools, "--json")
    answer = json.loads(out)
    assert status == 0
    assert (answer["text"], answer["reasoning"], answer["finish_reason"]) == ("É.", "hm", "tool_calls")
    assert json.loads(answer["tool_calls"][0]["function"]["arguments"]) == {"days": "3"}
    assert answer["raw"].endswith("</tool_call>")
    assert {"prompt_tokens", "generation_tokens", "prompt_tps", "generation_tps", "peak_memory"} <= answer.keys()
    status, out, _ = run("generate", "What?", "-m", folder, "--tools", tools)
    assert out.splitlines()[0] == "É."
    assert json.loads(out.splitlines()[1]) == answer["tool_calls"][0]


def test_options_reach_the_model(run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(2):
        picture(index).save(tmp_path / f"{index}.png")
    images = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n"))
    options = ["--temperature", 1.3, "--top-k", 50, "--top-p", 0.99, "--min-p", 0.01, "--repetition-penalty", 1.2]
    options += ["--seed", 3, "--system", "Be brief.", "--max-tokens", 12, "--no-thinking", "--max-pixels", 20000]
    status, out, _ = run("generate", "-", "-m", folder, "--image", images[0], "--image", images[1], *options, "--json")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?\n"}]
    own = {"temperature": 1.3, "top_k": 50, "top_p": 0.99, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 3}
    own |= {"max_tokens": 12, "enable_thinking": False, "max_pixels": 20000}
    expected = generate(*load(folder), messages, images=images, **own)  # type: ignore[arg-type]
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
def test_more_options(options: list[str], text: str, run: Run, folder: Path, says: Any) -> None:
    says("<think>ab</think>\nhello world")
    assert run("generate", "What?", "-m", folder, *options)[:2] == (0, text)


def test_thinking_budget_of_the_command_line(run: Run, folder: Path, says: Any) -> None:
    says("<think>abcdef")
    found = json.loads(run("generate", "What?", "-m", folder, "--thinking-budget", 2, "--json")[1])
    assert (found["reasoning"], found["text"]) == ("ab", "def")


@pytest.mark.parametrize("command", [("generate", "What?"), ("chat",)])
def test_without_a_model(command: tuple[str, ...], run: Run) -> None:
    status, out, err = run(*command)
    assert (status, out) == (1, "")
    assert "zai-org/GLM-4.6V-Flash" in err


def test_errors(run: Run, folder: Path, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
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
    ]:
        status, out, err = run("generate", *arguments, "-m", folder)
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert message in err
    assert run("generate", "What?", "-m", folder, "--kv-bits", 5)[0] == 2
    assert run("generate", "-m", folder)[0] == 2
    status, _, err = run("embed", "x", "--text", "-m", folder)
    assert (status, "Use generate or chat" in err) == (1, True)


def test_interrupted(run: Run, folder: Path, says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    says("<think></think>Yes")
    monkeypatch.setattr("mlx_mm.cli.chat.Screen.show", stop)
    assert run("generate", "What?", "-m", folder)[0] == 130


def test_piped_chat(run: Run, folder: Path, says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    says("<think>hm</think>Yes.", "<think></think>No.")
    monkeypatch.setattr("sys.stdin", io.StringIO("One?\nTwo?\n/nonsense\n"))
    status, out, err = run("chat", "-m", folder, "--stats", "--system", "Be brief.", "--max-kv-size", 900)
    assert (status, out) == (1, "Yes.\nNo.\n")
    assert "kept from before" in err.splitlines()[1]
    assert err.splitlines()[2].startswith("error: There is no command /nonsense")
    assert run("chat", "-m", folder, "--json")[0] == 1


def test_chat_forgets_on_clear_but_not_the_system(
    run: Run, folder: Path, says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    says("<think></think>Yes.")
    lines, counts = "One?\n/clear\nOne?\n/clear\nOne?\n", []
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    for system in ([], ["--system", "Be very brief."]):
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        err = run("chat", "-m", folder, "--stats", *system)[2]
        assert "kept" not in err
        counts.append([int(line.split()[0]) for line in err.splitlines()])
    assert len(set(counts[0])) == len(set(counts[1])) == 1
    assert counts[1][0] > counts[0][0] + 10


def test_info_counts_the_tokens_of_media(run: Run, folder: Path, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    image, film = tmp_path / "a.png", tmp_path / "a.gif"
    picture(0, 280, 140).save(image)
    frames = [picture(seed, 140, 140) for seed in range(4)]
    frames[0].save(film, save_all=True, append_images=frames[1:], duration=500)
    status, out, _ = run("info", folder, "--image", image, "--video", film, "--json")
    tokens = json.loads(out)["tokens"]
    assert status == 0
    assert tokens[str(image)] == 50
    batch = load(folder)[1].videos([str(film)])
    assert tokens[str(film)] == batch["video_grid_thw"].prod() // 4
    assert f"{image} 50" in run("info", folder, "--image", image)[1]
    status, _, err = run("info", "--image", image)
    assert (status, "Name it first" in err) == (1, True)
    status, _, err = run("info", tiny_checkpoint("siglip"), "--image", image)
    assert (status, "gives vectors" in err) == (1, True)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mlx_mm.cli import main\ntry:\n    main(['generate', '--help'])\nexcept SystemExit:\n"
        "    print(sorted({'mlx', 'mlx_lm', 'numpy', 'PIL', 'jinja2'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    code = "import sys, mlx_mm.generate, mlx_mm.conversation\nprint('mlx_lm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
