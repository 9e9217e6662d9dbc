"""An index over HTTP: search, items, thumbnails, originals, duplicates, labels, refresh and its events."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import os
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlx_mm.errors import shown
from mlx_mm.search.index import Index
from mlx_mm.search.items import Item, NoItemError
from mlx_mm.search.records import Hit, Where
from mlx_mm.server.errors import Problem
from mlx_mm.server.index_changes import Changes
from mlx_mm.server.index_schemas import DUPLICATES, KEEP_APART, NOTHING, REFRESH, SEARCH, TAG
from mlx_mm.server.media import Media, Reader
from mlx_mm.server.reading import JsonObject, Schema, check, read_json

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

AT_ONCE = 4  # searches and the like; others wait
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}  # an address that has a digest
ALONE = {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, no-cache"}
_WHERE = ("since", "until", "near", "camera", "kind", "folder", "tag", "name")


class IndexRoutes:
    """The routes of one index, which the caller closes. All are below /api/."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._turns = asyncio.Semaphore(AT_ONCE)
        self.changes = Changes(index)

    def routes(self) -> list[Route]:
        """For `make_app`."""
        get, post = ["GET"], ["POST"]
        return [
            Route("/api/search", self._search_by_address, methods=get),
            Route("/api/search", self._search, methods=post),
            Route("/api/items/{id:int}", self._item, methods=get),
            Route("/api/thumb/{content}.jpg", self._thumbnail, methods=get),
            Route("/api/original/{id:int}", self._original, methods=get),
            Route("/api/duplicates", self._duplicates, methods=get),
            Route("/api/duplicates/keep", self._keep_apart, methods=post),
            Route("/api/tags", self._tags, methods=get),
            Route("/api/tags", self._tag, methods=post),
            Route("/api/index", self._about, methods=get),
            Route("/api/refresh", self._refresh, methods=post),
            Route("/api/events", self._events, methods=get),
        ]

    def file_of(self, number: int) -> Path:
        """Of an item, for `Media`; any thread may ask. Problem where there is none."""
        try:
            return self._index.original(number)
        except NoItemError as error:
            raise _not_found(error) from error

    async def ask(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """What another thread finds, so that the server goes on meanwhile; Problem for an item that is not there."""
        async with self._turns:
            try:
                return await asyncio.to_thread(function, *args, **kwargs)
            except NoItemError as error:
                raise _not_found(error) from error

    async def _search_by_address(self, request: Request) -> Response:
        return await self._answer_search(request, query_of(request, SEARCH))

    async def _search(self, request: Request) -> Response:
        return await self._answer_search(request, await read_json(request, SEARCH))

    async def _answer_search(self, request: Request, asked: JsonObject) -> Response:
        reader = Reader(_media(request), request.scope.get("state", {}).get("known", False))
        like = await _examples(reader, asked, "like")
        unlike = await _examples(reader, asked, "unlike")
        search = partial(
            self._index.search,
            asked.get("q", []),
            like=cast(list[str], like),
            unlike=cast(list[str], unlike),
            without=asked.get("without", []),
            where=where_of(asked),
            top=asked.get("top", 20),
            min_score=asked.get("min_score"),
            strong_only=not asked.get("all", False),
            sort=asked.get("sort", "score"),
        )
        hits = await self.ask(search)
        ids = await self.ask(self._index.ids, [hit.content for hit in hits])
        shown = [_hit(hit, ids[hit.content]) for hit in hits if hit.content in ids]
        return JSONResponse({"hits": shown, "strong": hits.strong, "weaker": hits.weaker})

    async def _item(self, request: Request) -> Response:
        return JSONResponse(_details(await self.ask(self._index.item, request.path_params["id"])))

    async def _thumbnail(self, request: Request) -> Response:
        jpeg = await self.ask(self._index.thumbnail, request.path_params["content"])
        return Response(jpeg, media_type="image/jpeg", headers=IMMUTABLE)

    async def _original(self, request: Request) -> Response:
        path = await self.ask(self._index.original, request.path_params["id"])
        kind = mimetypes.guess_type(path.name)[0] or ""
        known = kind.startswith(("image/", "audio/", "video/"))
        return FileResponse(path, media_type=kind if known else "application/octet-stream", headers=ALONE)

    async def _duplicates(self, request: Request) -> Response:
        asked = query_of(request, DUPLICATES)
        groups = await self.ask(
            partial(self._index.duplicates, asked.get("kind", "same"), threshold=asked.get("threshold"))
        )
        ids = await self.ask(self._index.ids, {file.content for group in groups for file in group.files})
        shown = [
            {
                "kind": group.kind,
                "score": group.score,
                "files": [
                    {
                        "id": ids.get(file.content),
                        "content": file.content,
                        "path": _text(file.path),
                        "size": file.size,
                        "width": file.width,
                        "height": file.height,
                    }
                    for file in group.files
                ],
            }
            for group in groups
        ]
        return JSONResponse({"groups": shown})

    async def _keep_apart(self, request: Request) -> Response:
        asked = await read_json(request, KEEP_APART)
        await self.ask(self._index.keep_apart, asked["first"], asked["second"])
        return JSONResponse({})

    async def _tags(self, request: Request) -> Response:
        query_of(request, NOTHING)
        return JSONResponse({"tags": await self.ask(self._index.tags)})

    async def _tag(self, request: Request) -> Response:
        asked = await read_json(request, TAG)
        tag = partial(self._index.tag, asked["labels"], least=asked.get("least"), kind=asked.get("kind", "image"))
        return JSONResponse({"tags": await self.ask(tag)})

    async def _about(self, request: Request) -> Response:
        query_of(request, NOTHING)
        return JSONResponse(json.loads(json.dumps(await self.ask(self._index.stats), default=str)))

    async def _refresh(self, request: Request) -> Response:
        asked = await read_json(request, REFRESH)
        folders = [Path(folder).expanduser() for folder in asked.get("folders", [])]
        for folder in folders:
            if not folder.is_absolute():
                raise Problem(
                    f"The folder is {shown(str(folder))}; expected a whole path on the machine that serves, such as "
                    "/home/me/Pictures. Change it.",
                    param="folders",
                    code="invalid_value",
                )
        self.changes.refresh(
            folders, retry=asked.get("retry", False), accept_missing=asked.get("accept_missing", False)
        )
        return JSONResponse({"state": "refreshing"}, 202)

    async def _events(self, request: Request) -> Response:
        query_of(request, NOTHING)
        events = self.changes.events()
        first = await anext(events)

        async def lines() -> AsyncIterator[str]:
            yield _line(first)
            async for told in events:
                yield _line(told)

        return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _line(told: Mapping[str, object]) -> str:
    return f"event: index\ndata: {json.dumps(told)}\n\n"


def _not_found(error: NoItemError) -> Problem:
    return Problem(str(error), 404, code="item_not_found")


def _media(request: Request) -> Media:
    return cast(Media, request.app.state.media)


async def _examples(reader: Reader, asked: JsonObject, name: str) -> list[object]:
    """Paths of items and bytes of pictures; what is no picture may be a sound."""
    found: list[object] = []
    for number, uri in enumerate(asked.get(name, [])):
        text = f"mm://item/{uri}" if isinstance(uri, int) or uri.isdecimal() else uri
        sound = text[:11].lower() == "data:audio/"
        data = await reader.read(text, "audio" if sound else "image", f"{name}[{number}]")
        found.append(os.fspath(data) if isinstance(data, os.PathLike) else data)
    return found


def where_of(asked: JsonObject) -> Where:
    """The filters among what was asked."""
    near = asked.get("near")
    return Where(**{**{name: asked[name] for name in _WHERE if name in asked}, "near": near and tuple(near)})


def query_of(request: Request, schema: Schema) -> JsonObject:
    """The query of an address, as the schema has it: a list is a field that stands several times."""
    properties = cast(Mapping[str, Schema], schema["properties"])
    asked: dict[str, Any] = {}
    for name in request.query_params:
        given = request.query_params.getlist(name)
        kind = properties.get(name, {}).get("type")
        if name == "near":
            given = given[0].split(",")
        if kind == "array":
            asked[name] = [_plain(one, "number" if name == "near" else "string") for one in given]
        elif len(given) > 1:
            raise Problem(f"{name} stands {len(given)} times; expected it once. Leave one.", param=name)
        else:
            asked[name] = _plain(given[0], kind)
    return cast(JsonObject, check(asked, schema))


def _plain(text: str, kind: str | None) -> object:
    """A number or true and false of what is one; else the text, which the schema refuses."""
    if kind in ("integer", "number"):
        try:
            return int(text) if kind == "integer" else float(text)
        except ValueError:
            return text
    return {"true": True, "1": True, "false": False, "0": False}.get(text, text) if kind == "boolean" else text


def _text(path: str) -> str:
    """As it can be shown: what is no UTF-8 in it is replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def _links(number: int, content: str) -> dict[str, str]:
    return {"thumbnail": f"/api/thumb/{content}.jpg", "original": f"/api/original/{number}"}


def _hit(hit: Hit, number: int) -> dict[str, object]:
    return {
        "id": number,
        "name": _text(os.path.basename(hit.path)),
        "path": _text(hit.path),
        "copies": [_text(path) for path in hit.copies],
        **{
            name: getattr(hit, name)
            for name in ("score", "z", "strong", "kind", "content", "start", "stop", "taken_at", "width", "height")
        },
        "tags": list(hit.tags),
        **_links(number, hit.content),
    }


def _details(item: Item) -> dict[str, object]:
    return {
        **{name: getattr(item, name) for name in ("id", "kind", "content", "size", "width", "height", "seconds")},
        **{name: getattr(item, name) for name in ("taken_at", "camera")},
        "place": item.place and list(item.place),
        "name": _text(os.path.basename(item.paths[0])),
        "paths": [_text(path) for path in item.paths],
        "tags": list(item.tags),
        **_links(item.id, item.content),
    }
