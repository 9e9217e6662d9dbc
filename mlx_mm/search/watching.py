"""An index that follows its folders: what the system tells of changes only says when to look again."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mlx_mm.errors import InputError, MlxMmError, foreign, is_number, shown
from mlx_mm.search.file_systems import network_kind
from mlx_mm.search.records import RefreshReport

QUIET_SECONDS = 2.0  # without a change, before folders are looked at
EVERY_SECONDS = 15 * 60.0  # they are looked at in any case: systems lose changes, and network volumes tell of none
LONGEST_WAIT = 60.0  # in which something always changes
SHORTEST_POLL = 1.0
NETWORK_SECONDS = 60.0  # after which folders on network volumes are looked at, or ten times what a look takes
STEP = 0.25  # seconds in which watchfiles gathers changes


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
    """True once something has changed in folders and then nothing for `quiet` seconds, else False each second, until
    `stop` is set. True also when one of them went away, or came (back), which systems do not tell: it is followed
    then. Where one lies on a network volume, of which they tell nothing, True each NETWORK_SECONDS.

    folders: asked at the beginning, and after such a change. own: the folder of the index, which a refresh changes.
    Raises InputError where watchfiles, an extra, is not there, or the system does not watch them."""
    try:
        import watchfiles  # noqa: F401
    except ImportError as error:
        raise InputError(
            "Folders are to be watched, and watchfiles is not there; expected it. pip install 'mlx_mm[watch]', or look "
            "at them every so many seconds with --poll."
        ) from error
    while not stop.is_set():
        known = folders()
        places = [_place(folder) for folder in known]
        there = [os.fsdecode(folder) for folder, place in zip(known, places, strict=True) if place]
        pause = NETWORK_SECONDS if any(network_kind(Path(folder)) for folder in there) else math.inf
        looked = time.monotonic()
        with _told(there, own) as (told, errors):
            while not stop.is_set() and [_place(folder) for folder in known] == places:
                changed = told.wait(SHORTEST_POLL)
                if errors:
                    raise errors[0]
                deadline = time.monotonic() + LONGEST_WAIT
                while told.is_set() and time.monotonic() < deadline and not stop.is_set():
                    told.clear()
                    told.wait(quiet)
                begun = time.monotonic()
                changed = changed or begun - looked >= pause
                yield changed
                if changed:
                    looked = time.monotonic()
                    pause = max(NETWORK_SECONDS, 10 * (looked - begun)) if pause < math.inf else pause
        if not stop.is_set():
            yield True


@contextlib.contextmanager
def _told(folders: Sequence[str], own: Path) -> Iterator[tuple[threading.Event, list[InputError]]]:
    """An event that is set when something changes, and what hinders watching. In a thread of its own, since watchfiles
    makes Ctrl-C of every signal that comes to it."""
    import watchfiles

    told, ended, errors = threading.Event(), threading.Event(), list[InputError]()
    inside = os.path.join(os.path.realpath(own), "")

    def follow() -> None:
        try:
            with foreign(InputError, "Folders cannot be watched", "expected a system that does. Look with --poll."):
                for _ in watchfiles.watch(
                    *folders,
                    watch_filter=lambda _, path: not path.startswith(inside),
                    debounce=int(2 * STEP * 1000),
                    step=int(STEP * 1000),
                    stop_event=ended,
                    rust_timeout=int(SHORTEST_POLL * 1000),
                    ignore_permission_denied=True,
                ):
                    told.set()
        except InputError as error:
            errors.append(error)
            told.set()

    thread = threading.Thread(target=follow, name="watching", daemon=True)
    if folders:
        thread.start()
    try:
        yield told, errors
    finally:
        ended.set()
        if folders:
            thread.join()


def _place(folder: bytes) -> tuple[int, int] | None:
    """By which a folder is known; None where there is none."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
