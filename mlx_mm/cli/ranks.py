"""A command that several ranks run: rank 0 speaks, the others follow it."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlx_mm.cli.division import read_memory
from mlx_mm.cli.notes import note
from mlx_mm.cli.opening import Opened
from mlx_mm.cli.output import flush
from mlx_mm.errors import InputError, RanksError

if TYPE_CHECKING:
    from mlx_mm.models.contracts import Model, Processor

LOST = 1  # the status of a rank that ends because another did
SECONDS_TO_JOIN = 20.0


@contextlib.contextmanager
def loaded(
    checkpoint: Opened, *, pipeline: bool = False, memory: str | None = None
) -> "Iterator[tuple[Model, Processor] | None]":
    """The model and its processor; of several ranks, to rank 0, and None to the others once they have followed it.

    pipeline: whether these have different layers, instead of a part of each; by the memory of their machines, as of
    `read_memory`, or as much each.

    A rank that ends, or of which nothing is heard for 15 seconds, ends the others with a message.
    """
    from mlx_mm.backend import ranks

    if memory is not None and not pipeline:
        raise InputError("--memory says how --pipeline divides a model; expected both. Pass them, or neither.")
    if not ranks.is_launched():
        if pipeline:
            raise InputError(f"--pipeline divides a model, and there is one process. {ranks.HOW_TO_LAUNCH}")
        yield checkpoint.load()
        return
    from mlx_mm.backend.watchdog import watched
    from mlx_mm.generation.following import dismiss, follow

    def lost(rank: int) -> None:
        _end(
            f"Rank {rank} of {group.size()} has ended, or cannot be reached; expected all to the end. See what each "
            "rank said, and start all again."
        )

    try:
        group = ranks.join(SECONDS_TO_JOIN)
        with watched(group, lost), ranks.in_touch():
            shares = read_memory(memory, group.size())
            model, processor = checkpoint.load(group=group, pipeline=shares or pipeline)
            assert model.kind == "generator"  # the only one that is divided
            if group.rank():
                follow(model)
                yield None
                return
            try:
                yield model, processor
            finally:
                dismiss(model)
    except RanksError as error:
        _end(str(error))


def _end(message: str) -> None:
    """End this process at once, from whichever thread: what MLX began with other ranks may never end."""
    note(f"error: {message}")
    flush()
    os._exit(LOST)
