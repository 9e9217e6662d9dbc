"""What the page shows of an index beside what others ask for: outlines, waveforms, filters, labels of one item."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_mm.processing.audio import seconds_of, stream_audio
from mlx_mm.search.index import Index
from mlx_mm.server.errors import Problem
from mlx_mm.server.index_routes import IMMUTABLE, IndexRoutes, number_of, query_of, where_of
from mlx_mm.server.index_schemas import LABELS, NOTHING, OUTLINE
from mlx_mm.server.reading import read_json

BARS = 240  # of a waveform
RATE = 8000  # Hz: enough for how loud it is
MOST_WAVES = 512  # that are kept, of a few kB each


class PageData:
    """Routes below /api/ for the page. shown: those of the same index. reveal: shows a file in the desktop's own file
    manager, None where the server runs on no desktop."""

    def __init__(self, index: Index, shown: IndexRoutes, reveal: Callable[[Path], None] | None = None) -> None:
        self._index, self._shown, self._reveal = index, shown, reveal
        self._waves: OrderedDict[str, dict[str, object]] = OrderedDict()
        self._decoding = asyncio.Semaphore(1)  # a page full of long sounds leaves the rest of the machine alone

    def routes(self) -> list[Route]:
        """For `make_app`."""
        return [
            Route("/api/outline", self._outline, methods=["GET"]),
            Route("/api/facets", self._facets, methods=["GET"]),
            Route("/api/unreadable", self._unreadable, methods=["GET"]),
            Route("/api/wave/{id}", self._wave, methods=["GET"]),
            Route("/api/items/{id}/tags", self._set_tags, methods=["POST"]),
            Route("/api/items/{id}/reveal", self._show, methods=["POST"]),
        ]

    async def _outline(self, request: Request) -> Response:
        asked = query_of(request, OUTLINE)

        def columns() -> Response:  # in the thread: of 100,000 items it takes a while
            found = self._index.outline(where_of(asked), top=asked.get("top"))
            # One text is parsed sooner than so many digests.
            return JSONResponse({**vars(found), "contents": "".join(found.contents)})

        return await self._shown.ask(columns)

    async def _facets(self, request: Request) -> Response:
        query_of(request, NOTHING)
        return JSONResponse(asdict(await self._shown.ask(self._index.facets)))

    async def _unreadable(self, request: Request) -> Response:
        query_of(request, NOTHING)
        found = await self._shown.ask(self._index.unreadable)
        return JSONResponse({"files": [{"path": _text(path), "reason": _text(reason)} for path, reason in found]})

    async def _wave(self, request: Request) -> Response:
        item = await self._shown.ask(self._index.item, number_of(request))
        if item.kind != "audio":
            raise Problem(f"Item {item.id} is no sound; expected one. Choose another.", code="no_sound")
        wave = self._waves.pop(item.content, None)
        if wave is None:
            async with self._decoding:
                wave = await self._shown.ask(_wave_of, await self._shown.ask(self._index.original, item.id))
        self._waves[item.content] = wave
        if len(self._waves) > MOST_WAVES:
            self._waves.popitem(last=False)
        return JSONResponse(wave, headers=IMMUTABLE)

    async def _set_tags(self, request: Request) -> Response:
        labels = (await read_json(request, LABELS))["labels"]
        await self._shown.ask(self._index.set_tags, number_of(request), labels)
        item = await self._shown.ask(self._index.item, number_of(request))
        return JSONResponse({"tags": list(item.tags)})

    async def _show(self, request: Request) -> Response:
        await read_json(request, NOTHING)
        if self._reveal is None:
            raise Problem("The server runs on no desktop; expected one. Copy the path.", 409, code="no_desktop")
        await self._shown.ask(self._reveal, await self._shown.ask(self._index.original, number_of(request)))
        return JSONResponse({})


def _wave_of(path: Path) -> dict[str, object]:
    """How long a sound is, and how loud each of BARS parts of it: 0 to 100, the loudest 100."""
    seconds = seconds_of(path)
    block = max(1, round(seconds * RATE / BARS))
    powers = [float(np.sqrt(np.mean(part**2))) for part in stream_audio(path, RATE, block)][:BARS]
    loudest = max(powers, default=0.0) or 1.0
    return {"seconds": seconds, "bars": [round(100 * power / loudest) for power in powers]}


def _text(text: str) -> str:
    """As JSON can have it: what is no UTF-8 is replaced."""
    return text.encode("utf-8", "replace").decode()
