"""An index that follows its folders: what the system tells of changes only says when to look again."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mlx_mm.errors import InputError, MlxMmError, foreign, is_number, shown
from mlx_mm.search.records import RefreshReport

QUIET_SECONDS = 2.0  # without a change, before folders are looked at
EVERY_SECONDS = 15 * 60.0  # they are looked at in any case: systems lose changes, and network volumes tell of none
LONGEST_WAIT = 60.0  # in which something always changes
SHORTEST_POLL = 1.0


def watch(
    refresh: Callable[[], RefreshReport],
    hints: Iterable[bool],
    *,
    every: float = EVERY_SECONDS,
    on_report: Callable[[RefreshReport], None] | None = None,
    on_error: Callable[[MlxMmError], None] | None = None,
) -> None:
    """Refresh at once, then after each hint, and when it was not done for `every` seconds, until the hints end.

    hints: `changes` or `polled`; True where something may have changed, False to have the time looked at. on_report:
    called with what each refresh found. on_error: called with what hindered one, such as a volume that is not there or
    another writer; the next one may do better. By default it is raised.
    """

    def once() -> None:
        try:
            report = refresh()
        except MlxMmError as error:
            if on_error is None:
                raise
            on_error(error)
        else:
            if on_report is not None:
                on_report(report)

    once()
    last = time.monotonic()
    for changed in hints:
        if changed or time.monotonic() - last >= every:
            once()
            last = time.monotonic()


def polled(seconds: float, stop: threading.Event) -> Iterator[bool]:
    """True each so many seconds, until `stop` is set: for network volumes, whose changes no system tells."""
    if not is_number(seconds) or not SHORTEST_POLL <= seconds <= threading.TIMEOUT_MAX:
        raise InputError(
            f"poll is {shown(seconds)}; expected seconds, {SHORTEST_POLL:g} at least. Leave it out to be told by the "
            "system."
        )
    while not stop.wait(seconds):
        yield True


def changes(
    folders: Callable[[], Sequence[bytes]], own: Path, stop: threading.Event, *, quiet: float = QUIET_SECONDS
) -> Iterator[bool]:
    """True once something has changed in folders and then nothing for `quiet` seconds, else False now and then, until
    `stop` is set. folders: asked at the beginning. own: the folder of the index, which a refresh changes itself.
    Raises InputError where watchfiles, an extra, is not there, or the system does not watch them."""
    try:
        import watchfiles
    except ImportError as error:
        raise InputError(
            "Folders are to be watched, and watchfiles is not there; expected it. pip install 'mlx_mm[watch]', or look "
            "at them every so many seconds with --poll."
        ) from error
    there = [os.fsdecode(folder) for folder in folders() if os.path.isdir(folder)]
    inside = os.path.join(os.path.realpath(own), "")
    with foreign(InputError, "Folders cannot be watched", "expected a system that does. Look at them with --poll."):
        for found in watchfiles.watch(
            *there,
            watch_filter=lambda _, path: not path.startswith(inside),
            debounce=int(LONGEST_WAIT * 1000),
            step=int(quiet * 1000),
            stop_event=stop,
            rust_timeout=int(SHORTEST_POLL * 1000),
            yield_on_timeout=True,
            raise_interrupt=True,
            ignore_permission_denied=True,
        ):
            yield bool(found)
