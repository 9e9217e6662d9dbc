"""A command that several ranks run: rank 0 speaks, the others follow it."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from mlx_mm.cli.division import read_memory
from mlx_mm.cli.notes import note
from mlx_mm.cli.opening import Opened
from mlx_mm.cli.output import flush
from mlx_mm.cli.signals import ENDING
from mlx_mm.errors import InputError, RanksError

if TYPE_CHECKING:
    from mlx_mm.backend.ranks import Group
    from mlx_mm.backend.watchdog import Alarm
    from mlx_mm.models.contracts import Model, Processor

LOST = 1  # the status of a rank that ends because another did
SECONDS_TO_JOIN = 20.0


def end(error: RanksError) -> None:
    """End this process at once, from whichever thread: what MLX began with other ranks may never end."""
    note(f"error: {error}")
    flush()
    os._exit(LOST)


@dataclass
class Ranks:
    """alarm: with which rank 0 wakes the others. on_lost: what a thread does where a rank has ended or is silent."""

    group: "Group"
    alarm: "Alarm" = field(init=False)
    on_lost: Callable[[RanksError], None] = end


@contextlib.contextmanager
def joined() -> Iterator[Ranks | None]:
    """Inside, this process and others are ranks that watch each other; None in one that was started alone.

    What raises RanksError ends the process with a message.
    """
    from mlx_mm.backend import ranks

    if not ranks.is_launched():
        yield None
        return
    from mlx_mm.backend.watchdog import watched
    from mlx_mm.generation.following import check_whole

    def lost(rank: int) -> None:
        together.on_lost(
            RanksError(
                f"Rank {rank} of {together.group.size()} has ended, or cannot be reached; expected all to the end. See "
                "what each rank said, and start all again."
            )
        )

    try:
        together = Ranks(ranks.join(SECONDS_TO_JOIN))
        with watched(together.group, lost) as together.alarm:
            yield together
            check_whole()
    except RanksError as error:
        end(error)


@contextlib.contextmanager
def loaded(
    checkpoint: Opened, *, pipeline: bool = False, memory: str | None = None
) -> "Iterator[tuple[Model, Processor, Callable[[], None]] | None]":
    """The model, its processor, and what lets other ranks sleep until the model is asked again; of several ranks, to
    rank 0, and None to the others once they have followed it.

    pipeline: whether these have different layers, instead of a part of each; by the memory of their machines, as of
    `read_memory`, or as much each.
    """
    from mlx_mm.backend.ranks import HOW_TO_LAUNCH, in_touch

    if memory is not None and not pipeline:
        raise InputError("--memory says how --pipeline divides a model; expected both. Pass them, or neither.")
    with joined() as together:
        if together is None:
            if pipeline:
                raise InputError(f"--pipeline divides a model, and there is one process. {HOW_TO_LAUNCH}")
            yield *checkpoint.load(), lambda: None
            return
        from mlx_mm.generation.following import dismiss, follow, rest

        with in_touch():
            shares = read_memory(memory, together.group.size())
            model, processor = checkpoint.load(group=together.group, pipeline=shares or pipeline)
            assert model.kind == "generator"  # the only one that is divided
            if together.group.rank():
                follow(model, together.alarm.sleep)
                yield None
                return
            try:
                yield model, processor, partial(rest, model, together.alarm.wake)
            finally:
                dismiss(model)


@contextlib.contextmanager
def heedless() -> Iterator[None]:
    """Inside, signals do not end a rank that follows: those of a terminal reach all, and rank 0 ends the others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
