"""An index over HTTP: search, items, thumbnails, originals, duplicates, labels, refresh and its events."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import os
import re
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
from mlx_mm.search.records import Hit, MediaKind, Where
from mlx_mm.server.errors import Problem
from mlx_mm.server.index_changes import Changes, showable, text_of
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
            Route("/api/items/{id}", self._item, methods=get),
            Route("/api/thumb/{content}.jpg", self._thumbnail, methods=get),
            Route("/api/original/{id}", self._original, methods=get),
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
        offset, top, every = asked.get("offset", 0), asked.get("top", 20), asked.get("all", False)
        sort = asked.get("sort", "score")
        if offset and every and sort != "score":
            raise Problem(
                f"offset is {offset} where all are sorted by {sort}; expected 0, as these are the best by score. Raise "
                "top, or sort by score.",
                param="offset",
                code="invalid_value",
            )
        search = partial(
            self._index.search,
            asked.get("q", []),
            like=cast(list[str], like),
            unlike=cast(list[str], unlike),
            without=asked.get("without", []),
            where=where_of(asked),
            top=offset + top + 1,
            min_score=asked.get("min_score"),
            strong_only=not every,
            sort=sort,
        )
        hits = await self.ask(search)
        page = hits[offset : offset + top]
        ids = await self.ask(self._index.ids, [hit.content for hit in page])
        return JSONResponse(
            {
                "hits": [_hit(hit, ids[hit.content]) for hit in page if hit.content in ids],
                "strong": hits.strong,
                "weaker": hits.weaker,
                "offset": offset,
                "more": len(hits) > offset + top,
            }
        )

    async def _item(self, request: Request) -> Response:
        return JSONResponse(_details(await self.ask(self._index.item, number_of(request))))

    async def _thumbnail(self, request: Request) -> Response:
        content = request.path_params["content"]
        jpeg = await self.ask(self._index.thumbnail, content)
        headers = {**IMMUTABLE, "ETag": f'"{content}"'}
        if _has_it(request, content):
            return Response(status_code=304, headers=headers)
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    async def _original(self, request: Request) -> Response:
        number = number_of(request)
        path = await self.ask(self._index.original, number)
        content = (await self.ask(self._index.item, number)).content
        kind = mimetypes.guess_type(path.name)[0] or ""
        known = kind.startswith(("image/", "audio/", "video/"))
        headers = {**ALONE, "ETag": f'"{content}"'}
        if _has_it(request, content):
            return Response(status_code=304, headers=headers)
        return FileResponse(path, media_type=kind if known else "application/octet-stream", headers=headers)

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
                        **_named(file.path),
                        **{name: getattr(file, name) for name in ("content", "size", "width", "height")},
                        **_links(ids[file.content], file.content, "image"),
                    }
                    for file in group.files
                    if file.content in ids
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
        return JSONResponse(showable(await self.ask(self._index.stats)))

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


def number_of(request: Request) -> int:
    """Of the item in the address; Problem for what is no number."""
    given = request.path_params["id"]
    if not re.fullmatch(r"[0-9]{1,18}", given):
        raise Problem(
            f"The item is {shown(given)}; expected the id of one that a search gave. Search again.",
            404,
            code="item_not_found",
        )
    return int(given)


def _has_it(request: Request, content: str) -> bool:
    """Whether the client has what has not changed since, by the tag of its entity."""
    given = request.headers.get("if-none-match", "")
    return any(tag.strip().removeprefix("W/") in (f'"{content}"', "*") for tag in given.split(","))


def _named(path: str) -> dict[str, str]:
    return {"name": text_of(os.path.basename(path)), "path": text_of(path)}


def _links(number: int, content: str, kind: MediaKind) -> dict[str, object]:
    thumbnail = None if kind == "audio" else f"/api/thumb/{content}.jpg"
    return {"id": number, "thumbnail": thumbnail, "original": f"/api/original/{number}"}


def _hit(hit: Hit, number: int) -> dict[str, object]:
    return {
        **_links(number, hit.content, hit.kind),
        **_named(hit.path),
        "copies": showable(hit.copies),
        **{
            name: getattr(hit, name)
            for name in ("score", "z", "strong", "kind", "content", "start", "stop", "taken_at", "width", "height")
        },
        "tags": list(hit.tags),
    }


def _details(item: Item) -> dict[str, object]:
    return {
        **_links(item.id, item.content, item.kind),
        **_named(item.paths[0]),
        "paths": showable(item.paths),
        **{
            name: getattr(item, name)
            for name in ("kind", "content", "size", "width", "height", "seconds", "taken_at", "camera")
        },
        "place": item.place and list(item.place),
        "tags": list(item.tags),
    }
