"""/v1/classify: scores of labels for pictures and sounds."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_mm.errors import MlxMmError
from mlx_mm.models.contracts import Modality
from mlx_mm.server.chat_routes import reader_of
from mlx_mm.server.dialects import EMBEDDINGS, MOST_ITEMS, read_openai
from mlx_mm.server.engine import Engine, Served
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
    for item in wanted.items:
        if item.kind == "text":
            raise Problem(
                f"{item.place} is a text; expected a picture or a sound. Send an object such as "
                '{"image": "data:image/..."}, or modality.',
                param=item.place,
                code="invalid_value",
            )
    kinds = {item.kind for item in wanted.items}
    if len(kinds) > 1:
        raise Problem("input holds pictures and sounds; expected one kind. Send two requests.", param="input")
    engine: Engine = request.app.state.engine
    _check_model(await asyncio.to_thread(engine.models), wanted.model, kinds.pop(), labels)
    ticket = engine.classify(wanted.model, [item.source for item in wanted.items], labels, template=template)
    with contextlib.closing(Line(request)) as line:
        try:
            done = await line.result(ticket)
        except MlxMmError as error:
            if isinstance(error.place, int) and error.place < len(wanted.items):
                error.place = wanted.items[error.place].place
            raise
    data = [
        {"index": index, "scores": [{"label": label, "score": score} for label, score in scores]}
        for index, scores in enumerate(done.result)
    ]
    return JSONResponse({"object": "list", "model": wanted.model, "data": data})


def _check_model(found: list[Served], model: str, kind: Modality, labels: object) -> None:
    """Raise Problem for sounds where the model sees, pictures where it hears, and labels that are missing."""
    fitting = [served.name for served in found if served.kind != "generator" and kind in served.modalities]
    for served in found:
        if served.name == model and model not in fitting:
            raise Problem(
                f"{model} gives no scores of input of the kind {kind}; expected a model that does. Models of this "
                f"server with {kind}: {', '.join(fitting) or 'none'}.",
                param="model",
                code="unsupported_modality",
            )
        if served.name == model and labels is None and served.kind == "encoder":
            raise Problem(
                "labels is missing, and this model has none of its own; expected some. Add it.",
                param="labels",
                code="missing_field",
            )
