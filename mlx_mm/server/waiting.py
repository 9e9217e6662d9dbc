"""From the engine's thread to asyncio: the events of a ticket, until its end or until the client has gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Generic

from starlette.requests import Request

from mlx_mm.server.errors import Problem
from mlx_mm.server.tickets import Done, Event, Failed, Result, Ticket


class Line:
    """Holds the line to a client: requests that it waits for end with it."""

    def __init__(self, request: Request) -> None:
        self._gone = asyncio.create_task(_disconnected(request))

    async def result(self, ticket: Ticket[Result]) -> Done[Result]:
        """The end of a ticket. Raises the error of Failed, and Problem 499 where the client has gone."""
        with contextlib.closing(_Inbox(ticket)) as inbox:
            while not self._gone.done():
                event = await self._next(inbox, None)
                if isinstance(event, Done):
                    return event
                if isinstance(event, Failed):
                    raise event.error
        raise Problem("The client has gone; expected it to wait for its answer. Ask again.", 499)

    async def events(self, ticket: Ticket[Result], seconds: float) -> AsyncGenerator[Event[Result] | None, None]:
        """The events of a ticket to its last, or until the client has gone; None where there was none for so many
        seconds. The ticket is cancelled where they are not taken to the end."""
        with contextlib.closing(_Inbox(ticket)) as inbox, contextlib.closing(self):
            while not self._gone.done():
                event = await self._next(inbox, seconds)
                yield event
                if isinstance(event, Done | Failed):
                    return

    async def _next(self, inbox: _Inbox[Result], seconds: float | None) -> Event[Result] | None:
        if inbox.events.empty():
            coming = asyncio.ensure_future(inbox.events.get())
            try:
                await asyncio.wait({coming, self._gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    return coming.result()
            finally:
                coming.cancel()
            return None
        return inbox.events.get_nowait()

    def close(self) -> None:
        """Wait for the client's end no more."""
        self._gone.cancel()


class _Inbox(Generic[Result]):
    """The events of a ticket as they come, in the loop of asyncio."""

    def __init__(self, ticket: Ticket[Result]) -> None:
        self.events: asyncio.Queue[Event[Result]] = asyncio.Queue()
        self._ticket = ticket
        loop = asyncio.get_running_loop()

        def bring(event: Event[Result]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(self.events.put_nowait, event)

        ticket.on_event(bring)

    def close(self) -> None:
        self._ticket.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
