"""Refreshes of a served index, one at a time: begun, told of while they go on, and ended with the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from mlx_mm.errors import MlxMmError
from mlx_mm.search.index import Index
from mlx_mm.server.errors import Problem

Told: TypeAlias = Mapping[str, object]

EVERY_SECONDS = 0.5  # between two events of one refresh
MOST_LISTENERS = 16


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
            await self._task

    def _tell(self, told: Told) -> None:
        self._last = told
        for heard in self._listeners:
            heard.put_nowait(told)

    async def _refresh(self, folders: Sequence[Path], retry: bool, accept_missing: bool) -> None:
        on_event = self._counting(asyncio.get_running_loop())

        def run() -> Told:
            try:
                report = self._index.refresh(folders, retry=retry, accept_missing=accept_missing, on_event=on_event)
            except MlxMmError as error:
                return {"state": "idle", "error": str(error)}
            failed = len(report.failed)
            return {
                "state": "idle",
                "report": {**asdict(report), "failed": failed, "left_alone": len(report.left_alone)},
            }

        self._tell(await asyncio.to_thread(run))

    def _counting(self, loop: asyncio.AbstractEventLoop) -> Callable[[str, str], None]:
        """Counts the files of a refresh, and tells of it now and then; called by its thread."""
        files, told = 0, time.monotonic()

        def count(event: str, _: str) -> None:
            nonlocal files, told
            if self._ending:
                raise Ended("The server ends; expected nothing more. What was committed is kept.")
            files += event != "model"
            if time.monotonic() - told >= EVERY_SECONDS:
                told = time.monotonic()
                loop.call_soon_threadsafe(self._tell, {"state": "refreshing", "files": files})

        return count
