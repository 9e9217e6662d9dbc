"""Errors of the API in words of the command line: the options of a command in place of the arguments of a function."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

# Argument -> option, where their names differ; of those that say the opposite, the option stands for False
_OTHERS = {"images": "image", "videos": "video"}
_OPPOSITES = {"truncate": "no_truncate", "normalize": "no_normalize", "enable_thinking": "no_thinking"}
_PHRASES = {
    "truncation is False": ("no_truncate", "{} is given"),
    "leave truncation on": ("no_truncate", "leave {} out"),
}


def naming_options(options: "Sequence[argparse.Action]") -> Callable[[str], str]:
    """A function that puts the options of a command in place of the arguments that a text for people names.

    An argument of one word, such as `dim`, is also a word of English: it counts at the start of a text before "is",
    between "leave" and "out", and where an = follows it. Parts of paths and of quoted texts are left alone.
    """
    known = {option.dest: option.option_strings[-1] for option in options if option.option_strings}
    known |= {argument: known[option] for argument, option in _OTHERS.items() if option in known}
    false = {argument: known[option] for argument, option in _OPPOSITES.items() if option in known}
    names = "|".join(sorted(map(re.escape, {*known, *false}), key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w./'\"=-])({names})(=False\b|=None\b|=|(?![\w/'\"=-]|\.\w))")

    def option_of(found: re.Match[str]) -> str:
        name, value = found.groups()
        before, after = found.string[: found.start()], found.string[found.end() :]
        if name in false:
            return false[name] if value == "=False" else str(found.group())
        plain = not value and "_" not in name
        left_out = before.lower().endswith("leave ") and after.startswith(" out")
        if plain and not left_out and not (not before and after.startswith(" is ")):
            return str(found.group())
        if value == "=None":
            return f"{known[name]} none"
        follows = value == "=" and re.match(r"[^\s,.;)]", after)
        return known[name] + (" " if follows else "")

    def translate(text: str) -> str:
        for phrase, (option, here) in _PHRASES.items():
            if option in known:
                text = text.replace(phrase, here.format(known[option]))
        return pattern.sub(option_of, text) if names else text

    return translate
