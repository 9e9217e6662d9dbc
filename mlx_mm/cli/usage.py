"""The parser of the command line: usage errors with a hint to what was meant, help with examples."""

import argparse
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from mlx_mm.cli.habits import COMMANDS, OPTIONS
from mlx_mm.cli.output import flush, say, say_beside

WRONG_USAGE = 2  # argparse's


class Parser(argparse.ArgumentParser):
    """An argparse parser whose texts leave by `output`, and which knows what users of other programs write.

    options: the arguments it takes, as argparse describes them. command: empty for that of the program.
    """

    def __init__(self, *, prog: str, description: str, examples: Sequence[str] = (), command: str = "") -> None:
        self.options: list[argparse.Action] = []
        self.commands: Mapping[str, Parser] = {}
        self.command = command
        self._given: list[str] = []
        super().__init__(
            prog=prog,
            description=description,
            epilog="\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def add_argument(self, *names: str, **settings: object) -> argparse.Action:
        """As argparse does, and remember it in `options`."""
        action = super().add_argument(*names, **settings)  # type: ignore[arg-type]
        self.options.append(action)
        return action

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse does; a command refuses what it does not know itself, so that its own usage is shown."""
        self._given = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(self._with_negatives(self._given), namespace)
        if unknown and self.command:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def _with_negatives(self, words: Sequence[str]) -> list[str]:
        """The words, where "--min -1" is "--min=-1": argparse takes what begins with - for an option."""
        valued = {name for action in self.options if action.nargs is None for name in action.option_strings}
        joined: list[str] = []
        for word in words:
            if joined and joined[-1] in valued and joined[-1][:2] == "--" and re.match(r"-\.?\d", word):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def print_help(self, file: object = None) -> None:
        """On stdout."""
        say(self.format_help().rstrip("\n"))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End, with a message on stderr; what was said on stdout has arrived before."""
        if message:
            say_beside(message.rstrip("\n"))
        flush()
        sys.exit(status)

    def error(self, message: str) -> NoReturn:
        """Show the usage and what is wrong with it, and end with status 2."""
        for line in self.format_usage().rstrip("\n").split("\n"):
            say_beside(line)
        hint = self._hint()
        self.exit(WRONG_USAGE, f"{self.prog}: error: {message}" + (f". {hint}" if hint else ""))

    def _hint(self) -> str:
        """What was meant, where that can be told from the words that were given."""
        words = self._given[: self._given.index("--")] if "--" in self._given else self._given
        if not self.command:
            name = next((word for word in words if not word.startswith("-")), "")
            return "" if name in self.commands else self._meant(name, self.commands, COMMANDS)
        known = {name for action in self.options for name in action.option_strings}
        habits = OPTIONS[""] | OPTIONS.get(self.command, {})
        hints = []
        for word in words:
            name = word.partition("=")[0]
            if name.startswith("-") and name != "-" and not any(option.startswith(name) for option in known):
                hints.append(self._meant(name, known, habits))
        return " ".join(dict.fromkeys(filter(None, hints)))

    def _meant(self, name: str, known: "Mapping[str, object] | set[str]", habits: Mapping[str, str]) -> str:
        plain = name.lower().replace("_", "-")
        meant = next((habits[form] for form in (name, plain) if form in habits), None)
        if meant is None and plain in known:
            meant = plain
        if meant is not None:
            return meant if " " in meant else f"{name} is {meant} here."
        close = difflib.get_close_matches(plain, sorted({*known, *habits}), n=1, cutoff=0.7)
        if close and close[0] not in known:
            return self._meant(close[0], known, habits)
        return f"Did you mean {close[0]}?" if close else ""
