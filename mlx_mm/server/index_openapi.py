"""The routes of an index as /openapi.json describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mlx_mm.server.index_schemas import DUPLICATES, KEEP_APART, REFRESH, SEARCH, TAG
from mlx_mm.server.reading import Schema

_TEXT, _WHOLE, _NUMBER, _FLAG = ({"type": name} for name in ("string", "integer", "number", "boolean"))
_TEXTS = {"type": "array", "items": _TEXT}
_KEY: list[dict[str, list[str]]] = [{"key": []}]


def with_index(document: Mapping[str, object]) -> dict[str, object]:
    """The document of a server that has an index, too."""
    paths = cast("dict[str, object]", document["paths"])
    components = cast("dict[str, dict[str, object]]", document["components"])
    schemas = {**components["schemas"], **_requests(), **_answers()}
    return {**document, "paths": {**paths, **_paths()}, "components": {**components, "schemas": schemas}}


def _paths() -> dict[str, object]:
    search = "Pictures, sounds and videos by words and examples, best first."
    item, content = _place("id", _WHOLE), _place("content", _TEXT)
    return {
        "/api/search": {
            "get": _get("searchByAddress", search, "Hits", _query(SEARCH)),
            "post": _post("search", search, "Hits", "SearchRequest"),
        },
        "/api/items/{id}": {"get": _get("item", "One item.", "Item", item)},
        "/api/thumb/{content}.jpg": {"get": _file("thumbnail", "A small JPEG of an item.", "image/jpeg", content)},
        "/api/original/{id}": {"get": _file("original", "The file of an item.", "application/octet-stream", item)},
        "/api/duplicates": {"get": _get("duplicates", "Files that are alike.", "Groups", _query(DUPLICATES))},
        "/api/duplicates/keep": {"post": _post("keepApart", "Two are no duplicates.", "Any", "KeepApartRequest")},
        "/api/tags": {
            "get": _get("tags", "Labels, and how many items have each.", "Tags", []),
            "post": _post("tag", "Give labels to what fits them.", "Tags", "TagRequest"),
        },
        "/api/index": {"get": _get("about", "How much the index has.", "Any", [])},
        "/api/refresh": {
            "post": _post("refresh", "Begin to bring it up to date.", "Refreshing", "RefreshRequest", "202")
        },
        "/api/events": {
            "get": _file("events", "Server-sent events: what becomes of a refresh.", "text/event-stream", [])
        },
    }


def _requests() -> dict[str, Schema]:
    return {"SearchRequest": SEARCH, "KeepApartRequest": KEEP_APART, "TagRequest": TAG, "RefreshRequest": REFRESH}


def _answers() -> dict[str, Schema]:
    links = {"id": _WHOLE, "thumbnail": _or_null("string"), "original": _TEXT, "name": _TEXT, "path": _TEXT}
    size = {"width": _or_null("integer"), "height": _or_null("integer")}
    about = {**links, "kind": _TEXT, "content": _TEXT, **size, "taken_at": _or_null("string"), "tags": _TEXTS}
    hit = {
        **about,
        "copies": _TEXTS,
        "strong": _FLAG,
        **{name: _or_null("number") for name in ("score", "z", "start", "stop")},
    }
    item = {
        **about,
        "paths": _TEXTS,
        "size": _WHOLE,
        "seconds": _or_null("number"),
        "camera": _or_null("string"),
        "place": {"type": ["array", "null"], "items": _NUMBER},
    }
    group = {
        "kind": _TEXT,
        "score": _NUMBER,
        "files": _list(_object({**links, "content": _TEXT, "size": _WHOLE, **size})),
    }
    return {
        "Hits": _object(
            {"hits": _list(_object(hit)), "strong": _WHOLE, "weaker": _WHOLE, "offset": _WHOLE, "more": _FLAG}
        ),
        "Item": _object(item),
        "Groups": _object({"groups": _list(_object(group))}),
        "Tags": _object({"tags": {"type": "object", "additionalProperties": _WHOLE}}),
        "Refreshing": _object({"state": _TEXT}),
    }


def _or_null(kind: str) -> Schema:
    return {"type": [kind, "null"]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _place(name: str, schema: Schema) -> list[dict[str, object]]:
    return [{"name": name, "in": "path", "required": True, "schema": schema}]


def _query(schema: Schema) -> list[dict[str, object]]:
    """Its fields; a list is a field that stands several times, but `near`, which has commas."""
    found = []
    for name, field in schema["properties"].items():
        text = {**field, "items": _TEXT} if "anyOf" in field.get("items", {}) else field
        found.append({"name": name, "in": "query", "schema": text, "explode": name != "near"})
    return found


def _get(operation: str, words: str, answer: str, parameters: list[dict[str, object]]) -> dict[str, object]:
    return _operation(operation, words, {"200": _json("Found", answer)}, parameters=parameters)


def _file(operation: str, words: str, media: str, parameters: list[dict[str, object]]) -> dict[str, object]:
    good = {"description": "Found", "content": {media: {"schema": {"type": "string", "format": "binary"}}}}
    return _operation(operation, words, {"200": good}, parameters=parameters)


def _post(operation: str, words: str, answer: str, request: str, status: str = "200") -> dict[str, object]:
    body = {"required": True, "content": {"application/json": {"schema": _reference(request)}}}
    return _operation(operation, words, {status: _json("Done", answer)}, requestBody=body)


def _operation(operation: str, words: str, good: dict[str, Any], **more: object) -> dict[str, object]:
    responses = {**good, "default": _json("Refused", "Error")}
    return {"operationId": operation, "summary": words, "responses": responses, "security": _KEY, **more}


def _json(words: str, schema: str) -> dict[str, object]:
    return {"description": words, "content": {"application/json": {"schema": _reference(schema)}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
