"""`mlx_mm completion`: a script with which a shell completes commands, options, choices and files."""

import argparse
import shlex
from typing import TYPE_CHECKING

from mlx_mm.cli.command import Command
from mlx_mm.cli.output import say, say_json

if TYPE_CHECKING:
    from mlx_mm.cli.usage import Parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `completion`."""
    parser.add_argument("shell", choices=tuple(SHELLS), help="for which the script is")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    from mlx_mm.cli.program import build_parser

    script = SHELLS[args.shell](build_parser())
    if args.json:
        say_json({"shell": args.shell, "script": script})
    else:
        say(script.rstrip("\n"))
    return 0


def bash_script(parser: "Parser") -> str:
    """For bash: one function, which offers files where it has nothing else."""
    cases = []
    for name, command in parser.commands.items():
        values = [
            f"        {'|'.join(option.option_strings)}) words={_words(words)} ;;"
            for option in command.options
            if (words := choices_of(option)) and option.option_strings
        ]
        others = [text for option in command.options if takes_a_value(option) for text in option.option_strings]
        values.append(f"        {'|'.join(others)}) ;;" if others else "        '') ;;")
        free = [word for option in command.options if not option.option_strings for word in choices_of(option)]
        flags = [text for option in command.options for text in option.option_strings]
        values.append(f"        *) words={_words(free)}; [[ $word == -* ]] && words={_words(flags)} ;;")
        cases += [f"    {name})", '      case "$before" in', *values, "      esac ;;"]
    first = [*parser.commands, *(text for option in parser.options for text in option.option_strings)]
    return "\n".join(
        [
            "_mlx_mm() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
            '  case "${COMP_WORDS[1]}" in',
            f'    "$word") (( COMP_CWORD == 1 )) && words={_words(first)} ;;',
            *cases,
            f"    *) (( COMP_CWORD == 1 )) && words={_words(first)} ;;",
            "  esac",
            '  COMPREPLY=($(compgen -W "$words" -- "$word"))',
            "}",
            "complete -o default -F _mlx_mm mlx_mm",
            "",
        ]
    )


def zsh_script(parser: "Parser") -> str:
    """For zsh: a function of its completion system, with what each option is for."""
    lines = ["#compdef mlx_mm", "_mlx_mm() {", "  local -a verbs=("]
    lines += [f"    {_quoted(f'{name}:{command.description}')}" for name, command in parser.commands.items()]
    lines += ["  )", "  if (( CURRENT == 2 )); then"]
    lines += ["    _describe command verbs", f"    _arguments {' '.join(map(_zsh, parser.options))}", "    return"]
    lines += ["  fi", '  local verb="$words[2]"', "  shift words", "  (( CURRENT-- ))", '  case "$verb" in']
    for name, command in parser.commands.items():
        specs = [_zsh(option) for option in command.options]
        lines.append(f"    {name}) _arguments {' '.join(dict.fromkeys(specs))} ;;")
    lines += ["  esac", "}", 'if [[ "$funcstack[1]" == _mlx_mm ]]; then', '  _mlx_mm "$@"', "else"]
    return "\n".join([*lines, "  compdef _mlx_mm mlx_mm", "fi", ""])


def fish_script(parser: "Parser") -> str:
    """For fish: a line for each command and option."""
    lines = ["complete -c mlx_mm -n __fish_use_subcommand -f"]
    lines += [
        f"complete -c mlx_mm -n __fish_use_subcommand -a {name} -d {_quoted(str(command.description))}"
        for name, command in parser.commands.items()
    ]
    lines += [f"complete -c mlx_mm -n __fish_use_subcommand{_fish(option)}" for option in parser.options]
    for name, command in parser.commands.items():
        lines += [
            f"complete -c mlx_mm -n '__fish_seen_subcommand_from {name}'{_fish(option)}"
            for option in command.options
            if option.option_strings or option.choices
        ]
    return "\n".join([*lines, ""])


def choices_of(option: argparse.Action) -> list[str]:
    """The values an argument may have, where they are few."""
    return [] if option.choices is None else [str(choice) for choice in option.choices]


def takes_a_value(option: argparse.Action) -> bool:
    """Whether a word follows the option."""
    return bool(option.option_strings) and option.nargs != 0


def _is_number(option: argparse.Action) -> bool:
    return option.type in (int, float)


def _zsh(option: argparse.Action) -> str:
    value = ""
    if takes_a_value(option) or not option.option_strings:
        choices = choices_of(option)
        action = f"({' '.join(choices)})" if choices else " " if _is_number(option) else "_files"
        value = f":{option.dest}:{action}"
    if not option.option_strings:
        return _quoted(f"*{value}" if option.nargs in ("+", "*") else value)
    about = _about(option).translate(str.maketrans("[]:", "() "))
    return " ".join(_quoted(f"*{text}[{about}]{value}") for text in option.option_strings)


def _fish(option: argparse.Action) -> str:
    names = "".join(f" -l {text[2:]}" if text[:2] == "--" else f" -s {text[1:]}" for text in option.option_strings)
    choices = choices_of(option)
    if choices:
        return f"{names} -x -a {_quoted(' '.join(choices))} -d {_quoted(_about(option))}"
    value = "" if not takes_a_value(option) else " -x" if _is_number(option) else " -r"
    return f"{names}{value} -d {_quoted(_about(option))}"


def _about(option: argparse.Action) -> str:
    """Its line of help."""
    return (option.help or "") % vars(option)


def _words(words: list[str]) -> str:
    return _quoted(" ".join(words))


def _quoted(text: str) -> str:
    return shlex.quote(text)


SHELLS = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
COMMAND = Command(
    "print a script with which a shell completes this program's words",
    add_arguments,
    run,
    (
        'eval "$(mlx_mm completion bash)"  # in ~/.bashrc',
        'eval "$(mlx_mm completion zsh)"   # in ~/.zshrc, after compinit',
        "mlx_mm completion fish > ~/.config/fish/completions/mlx_mm.fish",
    ),
)
