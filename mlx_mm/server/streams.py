"""Answers that are sent while they are written: events of a server (SSE), with comments while there is no news."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Protocol, TypeAlias

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mlx_mm.generation.answer import Generation
from mlx_mm.server.errors import problem_of
from mlx_mm.server.tickets import Done, Event, Failed, Piece, Reading, Ticket
from mlx_mm.server.waiting import Line

Events: TypeAlias = "AsyncGenerator[Event[Generation] | None, None]"

SECONDS = 5.0  # without news, after which a comment says that there is none


class Shape(Protocol):
    """How one API writes an answer that comes in pieces."""

    def begin(self) -> list[str]:
        """Before the first piece."""

    def piece(self, piece: Generation) -> list[str]:
        """What a piece adds."""

    def end(self, done: Done[Generation]) -> list[str]:
        """After the last one."""

    def fail(self, error: dict[str, dict[str, str | None]]) -> list[str]:
        """In the place of what would have come."""


def event(data: object, name: str | None = None) -> str:
    """One event. data: JSON."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def stream(line: Line, ticket: Ticket[Generation], shape: Shape) -> Response:
    """The response, once there is something to say: an error until then is raised, and has a status of its own."""
    events = line.events(ticket, SECONDS)
    async with contextlib.AsyncExitStack() as held:
        held.push_async_callback(events.aclose)
        first = await anext(events, None)
        if isinstance(first, Failed):
            raise first.error
        held.pop_all()
    return _Streamed(_written(first, events, shape), events)


async def _written(first: Event[Generation] | None, events: Events, shape: Shape) -> AsyncGenerator[str, None]:
    for text in shape.begin():
        yield text
    for text in _texts(first, shape):
        yield text
    async for found in events:
        for text in _texts(found, shape):
            yield text


def _texts(found: Event[Generation] | None, shape: Shape) -> list[str]:
    if isinstance(found, Piece):
        return shape.piece(found.value)
    if isinstance(found, Reading):
        return [f": reading {found.done}/{found.total}\n\n"]
    if isinstance(found, Done):
        return shape.end(found)
    if isinstance(found, Failed):
        return shape.fail(problem_of(found.error).body())
    return [": waiting\n\n"]


class _Streamed(StreamingResponse):
    """It gives back what it was made from, also where it is never sent."""

    def __init__(self, texts: AsyncGenerator[str, None], events: Events) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(texts, media_type="text/event-stream", headers=headers)
        self._texts, self._events = texts, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._texts.aclose()
            await self._events.aclose()
