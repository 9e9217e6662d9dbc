"""How far long work is: a bar on a terminal, a line now and then elsewhere, or a function of the caller."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from mlx_mm.errors import InputError, shown

Progress: TypeAlias = bool | Callable[[int, int | None], None]  # called with what is done, and the total where known

SECONDS_BETWEEN_LINES = 10.0  # where stderr is no terminal
SCALED = 100_000  # from so many on, counts are shown as 1.23M


def check_progress(progress: object) -> None:
    """Raise InputError for what is neither a switch nor a function; None is False."""
    switch = progress is None or isinstance(progress, bool) or type(progress).__name__ in ("bool", "bool_")  # NumPy's
    if not switch and not callable(progress):
        raise InputError(
            f"progress is {shown(progress)}; expected True, False, or a function of (done, total). Leave it out for "
            "none."
        )


@contextlib.contextmanager
def progressing(progress: Progress, total: int | None, doing: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Inside, the function that is given is called with how many more units are done.

    progress: False for silence, True for stderr, or what is called with (done, total), in the thread of the caller; an
    error that it raises ends the work. doing: one word, such as "embedding". unit: of what is counted, such as "item".
    Raises InputError for anything else.
    """
    check_progress(progress)
    if callable(progress):
        yield _counting(progress, total)
    elif progress and sys.stderr is not None:
        yield from _on_terminal(total, doing, unit) if sys.stderr.isatty() else _in_lines(total, doing, unit)
    else:
        yield lambda count: None


def _counting(progress: Callable[[int, int | None], None], total: int | None) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return advance


def _on_terminal(total: int | None, doing: str, unit: str) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(
        total=total, desc=doing, unit=unit, unit_scale=(total or 0) >= SCALED, leave=False, dynamic_ncols=True
    ) as bar:
        yield lambda count: bar.update(count) and None


def _in_lines(total: int | None, doing: str, unit: str) -> Iterator[Callable[[int], None]]:
    last = time.monotonic()

    def show(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            of_total = "" if total is None else f" of {total:,}"
            sys.stderr.write(f"{doing}: {done:,}{of_total} {unit}s\n")
            sys.stderr.flush()

    yield _counting(show, total)
