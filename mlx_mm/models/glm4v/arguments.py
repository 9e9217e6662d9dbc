"""Arguments of a tool call: the text that a model writes, to values of the types that a JSON Schema has."""

import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

MAX_LOOKS = 10_000  # at schemas, for one argument: references can multiply without end
MAX_DEPTH = 100

_SAMPLES: tuple[object, ...] = (None, True, 0.5, "", [], {})  # one of each type
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_SPELLED = re.compile(rf'"(?:[^"\\]|\\.)*(?:"|\Z)|\b(?:{"|".join(_PYTHON)})\b', re.DOTALL)


class Arguments:
    """What the `parameters` of a tool, a JSON Schema, say of its arguments.

    Of the schema count `type` (one or a list), `enum`, `const`, `nullable`, `anyOf`, `oneOf`, `allOf`, and `$ref` to a
    place in it. Other words of JSON Schema do not tell text from numbers.
    """

    def __init__(self, parameters: object) -> None:
        self._root = parameters
        self._looks = 0

    def value(self, name: str, raw: str) -> object:
        """An argument's value: text as it is where the schema says string, else what its JSON says, else text.

        Where text is one of several types, only what is plainly another of them counts as that. Where it is none of
        them, Python's True, False and None count, too.
        """
        self._looks = MAX_LOOKS
        schema = self._argument(self._root, name, ())
        text = self._allows(schema, raw, exact=False)
        parsed = parse(raw)
        if all(self._allows(schema, sample, exact=False) for sample in _SAMPLES):
            return parsed[0] if parsed else raw
        if not parsed and not text:
            parsed = parse(_SPELLED.sub(lambda found: _PYTHON.get(found.group(), found.group()), raw))
        fits = bool(parsed) and self._allows(schema, parsed[0])
        if parsed and fits and not isinstance(parsed[0], str):
            return parsed[0]
        if self._allows(schema, raw) or (text and not fits):
            return raw
        return parsed[0] if parsed else raw

    def _argument(self, schema: object, name: str, seen: tuple[str, ...]) -> object:
        """All that a schema of an object says of one of its keys, as a schema; True for nothing."""
        if not isinstance(schema, Mapping) or not self._look(seen):
            return True
        properties, other = schema.get("properties"), schema.get("additionalProperties")
        own = properties[name] if isinstance(properties, Mapping) and name in properties else other
        found: list[object] = [own] if isinstance(own, Mapping) else []
        found += [self._argument(part, name, (*seen, "")) for part in _listed(schema, "allOf")]
        for key in ("anyOf", "oneOf"):
            options = [self._argument(part, name, (*seen, "")) for part in _listed(schema, key)]
            if options := [option for option in options if option is not True]:
                found.append({"anyOf": options})
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            found.append(self._argument(self._target(reference), name, (*seen, reference)))
        found = [part for part in found if part is not True]
        return {"allOf": found} if found else True

    def _allows(self, schema: object, value: object, seen: tuple[str, ...] = (), *, exact: bool = True) -> bool:
        """Whether a value is one that a schema allows; not `exact`: whether one of its type is."""
        if not isinstance(schema, Mapping):
            return schema is not False
        if not self._look(seen):
            return False  # a reference to itself allows nothing more
        if value is None and schema.get("nullable") is True:
            return True
        named = schema.get("type")
        types = (
            {named} if isinstance(named, str) else {kind for kind in _listed(schema, "type") if isinstance(kind, str)}
        )
        if types and not types & _types(value):
            return False
        constants = [*_listed(schema, "enum"), *([schema["const"]] if "const" in schema else [])]
        if constants and not any(_types(value) & _types(item) and (value == item or not exact) for item in constants):
            return False
        inner = (*seen, "")
        for key in ("anyOf", "oneOf"):
            parts = _listed(schema, key)
            if parts and not any(self._allows(part, value, inner, exact=exact) for part in parts):
                return False
        if not all(self._allows(part, value, inner, exact=exact) for part in _listed(schema, "allOf")):
            return False
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return True
        return reference not in seen and self._allows(self._target(reference), value, (*seen, reference), exact=exact)

    def _look(self, seen: Sequence[str]) -> bool:
        self._looks -= 1
        return self._looks >= 0 and len(seen) < MAX_DEPTH

    def _target(self, reference: str) -> object:
        """The schema at a place such as "#/$defs/Box"; True, which says nothing, for what is not in this one."""
        if not reference.startswith("#"):
            return True
        found = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                return True
        return found


def parse(text: str) -> list[object]:
    """The one value of a JSON text; none where it is no JSON, or holds what JSON in UTF-8 has no form for."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # NaN, infinity, half a surrogate pair
    except (ValueError, RecursionError):
        return []
    return [value]


def _listed(schema: Mapping[str, object], key: str) -> list[object]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _types(value: object) -> set[str]:
    """The types in a schema's words that a value from JSON has."""
    names = {str: {"string"}, bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}}
    names |= {list: {"array"}, dict: {"object"}}
    return {"null"} if value is None else names.get(type(value), set())
