"""What the routes of an index take, as JSON Schema: of a body, and the same of the query of an address."""

from __future__ import annotations

from mlx_mm.server.reading import Schema

_TEXT: Schema = {"type": "string"}
_KIND: Schema = {"type": "string", "enum": ["image", "audio", "video"]}
_TEXTS: Schema = {"type": "array", "items": _TEXT, "maxItems": 100}
_EXAMPLES: Schema = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "maxItems": 32}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


NOTHING = _object()
# near: degrees north, degrees east, metres. folder: its path, which is only compared.
_FILTERS: dict[str, Schema] = {
    "since": _TEXT,
    "until": _TEXT,
    "near": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
    "camera": _TEXT,
    "kind": _KIND,
    "folder": _TEXT,
    "tag": _TEXT,
    "name": _TEXT,
}
OUTLINE = _object((), **_FILTERS, top={"type": "integer", "minimum": 1})
# like, unlike: numbers of items, mm://item/ID, or data URIs.
SEARCH = _object(
    (),
    q=_TEXTS,
    without=_TEXTS,
    like=_EXAMPLES,
    unlike=_EXAMPLES,
    **_FILTERS,
    offset={"type": "integer", "minimum": 0, "maximum": 10_000_000},
    top={"type": "integer", "minimum": 1, "maximum": 10_000},
    min_score={"type": "number", "minimum": -1, "maximum": 1},
    all={"type": "boolean"},
    sort={"type": "string", "enum": ["score", "date", "name"]},
)
DUPLICATES = _object(
    kind={"type": "string", "enum": ["identical", "same", "similar"]},
    threshold={"type": "number", "minimum": 0, "maximum": 1},
)
KEEP_APART = _object(("first", "second"), first=_TEXT, second=_TEXT)
TAG = _object(
    ("labels",),
    labels={"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 10_000},
    least={"type": "number", "minimum": 0, "maximum": 1},
    kind=_KIND,
)
LABELS = _object(("labels",), labels={"type": "array", "items": _TEXT, "maxItems": 1000})
# folders: that are added; of the machine that serves.
REFRESH = _object(folders=_TEXTS, retry={"type": "boolean"}, accept_missing={"type": "boolean"})
