"""Requests to an application, without a network between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

KEY = "a key of tests"
TOKEN = "a-token-of-tests"  # of a session
HEADERS = {"host": "127.0.0.1:8765", "content-type": "application/json"}


@dataclass
class Answer:
    """What came: of a stream, `events` are its data."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        lines = [line for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def ask(app: Any, method: str, path: str, body: object = None, **options: Any) -> Answer:
    """One request; see `asking`."""
    return asyncio.run(asking(app, method, path, body, **options))


async def asking(
    app: Any,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: dict[str, str | None] | None = None,
    parts: Iterable[bytes] | None = None,
    leave_after: float | None = None,
) -> Answer:
    """headers: beside HEADERS, None takes one away. parts: of the body, as they come. leave_after: seconds."""
    given = {name: value for name, value in {**HEADERS, **(headers or {})}.items() if value is not None}
    if parts is None:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given.setdefault("content-length", str(len(data)))
        parts = [data]
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8765),
        "state": {},
    }
    coming = iter(parts)
    complete = asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        part = next(coming, None)
        if part is not None:
            return {"type": "http.request", "body": part, "more_body": True}
        if not complete.is_set():
            complete.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.sleep(3600 if leave_after is None else leave_after)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), 60)
    start = next(message for message in sent if message["type"] == "http.response.start")
    found = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], found, b"".join(message.get("body", b"") for message in sent))
