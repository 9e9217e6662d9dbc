"""Bodies of requests: JSON, held against the schema that /openapi.json shows, so that nothing in them is ignored."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect, Request

from mlx_mm.errors import InputError, is_number, is_whole, reason, shown
from mlx_mm.processing.plain import check_plain, check_text, quoted
from mlx_mm.server.errors import Problem

Json: TypeAlias = Any  # a value of JSON, of any kind
JsonObject: TypeAlias = dict[str, Any]  # of JSON, which a schema has checked
Schema: TypeAlias = Mapping[str, Any]

LARGE = 1 << 18  # bytes that are parsed in another thread
_TYPES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "string": ("text", lambda value: isinstance(value, str)),
    "integer": ("a whole number", is_whole),
    "number": ("a number", is_number),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "array": ("a list", lambda value: isinstance(value, list)),
    "object": ("an object", lambda value: isinstance(value, dict)),
}
_PARAM = 200  # characters of a field's name in an error


async def read_json(request: Request, schema: Schema) -> JsonObject:
    """The body, in which fields that are null are left out; Problem for one that is not as the schema says."""
    try:
        data = await request.body()
    except ClientDisconnect as error:
        raise Problem("The client has gone; expected it to wait for its answer. Ask again.", 499) from error
    return await asyncio.to_thread(parse, data, schema) if len(data) > LARGE else parse(data, schema)


def parse(data: bytes, schema: Schema) -> JsonObject:
    """See `read_json`."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Problem(
            f"The body is no JSON ({reason(error)}); expected an object in UTF-8. Change it.", code="invalid_json"
        ) from error
    found: JsonObject = check(value, schema)
    for name, item in found.items():  # also where the schema is silent
        try:
            check_plain(item, name, most_characters=len(data))
        except InputError as error:
            raise Problem(str(error), param=name, code="invalid_value") from error
    return found


def check(value: Json, schema: Schema, where: str = "") -> Json:
    """The value without the fields that are null; Problem with the place of what the schema does not allow.

    Of JSON Schema this knows type, enum, minimum, maximum, minItems, maxItems, properties, required,
    additionalProperties false, items and anyOf.
    """
    if "anyOf" in schema:
        return _check_any(value, schema, where)
    kind = schema.get("type")
    if kind is not None and not _TYPES[kind][1](value):
        raise _wrong(value, _expected(schema), where)
    if "enum" in schema and value not in schema["enum"]:
        raise _wrong(value, _expected(schema), where)
    if isinstance(value, str):
        try:
            check_text(value, where or "The body")
        except InputError as error:
            raise Problem(str(error), param=where or None, code="invalid_value") from error
    low, high = schema.get("minimum"), schema.get("maximum")
    if kind in ("integer", "number") and not (low is None or value >= low):
        raise _wrong(value, f"{low} or more", where)
    if kind in ("integer", "number") and not (high is None or value <= high):
        raise _wrong(value, f"{high} or less", where)
    if isinstance(value, list):
        least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
        if not least <= len(value) <= most:
            raise Problem(
                f"{where or 'The body'} has {len(value)} items; expected from {least} to {most}. Change it.",
                param=where or None,
                code="invalid_value",
            )
        return [check(item, schema.get("items", {}), f"{where}[{index}]") for index, item in enumerate(value)]
    return _check_object(value, schema, where) if isinstance(value, dict) and "properties" in schema else value


def only(value: JsonObject, known: Sequence[str], where: str) -> None:
    """Raise Problem for a field of an object that is none of these, and not empty."""
    odd = [name for name, item in value.items() if name not in known and item is not None and item != []]
    if odd:
        name = f"{where}.{odd[0][:_PARAM]}"
        raise Problem(
            f"{name} is no field that this server knows; expected some of {', '.join(known)}. Leave it out.",
            param=name,
            code="unknown_field",
        )


def _check_object(value: JsonObject, schema: Schema, where: str) -> JsonObject:
    known, closed = schema["properties"], schema.get("additionalProperties") is False
    dot = f"{where}." if where else ""
    kept: JsonObject = {}
    for name, item in value.items():
        if item is None:
            continue
        if name not in known and closed:
            raise Problem(
                f"{dot}{name[:_PARAM]} is no field that this server knows; expected some of {', '.join(known)}. Leave "
                "it out.",
                param=f"{dot}{name[:_PARAM]}",
                code="unknown_field",
            )
        kept[name] = check(item, known.get(name, {}), f"{dot}{name}")
    for name in schema.get("required", ()):
        if name not in kept:
            raise Problem(f"{dot}{name} is missing; expected it. Add it.", param=f"{dot}{name}", code="missing_field")
    return kept


def _check_any(value: Json, schema: Schema, where: str) -> Json:
    """By the first alternative that allows it; where one alone has its type, that one says what is wrong."""
    fitting = [one for one in schema["anyOf"] if _TYPES[one["type"]][1](value)]
    problems = []
    for one in fitting:
        try:
            return check(value, one, where)
        except Problem as problem:
            problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    raise _wrong(value, " or ".join(map(_expected, schema["anyOf"])), where)


def _expected(schema: Schema) -> str:
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    return str(schema.get("title") or _TYPES[schema["type"]][0])


def _wrong(value: object, expected: str, where: str) -> Problem:
    return Problem(
        f"{where or 'The body'} is {shown(value)}; expected {expected}. Change it.",
        param=where or None,
        code="invalid_value",
    )


def _object(pairs: list[tuple[str, Json]]) -> JsonObject:
    """Names that come twice would be read differently by others, and half a character has no form in an answer."""
    found: JsonObject = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {quoted(name)} comes twice in an object")
        name.encode()
        found[name] = value
    return found


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")
