"""The description of the API for programs, from which clients are generated; requests are held against its schemas."""

from __future__ import annotations

from functools import cache
from typing import Any

from mlx_mm.server.chat_requests import CHAT
from mlx_mm.server.dialects import COHERE, EMBEDDINGS, VOYAGE
from mlx_mm.server.labels import CLASSIFY
from mlx_mm.server.responses_requests import RESPONSES

_TEXT, _WHOLE, _NUMBER, _FLAG = ({"type": name} for name in ("string", "integer", "number", "boolean"))

_ALWAYS = (401, 403)
_REFUSED = {
    400: "A field is unknown, missing or has a value that cannot be used; param names it.",
    401: "The key is missing or another.",
    403: "The Host or the Origin is a foreign one.",
    404: "There is no such model.",
    408: "The body took too long.",
    413: "The body is too large.",
    415: "The body is no application/json.",
    429: "Too many requests wait.",
    500: "The server has failed.",
    503: "The engine has ended.",
}


@cache
def document() -> dict[str, object]:
    """OpenAPI 3.1."""
    schemas = {
        "ChatRequest": CHAT,
        "ResponsesRequest": RESPONSES,
        "EmbeddingsRequest": EMBEDDINGS,
        "VoyageRequest": VOYAGE,
        "CohereRequest": COHERE,
        "ClassifyRequest": CLASSIFY,
        **_answers(),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mlx_mm",
            "version": "1",
            "description": "Embeddings of texts, pictures and sounds, and answers about pictures, from models on this "
            "machine. A field that is null is one that is left out.",
        },
        "servers": [{"url": "http://127.0.0.1:8765"}],
        "paths": {
            "/health": {"get": _get("health", "Health", "Whether the engine runs.", {503: "Error"})},
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Numbers for Prometheus.",
                    "responses": {
                        "200": {"description": "Text", "content": {"text/plain": {"schema": _TEXT}}},
                        **{str(status): {"$ref": f"#/components/responses/{status}"} for status in _ALWAYS},
                    },
                }
            },
            "/openapi.json": {"get": _get("openapi", "Any", "This document.")},
            "/v1/models": {"get": _get("listModels", "Models", "The models, and what each can do.")},
            "/v1/models/{id}": {
                "get": {
                    **_get("retrieveModel", "Model", "One model.", {404: "Error"}),
                    "parameters": [{"name": "id", "in": "path", "required": True, "schema": _TEXT}],
                }
            },
            "/v1/chat/completions": {
                "post": _post("createChatCompletion", "ChatRequest", "ChatCompletion", "An answer.", streams=True)
            },
            "/v1/responses": {
                "post": _post(
                    "createResponse", "ResponsesRequest", "Any", "An answer, in the newer shape.", streams=True
                )
            },
            "/v1/embeddings": {"post": _post("createEmbeddings", "EmbeddingsRequest", "Embeddings", "Vectors.")},
            "/v1/multimodalembeddings": {
                "post": _post("createVoyageEmbeddings", "VoyageRequest", "Embeddings", "Vectors, in Voyage's shape.")
            },
            "/v2/embed": {"post": _post("createCohereEmbeddings", "CohereRequest", "CohereEmbeddings", "In Cohere's.")},
            "/v1/classify": {"post": _post("classify", "ClassifyRequest", "Classes", "Scores of labels.")},
        },
        "components": {
            "schemas": schemas,
            "responses": _refusals(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _refusals() -> dict[str, dict[str, Any]]:
    """By status. All have the body of `Error`."""
    found: dict[str, dict[str, Any]] = {str(status): _answer("Error", words) for status, words in _REFUSED.items()}
    found["429"]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": _WHOLE}}
    return found


def _answers() -> dict[str, dict[str, Any]]:
    embedding = {
        "index": _WHOLE,
        "object": _TEXT,
        "embedding": {"anyOf": [{"type": "array", "items": _NUMBER}, _TEXT]},
    }
    model = {
        "id": _TEXT,
        "object": _TEXT,
        "created": _WHOLE,
        "owned_by": _TEXT,
        "capabilities": _object(
            {
                **dict.fromkeys(("chat", "embeddings", "classify", "tools"), _FLAG),
                "input": {"type": "array", "items": _TEXT},
            }
        ),
        **{name: {"type": ["integer", "null"]} for name in ("dimensions", "context_length")},
        **{name: {"type": ["string", "null"]} for name in ("license", "fingerprint")},
        "loaded": _FLAG,
    }
    error = {
        "message": _TEXT,
        "type": _TEXT,
        **{name: {"type": ["string", "null"]} for name in ("param", "code")},
    }
    message = {
        "role": _TEXT,
        "content": {"type": ["string", "null"]},
        "reasoning_content": _TEXT,
        "tool_calls": {"type": "array", "items": {"type": "object"}},
    }
    choice = {"index": _WHOLE, "message": _object(message, ("role", "content")), "finish_reason": _TEXT}
    usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _WHOLE)
    scores = {"type": "array", "items": _object({"label": _TEXT, "score": _NUMBER})}
    return {
        "Any": {"type": "object"},
        "Error": _object({"error": _object(error)}),
        "Health": _object({"status": _TEXT, "running": _WHOLE, "waiting": _WHOLE, "models_loaded": _WHOLE}),
        "Model": _object(model),
        "Models": _object({"object": _TEXT, "data": {"type": "array", "items": _reference("Model")}}),
        "ChatCompletion": _object(
            {
                **dict.fromkeys(("id", "object", "model"), _TEXT),
                "created": _WHOLE,
                "choices": {"type": "array", "items": _object(choice)},
                "usage": _object(usage),
            }
        ),
        "Embeddings": _object(
            {
                "object": _TEXT,
                "model": _TEXT,
                "data": {"type": "array", "items": _object(embedding)},
                "usage": _object({"prompt_tokens": _WHOLE, "total_tokens": _WHOLE}),
            }
        ),
        "CohereEmbeddings": _object(
            {
                "id": _TEXT,
                "embeddings": {
                    "type": "object",
                    "properties": {
                        "float": {"type": "array", "items": {"type": "array", "items": _NUMBER}},
                        "base64": {"type": "array", "items": _TEXT},
                    },
                },
                "texts": {"type": "array", "items": _TEXT},
            }
        ),
        "Classes": _object(
            {
                "object": _TEXT,
                "model": _TEXT,
                "data": {"type": "array", "items": _object({"index": _WHOLE, "scores": scores})},
            }
        ),
    }


def _object(properties: dict[str, Any], required: tuple[str, ...] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties if required is None else required)}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(name: str, words: str) -> dict[str, object]:
    return {"description": words, "content": {"application/json": {"schema": _reference(name)}}}


def _get(operation: str, answer: str, words: str, more: dict[int, str] | None = None) -> dict[str, object]:
    others = {str(status): _answer(name, "Refused") for status, name in (more or {}).items()}
    refused = {str(status): {"$ref": f"#/components/responses/{status}"} for status in _ALWAYS}
    responses = {"200": _answer(answer, "Found"), **refused, **others}
    return {"operationId": operation, "summary": words, "responses": responses}


def _post(operation: str, request: str, answer: str, words: str, *, streams: bool = False) -> dict[str, object]:
    good: dict[str, Any] = _answer(answer, "Done")
    if streams:
        good["content"]["text/event-stream"] = {"schema": {"description": "Events, each with JSON as its data."}}
    return {
        "operationId": operation,
        "summary": words,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(request)}}},
        "responses": {"200": good} | {status: {"$ref": f"#/components/responses/{status}"} for status in _refusals()},
    }
