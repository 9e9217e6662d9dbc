"""How an answer looks at a terminal, and what is said at its end."""

from __future__ import annotations

import io

import pytest

from mlx_mm.cli.screen import Screen, stats
from mlx_mm.generation.answer import Generation


class Terminal(io.StringIO):
    """Standard output that somebody watches."""

    def isatty(self) -> bool:
        return True


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


@pytest.mark.parametrize("steering", ["\x9b", "\x07", "\r", "\u202e", "\u2066", "\x7f", "\x08"], ids=ascii)
def test_an_answer_does_not_steer_a_terminal(monkeypatch: pytest.MonkeyPatch, steering: str) -> None:
    """A pipe gets it as it is."""
    for kind, expected in ((Terminal, "a\tb\n👩\u200d👧\n"), (io.StringIO, f"a\t{steering}b\n👩\u200d👧\n")):
        monkeypatch.setattr("sys.stdout", out := kind())
        screen = Screen(show_thinking=True)
        screen.show(Generation(text=f"a\t{steering}b\n👩\u200d👧"))
        screen.end()
        assert out.getvalue() == expected


def test_stats_name_what_was_kept() -> None:
    line = stats(Generation(prompt_tokens=1200, cached_tokens=1000, prompt_tps=10, generation_tokens=5))
    assert line.startswith("1,200 prompt tokens (1,000 of them kept from before), 10.0 per second; 5 generated")
