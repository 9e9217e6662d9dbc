"""The application: the door, the routes, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from mlx_mm.errors import MlxMmError
from mlx_mm.server.engine import Engine
from mlx_mm.server.errors import answer_bug, answer_error, answer_http
from mlx_mm.server.media import Media
from mlx_mm.server.security import Access, Guard


def make_app(engine: Engine, access: Access, media: Media | None = None, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """What uvicorn runs.

    engine: started, and closed by the caller. access: who may ask. media: which pictures, sounds and videos may be
    named, None for data URIs alone. routes: others beside those of the API, such as of an index; they raise `Problem`
    and other errors of ours, and what shows files belongs below /api/, which takes the key or the token of `access`.
    """
    app = Starlette(
        routes=[*routes],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={
            MlxMmError: answer_error,
            HTTPException: answer_http,
            Exception: answer_bug,
        },
    )
    app.state.engine, app.state.media = engine, media or Media()
    return app
