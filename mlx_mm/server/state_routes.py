"""What a server says of itself: /health, /metrics, /v1/models and /openapi.json."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mlx_mm.server.engine import Engine, Served
from mlx_mm.server.errors import Problem
from mlx_mm.server.index_openapi import with_index
from mlx_mm.server.openapi import document
from mlx_mm.server.security import PRIVATE


async def health(request: Request) -> Response:
    """GET /health: 503 once the engine has ended."""
    engine: Engine = request.app.state.engine
    stats = engine.stats()
    alive = bool(stats["alive"])
    return JSONResponse(
        {
            "status": "ok" if alive else "dead",
            "running": int(stats["running"]),
            "waiting": int(stats["waiting"]),
            "models_loaded": int(stats.get("models_loaded", 0)),
        },
        200 if alive else 503,
    )


async def metrics(request: Request) -> Response:
    """GET /metrics: the numbers of `Engine.stats` in Prometheus' text."""
    engine: Engine = request.app.state.engine
    lines = []
    for name, value in engine.stats().items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.append(f"# TYPE mlx_mm_{name} {kind}\nmlx_mm_{name} {float(value):.17g}\n")
    return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")


async def list_models(request: Request) -> Response:
    """GET /v1/models."""
    found = await asyncio.to_thread(request.app.state.engine.models)
    return JSONResponse({"object": "list", "data": [_about(served) for served in found]})


async def one_model(request: Request) -> Response:
    """GET /v1/models/NAME."""
    name = request.path_params["name"]
    found = await asyncio.to_thread(request.app.state.engine.models)
    for served in found:
        if served.name == name:
            return JSONResponse(_about(served))
    names = ", ".join(served.name for served in found)
    raise Problem(
        f"There is no model {name!r}; expected one of {names}. Change it.", 404, param="model", code="model_not_found"
    )


async def openapi(request: Request) -> Response:
    """GET /openapi.json: of an index, too, where one is served."""
    served = any(getattr(route, "path", "").startswith(PRIVATE) for route in request.app.routes)
    return JSONResponse(with_index(document()) if served else document())


def _about(served: Served) -> dict[str, object]:
    answers = served.kind == "generator"
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "mlx_mm",
        "capabilities": {
            "chat": answers,
            "embeddings": served.kind == "encoder",
            "classify": served.kind == "classifier" or (served.kind == "encoder" and len(served.modalities) > 1),
            "tools": answers,
            "input": list(served.modalities),
        },
        "dimensions": served.dimensions,
        "context_length": served.context_length,
        "license": served.licence,
        "fingerprint": served.fingerprint,
        "loaded": served.loaded,
    }
