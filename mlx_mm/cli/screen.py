"""How an answer looks while it comes, and what is said of it at its end."""

import os
import sys
from typing import TYPE_CHECKING

from mlx_mm.cli.notes import note
from mlx_mm.cli.output import UNSAFE, flush, put, watched
from mlx_mm.cli.tables import plural

if TYPE_CHECKING:
    from mlx_mm.generation.answer import Generation

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Screen:
    """Shows an answer as it comes: reasoning dimmed and only where somebody watches, or asked for."""

    def __init__(self, *, show_thinking: bool = False) -> None:
        self._terminal = watched(sys.stdout)
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        self._thinking = self._terminal or show_thinking
        self._last = ""  # "reasoning" or "text"

    def show(self, piece: "Generation") -> None:
        """Print what a piece adds."""
        if piece.reasoning and self._thinking:
            text = self._clean(piece.reasoning)
            self._write("reasoning", f"{DIM}{text}{PLAIN}" if self._colour else text)
        if piece.text:
            self._write("text", self._clean(piece.text))

    def end(self) -> None:
        """The line after an answer, also one that was cut short."""
        if self._last:
            self._put("\n")
        self._last = ""

    def _write(self, part: str, text: str) -> None:
        gap = "\n\n" if self._last not in ("", part) else ""
        self._put(gap + text)
        self._last = part

    def _clean(self, text: str) -> str:
        """A model must not steer a terminal."""
        return (
            UNSAFE.sub(lambda found: found.group() if found.group() in "\n\t" else "", text) if self._terminal else text
        )

    def _put(self, text: str) -> None:
        put(text)
        flush()


def note_end(answer: "Generation", *, show_stats: bool) -> None:
    """Say on stderr that an answer was cut at its limit, and with show_stats how fast it came."""
    if answer.finish_reason == "length":
        note(f"the answer was cut at {plural(answer.generation_tokens, 'token')}; --max-tokens allows more")
    if show_stats:
        note(stats(answer))


def stats(answer: "Generation") -> str:
    """Speed and memory in a line."""
    cached = f" ({answer.cached_tokens:,} of them kept from before)" if answer.cached_tokens else ""
    return (
        f"{answer.prompt_tokens:,} prompt tokens{cached}, {answer.prompt_tps:,.1f} per second; "
        f"{answer.generation_tokens:,} generated, {answer.generation_tps:,.1f} per second; "
        f"peak memory {answer.peak_memory:.2f} GB"
    )
