"""The application: the door, the routes, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from mlx_mm.errors import MlxMmError
from mlx_mm.server import embedding_routes, state_routes
from mlx_mm.server.chat_routes import complete_chat
from mlx_mm.server.engine import Engine
from mlx_mm.server.errors import answer_bug, answer_error, answer_http
from mlx_mm.server.labels import classify
from mlx_mm.server.media import Media
from mlx_mm.server.responses_routes import create_response
from mlx_mm.server.security import Access, Guard

API = (
    Route("/health", state_routes.health),
    Route("/metrics", state_routes.metrics),
    Route("/openapi.json", state_routes.openapi),
    Route("/v1/models", state_routes.list_models),
    Route("/v1/models/{name:path}", state_routes.one_model),
    Route("/v1/chat/completions", complete_chat, methods=["POST"]),
    Route("/v1/responses", create_response, methods=["POST"]),
    Route("/v1/embeddings", embedding_routes.embed_openai, methods=["POST"]),
    Route("/v1/multimodalembeddings", embedding_routes.embed_voyage, methods=["POST"]),
    Route("/v2/embed", embedding_routes.embed_cohere, methods=["POST"]),
    Route("/v1/classify", classify, methods=["POST"]),
)


def make_app(engine: Engine, access: Access, media: Media | None = None, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """What uvicorn runs.

    engine: started, and closed by the caller. access: who may ask. media: which pictures, sounds and videos may be
    named, None for data URIs alone. routes: others beside those of the API, such as of an index; they raise `Problem`
    and other errors of ours, and what shows files belongs below /api/, which takes the key or the token of `access`.
    """
    app = Starlette(
        routes=[*API, *routes],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={
            MlxMmError: answer_error,
            HTTPException: answer_http,
            Exception: answer_bug,
        },
    )
    app.state.engine, app.state.media = engine, media or Media()
    return app
