"""/v1/embeddings and its kin: vectors of texts, pictures and sounds."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import uuid
from typing import cast

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_mm.errors import MlxMmError, ModalityError
from mlx_mm.models.contracts import Modality
from mlx_mm.processing.vectors import Vectors
from mlx_mm.server.chat_routes import reader_of
from mlx_mm.server.dialects import (
    COHERE,
    EMBEDDINGS,
    VOYAGE,
    Wanted,
    read_cohere,
    read_openai,
    read_voyage,
)
from mlx_mm.server.engine import EmbedOptions, Engine, Served
from mlx_mm.server.errors import Problem
from mlx_mm.server.reading import read_json
from mlx_mm.server.waiting import Line


class Vectored:
    """The vectors of a request, in its order. tokens: of its texts. cut: places of those that were too long."""

    def __init__(self, rows: list[Vectors], tokens: int, cut: list[int]) -> None:
        self.rows, self.tokens, self.cut = rows, tokens, cut


async def embed_openai(request: Request) -> Response:
    """POST /v1/embeddings."""
    wanted = await read_openai(await read_json(request, EMBEDDINGS), reader_of(request))
    return JSONResponse(_list(wanted, await _vectors(request, wanted)))


async def embed_voyage(request: Request) -> Response:
    """POST /v1/multimodalembeddings."""
    wanted = await read_voyage(await read_json(request, VOYAGE), reader_of(request))
    return JSONResponse(_list(wanted, await _vectors(request, wanted)))


async def embed_cohere(request: Request) -> Response:
    """POST /v2/embed."""
    wanted = await read_cohere(await read_json(request, COHERE), reader_of(request))
    found = await _vectors(request, wanted)
    return JSONResponse(
        {
            "id": uuid.uuid4().hex,
            "embeddings": {name: [_encoded(row, name) for row in found.rows] for name in wanted.encodings},
            "texts": [item.source for item in wanted.items if item.kind == "text"],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": found.tokens}},
        }
    )


async def _vectors(request: Request, wanted: Wanted) -> Vectored:
    engine: Engine = request.app.state.engine
    rows: dict[int, Vectors] = {}
    tokens, cut = 0, list[int]()
    kinds = dict.fromkeys(item.kind for item in wanted.items)
    with contextlib.closing(Line(request)) as line:
        for kind in kinds:
            places = [number for number, item in enumerate(wanted.items) if item.kind == kind]
            more = wanted.text_options if kind == "text" else EmbedOptions()
            items = [wanted.items[number].source for number in places]
            options = cast("EmbedOptions", {**wanted.options, **more})
            try:
                done = await line.result(engine.embed(wanted.model, kind, items, **options))
            except ModalityError as error:
                raise _others(await asyncio.to_thread(engine.models), kind, error) from error
            except MlxMmError as error:
                if isinstance(error.place, int):
                    error.place = wanted.items[places[error.place]].place
                raise
            rows |= dict(zip(places, done.result, strict=True))
            tokens += done.prompt_tokens
            cut += [places[number] for number in done.cut]
    return Vectored([rows[place] for place in sorted(rows)], tokens, sorted(cut))


def _others(found: list[Served], kind: Modality, error: ModalityError) -> Problem:
    """The error, and the models that would do."""
    fitting = [served.name for served in found if served.kind == "encoder" and kind in served.modalities]
    return Problem(
        f"{error} Models of this server with {kind}: {', '.join(fitting) or 'none'}.",
        param="model",
        code="unsupported_modality",
    )


def _list(wanted: Wanted, found: Vectored) -> dict[str, object]:
    encoding = wanted.encodings[0]
    return {
        "object": "list",
        "model": wanted.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(row, encoding)}
            for index, row in enumerate(found.rows)
        ],
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        "mlx_mm": {"normalized": wanted.options.get("normalize", True), "cut": found.cut},
    }


def _encoded(row: Vectors, encoding: str) -> str | list[float]:
    """base64 is that of little-endian float32."""
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    return cast("list[float]", np.asarray(row, np.float64).tolist())
