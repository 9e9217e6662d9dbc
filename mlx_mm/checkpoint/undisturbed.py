"""Short sections that no signal cuts short, by agreement with who handles signals.

The package handles none itself. A program that does, as our command line, has `disturb` raise what ends the work; a
section begins with `Section.held = True`, where Python looks for no signals between that line and the one before, and
ends with `end()`.
"""

from collections.abc import Callable


class Section:
    """held: we are in one. waiting: what is to be called at its end."""

    held = False
    waiting: Callable[[], None] | None = None


def end() -> None:
    """The section is over; what has waited for it is called."""
    Section.held = False
    action, Section.waiting = Section.waiting, None
    if action is not None:
        action()


def disturb(action: Callable[[], None]) -> None:
    """Call `action`, which may raise: now, or at the end of the section. Of several the last one counts."""
    if Section.held:
        Section.waiting = action
    else:
        action()
