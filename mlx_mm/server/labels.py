"""/v1/classify: scores of labels for pictures and sounds."""

from __future__ import annotations

import contextlib
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_mm.server.chat_routes import reader_of
from mlx_mm.server.dialects import EMBEDDINGS, MOST_ITEMS, read_openai
from mlx_mm.server.engine import Engine
from mlx_mm.server.errors import Problem
from mlx_mm.server.reading import Schema, read_json
from mlx_mm.server.waiting import Line

CLASSIFY: Final[Schema] = {
    "type": "object",
    "description": "Scores of labels for pictures or sounds. Without labels: those of a classifier.",
    "properties": {
        "model": {"type": "string"},
        "input": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_ITEMS,
            "items": EMBEDDINGS["properties"]["input"]["anyOf"][2]["items"],
        },
        "modality": {"type": "string", "enum": ["image", "audio"]},
        "labels": {"type": "array", "minItems": 1, "maxItems": MOST_ITEMS, "items": {"type": "string"}},
        "template": {"type": "string"},
    },
    "required": ["model", "input"],
    "additionalProperties": False,
}


async def classify(request: Request) -> Response:
    """POST /v1/classify."""
    body = await read_json(request, CLASSIFY)
    labels, template = body.pop("labels", None), body.pop("template", None)
    wanted = await read_openai(body, reader_of(request))
    for place, (kind, _) in enumerate(wanted.items):
        if kind == "text":
            raise Problem(
                f"input[{place}] is a text; expected a picture or a sound. Send an object such as "
                '{"image": "data:image/..."}, or modality.',
                param=f"input[{place}]",
                code="invalid_value",
            )
    if len({kind for kind, _ in wanted.items}) > 1:
        raise Problem("input holds pictures and sounds; expected one kind. Send two requests.", param="input")
    engine: Engine = request.app.state.engine
    ticket = engine.classify(wanted.model, [item for _, item in wanted.items], labels, template=template)
    with contextlib.closing(Line(request)) as line:
        done = await line.result(ticket)
    data = [
        {"index": index, "scores": [{"label": label, "score": score} for label, score in scores]}
        for index, scores in enumerate(done.result)
    ]
    return JSONResponse({"object": "list", "model": wanted.model, "data": data})
