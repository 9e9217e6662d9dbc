"""Wrong usage: what is hinted at, and errors of the API in words of the command line."""

from __future__ import annotations

import shlex

import pytest
from command_line import Run

from mlx_mm.cli.habits import COMMANDS as COMMAND_HABITS
from mlx_mm.cli.habits import OPTIONS
from mlx_mm.cli.option_names import naming_options
from mlx_mm.cli.program import COMMANDS, build_parser

PARSER = build_parser()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("generate --prompt hello", 'The question stands without an option: mlx_mm generate "What is this?"'),
        ("generate -p hello -m x", "The question stands without an option"),
        ("generate --prompt=hello", "The question stands without an option"),
        ("generate hi --max_tokens 3", "--max_tokens is --max-tokens here."),
        ("generate hi --max-new-tokens 3", "--max-new-tokens is --max-tokens here."),
        ("generate hi --images a.png", "--images is --image here."),
        ("generate hi --temprature 0", "Did you mean --temperature?"),
        ("convert --hf-path a --mlx-path b", "mlx_mm convert SOURCE OUT."),
        ("convert --model a -o b", "mlx_mm convert SOURCE OUT."),
        ("convert a b -q", "4 bit is what it makes without it"),
        ("convert a b --q-bits 8", "--q-bits is --bits here."),
        ("convert a b --q_group_size 8", "--q_group_size is --group-size here."),
        ("convert a b --trust-remote-code", "no code of a checkpoint is run"),
        ("embed a --output b.npz", "--output is --out here."),
        ("embed a --outptu b.npz", "--output is --out here."),
        ("embed a --batch_size 4", "--batch_size is --batch-size here."),
        ("embed a --device cuda", "MLX takes the device"),
        ("classify a --candidate-labels b", "The words to choose from are --labels."),
        ("classify a --Labels b", "--Labels is --labels here."),
        ("info --model x", "mlx_mm info MODEL."),
        ("find cats", "find is search here."),
        ("serach cats", "Did you mean search?"),
        ("dedupe photos", "dedupe is dups here."),
        ("search cat --near-by 1", "Did you mean --near?"),
        ("index --db x", "--db is --index here."),
        ("dups --delete", "Nothing is deleted here"),
        ("similar a b", "mlx_mm search --like FILE"),
        ("server", "server is serve here."),
        ("ocr a.png", 'mlx_mm generate "What does this say?"'),
        ("clasify a", "Did you mean classify?"),
        ("Embed a", "Embed is embed here."),
        ("quantize a b", "quantize is convert here."),
        ("ls", "ls is models here."),
    ],
)
def test_a_hint_to_what_was_meant(run: Run, line: str, hint: str) -> None:
    result = run(*line.split())
    assert (result.status, result.out) == (2, "")
    *usage, last = result.err.splitlines()
    command = line.split()[0]
    assert usage[0].startswith(f"usage: mlx_mm {command}" if command in COMMANDS else "usage: mlx_mm [-h]")
    assert hint in last


@pytest.mark.parametrize("line", ["embed x --zzz", "zzz", "embed", "embed x --dim many", "embed -- --prompt", ""])
def test_no_hint_where_nothing_is_known(run: Run, line: str) -> None:
    result = run(*line.split())
    if result.status == 2:
        assert not any(word in result.err for word in ("here.", "mean", "stands"))
    else:
        assert "--prompt: there is no such file" in result.err


def test_wrong_usage_steers_no_terminal(run: Run) -> None:
    result = run("embed", "x", "--\x1b[2J\n\u202e")
    assert result.status == 2
    assert result.err.replace("\n", "").isprintable()
    assert result.err.splitlines()[-1].endswith(r"--\x1b[2J\n\u202e")


def test_hints_name_what_exists() -> None:
    for command, habits in OPTIONS.items():
        places = PARSER.commands if command == "" else [command]
        known = {
            text for place in places for option in PARSER.commands[place].options for text in option.option_strings
        }
        for habit, meant in habits.items():
            assert " " in meant or meant in known | {"--version"}, (command, habit)
            assert command == "" or habit not in known, (command, habit)
    for habit, meant in COMMAND_HABITS.items():
        assert habit not in COMMANDS
        assert " " in meant or meant in COMMANDS or meant.startswith("--"), habit


def test_every_help_has_examples_that_parse(run: Run) -> None:
    for name, command in COMMANDS.items():
        assert command.examples
        text = run(name, "--help").out
        for line in command.examples:
            assert f"  {line}\n" in text
            own = line.partition("$(")[2].partition(")")[0] or line
            words = shlex.split(own.split("mlx_mm ", 1)[1])
            words = words[: next((i for i, word in enumerate(words) if word[0] in "<>|"), len(words))]
            assert PARSER.parse_args(words).command == name


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("embed", "truncate=False refuses such texts.", "--no-truncate refuses such texts."),
        ("embed", "a higher max_length keeps more;", "a higher --max-length keeps more;"),
        ("embed", "dim is 0; expected 1. Leave dim out.", "--dim is 0; expected 1. Leave --dim out."),
        ("embed", "batch_size is 0", "--batch-size is 0"),
        ("embed", "task='x' was given", "--task 'x' was given"),
        ("embed", "the task of a dim model is text", "the task of a dim model is text"),
        ("embed", "There is no folder my_max_length/max_length.png", "There is no folder my_max_length/max_length.png"),
        ("embed", "Text 'max_length' is long", "Text 'max_length' is long"),
        ("embed", "normalize=True", "normalize=True"),
        ("generate", "Pass temperature=, or leave top_k out.", "Pass --temperature, or leave --top-k out."),
        ("generate", "pass enable_thinking=False.", "pass --no-thinking."),
        ("generate", "Pass images=, or leave it out.", "Pass --image, or leave it out."),
        ("generate", "max_length is 3", "max_length is 3"),  # it has no such option
        ("convert", "was given with bits=None. Give bits", "was given with --bits none. Give bits"),
        ("info", "Leave revision out.", "Leave --revision out."),
    ],
)
def test_errors_name_options(command: str, text: str, expected: str) -> None:
    assert naming_options(PARSER.commands[command].options)(text) == expected


def test_errors_and_warnings_of_the_program_name_options(run: Run, model: object) -> None:
    long = " ".join(map(str, range(300)))
    warned = run("embed", "--text", long, "-m", model)
    assert "a higher --max-length keeps more; --no-truncate refuses" in warned.err
    refused = run("embed", "--text", long, "-m", model, "--no-truncate")
    assert refused.status == 1
    assert "leave --no-truncate out" in refused.err
    for text in (warned.err, refused.err):
        assert not any(name in text for name in ("truncate=", "truncation", "max_length"))
