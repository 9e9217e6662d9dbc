"""Who may ask, and how much: hosts, origins, keys, media types and sizes are checked before any route runs."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_mm.errors import shown
from mlx_mm.server.errors import Problem

OPEN = ("/health", "/", "/open")  # for all, also where there is a key; / is the page, which shows nothing without it
PUBLIC = "/page/"  # the files of the page, which everybody may read
PRIVATE = "/api/"  # what is below shows files: it takes the key or the session's token
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?")
_WRITES = ("POST", "PUT", "PATCH", "DELETE")  # no route has others with a body


@dataclass(frozen=True)
class Access:
    """hosts: names of this server beside those of LOOPBACK, without a port. origins: of web pages that may ask beside
    our own, such as "http://localhost:3000". key: that every request must bring, None for none. token: of the session,
    which opens what is below PRIVATE as the key does. max_body: bytes. body_seconds: that a body may take."""

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    max_body: int = 64 << 20
    body_seconds: float = 60.0


class Guard:
    """The door before an application. What passes has in its scope's state, as "known", whether it brought the key or
    the token, which is needed for whatever shows files of the index."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access
        self._hosts = {name.lower() for name in (*LOOPBACK, *access.hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in access.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "").lower()
        friend = origin if origin in self._origins else None
        send = _with_headers(send, friend)
        try:
            self._check_caller(scope, headers, friend)
            if friend and scope["method"] == "OPTIONS":
                await Response(status_code=204)(scope, receive, send)
                return
            self._check_key(scope, headers)
            self._check_body(scope, headers)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, _Counted(receive, self._access).receive, send)

    def _check_caller(self, scope: Scope, headers: Headers, friend: str | None) -> None:
        hosts = headers.getlist("host")
        host = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if host is None or host[1] not in self._hosts:
            raise Problem(
                f"The Host is {shown(hosts[0] if hosts else '')}; expected {', '.join(sorted(self._hosts))}. Start the "
                "server with --allow-host for another name.",
                403,
                code="unknown_host",
            )
        origin = headers.get("origin")
        own = (f"http://{host[0]}", f"https://{host[0]}")
        if friend is None and origin is not None and origin.lower() not in own:
            raise Problem(
                f"The Origin is {shown(origin)}; expected this server's own pages. Start the server with "
                "--allow-origin for others.",
                403,
                code="foreign_origin",
            )
        foreign = headers.get("sec-fetch-site", "none").lower() not in ("none", "same-origin")
        if friend is None and foreign and not _is_link(scope, headers):
            raise Problem(
                "Another site's page asks (Sec-Fetch-Site); expected this server's own pages. Start the server with "
                "--allow-origin for others.",
                403,
                code="foreign_origin",
            )

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        key, token = self._access.key, self._access.token
        given = [_bearer(headers), _cookie(headers)]
        known = _same(given[1], token) | _same(given[0], token) | (key is not None and _same(given[0], key))
        scope.setdefault("state", {})["known"] = known
        path = scope["path"]
        if known or path in OPEN or path.startswith(PUBLIC) or (key is None and not path.startswith(PRIVATE)):
            return
        raise Problem(
            f"The key {'is missing' if not any(given) else 'is another'}; expected the server's in the header "
            "Authorization: Bearer. Take the one it was started with, or its session's token.",
            401,
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _check_body(self, scope: Scope, headers: Headers) -> None:
        if scope["method"] not in _WRITES:
            return
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise Problem(
                f"The Content-Type is {shown(kind)}; expected application/json. Change it.",
                415,
                code="unsupported_media_type",
            )
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(
                "The body is compressed (Content-Encoding); expected JSON as it is. Send it so.",
                415,
                code="unsupported_media_type",
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._access.max_body:
            raise too_large(self._access.max_body)


class _Counted:
    """What a client sends: no more and no longer than it may."""

    def __init__(self, receive: Receive, access: Access) -> None:
        self._receive, self._access = receive, access
        self._bytes, self._complete = 0, False
        self._end: float | None = None

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        loop = asyncio.get_running_loop()
        self._end = self._end or loop.time() + self._access.body_seconds
        try:
            message = await asyncio.wait_for(self._receive(), self._end - loop.time())
        except asyncio.TimeoutError as error:
            raise Problem(
                f"The body took more than {self._access.body_seconds:g} s; expected all of it by then. Send it again.",
                408,
                code="timeout",
            ) from error
        self._bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._bytes > self._access.max_body:
            raise too_large(self._access.max_body)
        return message


def too_large(most: int) -> Problem:
    """The refusal of a body of more than so many bytes."""
    return Problem(
        f"The body has more than {most:,} bytes; expected fewer. Send smaller pictures or fewer, or start the server "
        "with a higher --max-body.",
        413,
        code="body_too_large",
    )


def cookie_name(headers: Headers) -> str:
    """Of the session's token. A browser sends a host's cookies to all its ports, so each port has a name of its own."""
    port = headers.get("host", "").rpartition("]")[2].partition(":")[2]
    return f"mlx_mm_session_{port or 80}"


def _is_link(scope: Scope, headers: Headers) -> bool:
    """Whether somebody follows a link to the page, in a window of its own: it tells and changes nothing by itself."""
    sent = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return (scope["method"], scope["path"]) == ("GET", "/") and sent == ("navigate", "document")


def _bearer(headers: Headers) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(cookie_name(headers))
    except CookieError:
        return ""
    return found.value if found else ""


def _same(given: str, expected: str) -> bool:
    """In a time that does not say where they differ."""
    same = hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))
    return same and bool(expected)  # an empty one opens nothing


def _with_headers(send: Send, friend: str | None) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            if friend is None:
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            else:
                headers["Access-Control-Allow-Origin"] = friend
                headers["Access-Control-Allow-Headers"] = "authorization, content-type"
                headers["Access-Control-Allow-Methods"] = "GET, POST, PATCH, DELETE"
                headers.add_vary_header("Origin")
        await send(message)

    return with_headers
