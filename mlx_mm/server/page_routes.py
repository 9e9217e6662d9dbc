"""The page: its files, and the way in, after which a browser has the session's token in a cookie."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mlx_mm import __version__
from mlx_mm.checkpoint.bundled import EACH
from mlx_mm.server.errors import Problem
from mlx_mm.server.reading import Schema, read_json
from mlx_mm.server.security import Access, cookie_name

FOLDER = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
# Nothing but our own files runs or is loaded, and nothing becomes HTML from text: Trusted Types have no policy here.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for each time, and answered with 304 by the ETag
}
KEY: Schema = {
    "type": "object",
    "properties": {"key": {"type": "string"}},
    "required": ["key"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class File:
    """One file of the page."""

    data: bytes
    type: str
    etag: str


@cache
def files() -> Mapping[str, File]:
    """All files of the page by their addresses; nothing else of the disk can be asked for."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in TYPES and path.is_file():
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            address = f"/page/{path.relative_to(FOLDER).as_posix()}"
            found[address] = File(data, f"{TYPES[path.suffix]}; charset=utf-8", tag)
    found["/"] = found["/page/index.html"]
    return found


class Page:
    """The routes of the page. reveals: whether it may ask the desktop to show a file."""

    def __init__(self, access: Access, *, reveals: bool = False) -> None:
        self._access, self._reveals = access, reveals
        self._tickets: set[str] = set()

    def routes(self) -> list[Route]:
        """For `make_app`."""
        return [
            Route("/", self._file),
            Route("/page/{path:path}", self._file),
            Route("/open", self._enter, methods=["GET"]),
            Route("/open", self._unlock, methods=["POST"]),
            Route("/api/about", self._about),
        ]

    def ticket(self) -> str:
        """Opens one browser, once: it may stand where other users see it, as in a list of processes."""
        made = secrets.token_urlsafe(24)
        self._tickets.add(made)
        return made

    async def _file(self, request: Request) -> Response:
        file = files().get(request.url.path)
        if file is None:
            raise Problem("The page has no such file; expected one that it names. Open / anew.", 404, code="not_found")
        headers = {**HEADERS, "ETag": file.etag}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.data, media_type=file.type, headers=headers)

    async def _enter(self, request: Request) -> Response:
        """From a link: to the page, with the cookie where the link has the token or a ticket."""
        response = RedirectResponse("/", 303, headers=HEADERS)
        given = request.query_params.get("ticket", "")
        known = given in self._tickets
        self._tickets.discard(given)
        if known or _same(request.query_params.get("token", ""), self._access.token):
            self._give_cookie(request, response)
        return response

    async def _unlock(self, request: Request) -> Response:
        """The key or the token, as typed into the page."""
        given = (await read_json(request, KEY))["key"].strip()
        key = self._access.key
        if not (_same(given, self._access.token) | (key is not None and _same(given, key))):
            raise Problem("The key is another; expected the server's.", 401, param="key", code="invalid_api_key")
        response = JSONResponse({})
        self._give_cookie(request, response)
        return response

    async def _about(self, _: Request) -> Response:
        bundled = {
            name: {"knows": one.knows, "others": one.others, "advised": one.advised} for name, one in EACH.items()
        }
        return JSONResponse({"version": __version__, "reveals": self._reveals, "bundled": bundled})

    def _give_cookie(self, request: Request, response: Response) -> None:
        """For the session of the browser, where no script can read it and no other site's page can send it."""
        name = cookie_name(request.headers)
        response.set_cookie(name, self._access.token, httponly=True, samesite="strict", path="/")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))
