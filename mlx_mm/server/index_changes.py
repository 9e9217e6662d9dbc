"""Refreshes of a served index, one at a time: begun, told of while they go on, and ended with the server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from mlx_mm.errors import MlxMmError
from mlx_mm.search.index import Index
from mlx_mm.server.errors import Problem

Told: TypeAlias = Mapping[str, object]

EVERY_SECONDS = 0.5  # between two events of one refresh
MOST_LISTENERS = 16
MOST_FAILURES = 100  # that are told of by name


def text_of(path: str) -> str:
    """As JSON in UTF-8 can have it: what is no UTF-8 in a path is replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def showable(value: object) -> object:
    """The same of all texts in lists and objects."""
    if isinstance(value, str):
        return text_of(value)
    if isinstance(value, Mapping):
        return {name: showable(one) for name, one in value.items()}
    return [showable(one) for one in value] if isinstance(value, list | tuple) else value


def _log(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "A refresh of the index broke off", "exception": error})


class Ended(MlxMmError):  # noqa: N818
    """The server ends, and its work with it."""


class Changes:
    """Refreshes of an index, in a thread of their own, and whoever listens to them. Used on the event loop."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._listeners: set[asyncio.Queue[Told | None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self._last: Told = {"state": "idle"}

    def refresh(self, folders: Sequence[Path] = (), *, retry: bool, accept_missing: bool) -> None:
        """Begin one, also of folders that are new. Problem where one goes on."""
        if self._task is not None and not self._task.done():
            raise Problem(
                "The index is being refreshed; expected no other refresh. Wait for its end: GET /api/events.",
                409,
                code="busy",
            )
        self._tell({"state": "refreshing"})
        self._task = asyncio.create_task(self._refresh(folders, retry, accept_missing))
        self._task.add_done_callback(_log)

    async def events(self) -> AsyncIterator[Told]:
        """What is now, and what becomes of it, until the server ends."""
        if len(self._listeners) >= MOST_LISTENERS:
            raise Problem(
                f"{MOST_LISTENERS} listen to the index; expected fewer. Close one, or try again later.",
                429,
                code="too_many_listeners",
                headers={"Retry-After": "5"},
            )
        heard: asyncio.Queue[Told | None] = asyncio.Queue()
        self._listeners.add(heard)
        try:
            yield self._last
            while not self._ending and (told := await heard.get()) is not None:
                yield told
        finally:
            self._listeners.discard(heard)

    def end(self) -> None:
        """End the refresh, which keeps what it has committed, and the events."""
        self._ending = True
        for heard in self._listeners:
            heard.put_nowait(None)

    async def ended(self) -> None:
        """Wait for the refresh to end."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _tell(self, told: Told) -> None:
        self._last = told
        for heard in self._listeners:
            heard.put_nowait(told)

    async def _refresh(self, folders: Sequence[Path], retry: bool, accept_missing: bool) -> None:
        progress = self._counting(asyncio.get_running_loop())

        def run() -> Told:
            try:
                report = self._index.refresh(
                    folders=folders, retry=retry, accept_missing=accept_missing, progress=progress
                )
            except MlxMmError as error:
                return {"state": "idle", "error": text_of(str(error))}
            failures = [{"path": path, "reason": why} for path, why in islice(report.failed.items(), MOST_FAILURES)]
            return {
                "state": "idle",
                "report": showable({**asdict(report), "failed": len(report.failed), "failures": failures}),
            }

        told: Told = {
            "state": "idle",
            "error": "The refresh broke off by a mistake of mlx_mm, which the server's log has.",
        }
        try:
            told = await asyncio.to_thread(run)
        finally:
            self._tell(told)

    def _counting(self, loop: asyncio.AbstractEventLoop) -> Callable[[int, int | None], None]:
        """Tells now and then how many files are read of how many; called by the thread of a refresh."""
        told = time.monotonic()

        def count(done: int, total: int | None) -> None:
            nonlocal told
            if self._ending:
                raise Ended("The server ends; expected nothing more. What was committed is kept.")
            if done == total or time.monotonic() - told >= EVERY_SECONDS:
                told = time.monotonic()
                loop.call_soon_threadsafe(self._tell, {"state": "refreshing", "done": done, "total": total})

        return count
