"""What a model's text says, whole and in pieces."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest

from mlx_mm.errors import InputError
from mlx_mm.generation.response import ResponsePart, ToolCall
from mlx_mm.models.glm4v.response import StreamParser, parse_boxes

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "crop",
            "parameters": {
                "type": "object",
                "properties": {
                    "box": {"type": "array"},
                    "note": {"type": "string"},
                    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "either": {"type": ["string", "integer"]},
                    "count": {"type": ["integer", "null"]},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]


def written(name: str, **arguments: str) -> str:
    inner = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in arguments.items())
    return f"<tool_call>{name}\n{inner}</tool_call>"


@dataclass(frozen=True)
class Answer:
    """What all parts of an answer add up to."""

    text: str
    reasoning: str | None
    tool_calls: list[ToolCall]
    boxes: list[list[float]]


def parse_answer(*chunks: str, thinking_open: bool, tools: list[dict[str, Any]] | None = None) -> Answer:
    parser = StreamParser(thinking_open=thinking_open, tools=tools)
    parts = [part for chunk in chunks for part in parser.feed(chunk)] + parser.finish()
    assert all(sum(map(bool, (part.text, part.reasoning, part.tool_call))) == 1 for part in parts)
    text, reasoning = ("".join(getattr(part, kind) for part in parts) for kind in ("text", "reasoning"))
    return Answer(text, reasoning or None, [part.tool_call for part in parts if part.tool_call], parser.boxes())


def calls(answer: Answer) -> list[tuple[str, Any]]:
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in answer.tool_calls]


# raw, thinking_open, text, reasoning, calls
CASES: dict[str, tuple[str, bool, str, str | None, list[tuple[str, Any]]]] = {
    "plain": ("Hello, you.", False, "Hello, you.", None, []),
    "nothing": ("", False, "", None, []),
    "think": ("\n<think>a\nb</think>\n\nAnswer\n", False, "Answer", "a\nb", []),
    "empty think": ("<think></think>\nAnswer", False, "Answer", None, []),
    "open think": ("a b</think>Answer", True, "Answer", "a b", []),
    "open think, said again": ("<think>a</think>Answer", True, "Answer", "a", []),
    "think without end": ("<think>a b", False, "", "a b", []),
    "open think without end": ("a b", True, "", "a b", []),
    "two thinks": ("<think>a</think>\n<think>b</think>c", False, "c", "a\nb", []),
    "end without think": ("</think>\nAnswer", False, "Answer", None, []),
    "text about thinking": ("Use <think> and </think>.", False, "Use <think> and </think>.", None, []),
    "4.1V": ("<think>a</think><answer>7</answer>", False, "7", "a", []),
    "text about answers": ("Write <answer>7</answer>.", False, "Write <answer>7</answer>.", None, []),
    "answer in reasoning": ("<think>an <answer> is</think>7", False, "7", "an <answer> is", []),
    "box": ("It is <|begin_of_box|>42<|end_of_box|>.<|user|>", False, "It is 42.", None, []),
    "box in reasoning": ("<think><|begin_of_box|>4<|end_of_box|></think>4", False, "4", "4", []),
    "ends": ("a<|endoftext|><|observation|>", False, "a", None, []),
    "half a marker": ("a <|begin_of", False, "a <|begin_of", None, []),
    "inner space": ("a \n\n b", False, "a \n\n b", None, []),
    "call": (
        f"<think>t</think>Let me.\n{written('crop', box='[1, 2]', note='12')}<|observation|>",
        False,
        "Let me.",
        "t",
        [("crop", {"box": [1, 2], "note": "12"})],
    ),
    "two calls": (
        f"{written('now')}\n{written('crop', note='a')}",
        False,
        "",
        None,
        [("now", {}), ("crop", {"note": "a"})],
    ),
    "no line break": ("<tool_call>now</tool_call>", False, "", None, [("now", {})]),
    "compact": (
        "<tool_call>crop<arg_key>note</arg_key><arg_value>x</arg_value></tool_call>",
        False,
        "",
        None,
        [("crop", {"note": "x"})],
    ),
    "newlines": (written("crop", note="\na\n\n b\n"), False, "", None, [("crop", {"note": "\na\n\n b\n"})]),
    "markers in a value": (
        written("crop", note="</think><|user|><tool_call>"),
        False,
        "",
        None,
        [("crop", {"note": "</think><|user|><tool_call>"})],
    ),
    "call in reasoning": (f"<think>a {written('now')}</think>b", False, "b", "a", [("now", {})]),
    "call in open reasoning": (f"a {written('now')}", True, "", "a", [("now", {})]),
    "call with text after": (f"a {written('now')} b", False, "a  b", None, [("now", {})]),
    "only a word": ("The <tool_call> tag opens a call", False, "The <tool_call> tag opens a call", None, []),
    "unfinished": ("a <tool_call>crop\n<arg_key>no", False, "a <tool_call>crop\n<arg_key>no", None, []),
    "unfinished, then one": (
        f"<tool_call>crop\n<arg_key>n</arg_key>\n{written('now')}",
        False,
        "<tool_call>crop\n<arg_key>n</arg_key>",
        None,
        [("now", {})],
    ),
    "unfinished, stopped": ("<tool_call>now<|observation|>", False, "<tool_call>now", None, []),
    "unfinished in reasoning": ("<think>a <tool_call>", False, "", "a <tool_call>", []),
    "no name": ("<tool_call></tool_call>x", False, "<tool_call></tool_call>x", None, []),
    "unlisted tool": (written("other", a="[1]", b="b"), False, "", None, [("other", {"a": [1], "b": "b"})]),
}


@pytest.mark.parametrize("name", CASES)
def test_parse_answer(name: str) -> None:
    raw, thinking_open, text, reasoning, expected = CASES[name]
    answer = parse_answer(raw, thinking_open=thinking_open, tools=TOOLS)
    assert (answer.text, answer.reasoning, calls(answer)) == (text, reasoning, expected)
    assert [c["id"] for c in answer.tool_calls] == [f"call_{i}" for i in range(len(expected))]
    assert all(c["type"] == "function" and isinstance(c["function"]["arguments"], str) for c in answer.tool_calls)


def cuttings(raw: str) -> list[list[str]]:
    """Every way to cut a text in two, single characters, and some random ways."""
    rng = random.Random(raw)
    result = [[raw[:cut], raw[cut:]] for cut in range(len(raw) + 1)] + [list(raw)]
    for _ in range(20):
        cuts = sorted(rng.sample(range(len(raw) + 1), min(len(raw), rng.randint(1, 8))))
        result.append([raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)])
    return result


def check_cuttings(raw: str, thinking_open: bool) -> None:
    whole = parse_answer(raw, thinking_open=thinking_open, tools=TOOLS)
    for chunks in cuttings(raw):
        assert parse_answer(*chunks, thinking_open=thinking_open, tools=TOOLS) == whole, chunks


@pytest.mark.parametrize("name", CASES)
def test_pieces_do_not_matter(name: str) -> None:
    check_cuttings(CASES[name][0], CASES[name][1])


PARTS = ["<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>"]
PARTS += [
    "<arg_value>",
    "</arg_value>",
    "<|begin_of_box|>",
    "<|end_of_box|>",
    "<|user|>",
    "now",
    "a",
    " ",
    "\n",
    "<",
    "<|",
]
PARTS += [written("now"), written("crop", note="x"), "[[1,2,3,4]]"]


@pytest.mark.parametrize("seed", range(60))
def test_pieces_of_nonsense_do_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    raw = "".join(rng.choices(PARTS, k=rng.randint(1, 12)))
    check_cuttings(raw, rng.random() < 0.5)


def test_pieces_come_early() -> None:
    parser = StreamParser(thinking_open=False)
    assert parser.feed("Hello <|beg") == [ResponsePart("Hello")]
    assert parser.feed("in the") == [ResponsePart(" <|begin the")]
    assert parser.feed(" <tool_call> is") == []  # still the name of a tool
    assert parser.feed(" a tag") == [ResponsePart(" <tool_call>"), ResponsePart(" is a tag")]
    assert parser.feed(" <tool_call>now</tool_call>")[0].tool_call is not None
    assert parser.finish() == []


def test_open_reasoning() -> None:
    """What a budget of reasoning needs to know before the first token."""
    parser = StreamParser(thinking_open=True)
    assert parser.reasoning_open
    parser.feed("a</think>b")
    assert not parser.reasoning_open


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("note", "12", "12"),
        ("note", "null", "null"),
        ("maybe", "null", None),
        ("maybe", "12", "12"),
        ("maybe", '"a"', '"a"'),
        ("either", "12", 12),
        ("either", "1.5", "1.5"),
        ("either", "true", "true"),
        ("count", "12", 12),
        ("count", "twelve", "twelve"),
        ("box", " [1]\n", [1]),
        ("free", "true", True),
        ("free", '{"a": 1.5}', {"a": 1.5}),
        ("free", "NaN", "NaN"),
        ("free", "[1e999]", "[1e999]"),
        ("free", '"\\ud800"', '"\\ud800"'),
        ("free", "[" * 9999, "[" * 9999),
        ("free", "ä", "ä"),
    ],
)
def test_values(key: str, raw: str, value: Any) -> None:
    answer = parse_answer(written("crop", **{key: raw}), thinking_open=False, tools=TOOLS)
    assert calls(answer) == [("crop", {key: value})]


def test_json_is_not_escaped() -> None:
    answer = parse_answer(written("crop", note="ä"), thinking_open=False)
    assert answer.tool_calls[0]["function"]["arguments"] == '{"note": "ä"}'


# --- boxes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("<|begin_of_box|>[[1, 2, 30, 1000]]<|end_of_box|>", [[1, 2, 30, 1000]]),
        ("<|begin_of_box|>[1,2,3,4]<|end_of_box|> [5,6,7,8]", [[1, 2, 3, 4]]),
        ("<|begin_of_box|>[1,2,3,4], [5,6,7,8]", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ('<|begin_of_box|>[{"bbox_2d": [1,2,3,4], "label": "cat"}]<|end_of_box|>', [[1, 2, 3, 4]]),
        ("at [[1, 2.5, 3, 4],\n [5, 6, 7, 8]] and [ [0,0,9,9] ]", [[1, 2.5, 3, 4], [5, 6, 7, 8], [0, 0, 9, 9]]),
        ("numbers [1,2,3,4], [[1,2,3]], [[1,2,3,1001]], [[-1,2,3,4]]", []),
        ("[[1,2,3,4]] <|begin_of_box|>[5,6,7,8]<|end_of_box|> [[9,9,9,9]]", [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]]),
        ("", []),
        ("[" * 50000, []),
    ],
)
def test_parse_boxes(text: str, boxes: list[list[float]]) -> None:
    assert parse_boxes(text) == boxes


def test_boxes_of_an_answer() -> None:
    raw = "<think>[[9,9,9,9]]</think>The cat: <|begin_of_box|>[1,2,3,4]<|end_of_box|>"
    answer = parse_answer(raw, thinking_open=False)
    assert answer.boxes == [[1, 2, 3, 4]]
    assert answer.text == "The cat: [1,2,3,4]"


# --- types of arguments -----------------------------------------------------------------------------------------

DEFINED: dict[str, Any] = {
    "$defs": {
        "Text": {"type": "string"},
        "Count": {"type": "integer"},
        "Far": {"$ref": "#/$defs/Text"},
        "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}},
        "Loop": {"$ref": "#/$defs/Pool"},
        "Pool": {"$ref": "#/$defs/Loop"},
        "Many": {"anyOf": [{"$ref": "#/$defs/Many"}, {"$ref": "#/$defs/Many"}, {"type": "string"}]},
        "a/b~c d": {"type": "string"},
        **{f"D{i}": {"anyOf": [{"$ref": f"#/$defs/D{i + 1}"}] * 3} for i in range(60)},
        "D60": {"type": "string"},
    },
    "definitions": {"Old": {"type": "string"}},
}
TEXT, NUMBER, TRUTH, NONE = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "null"}


def parsed(schema: Any, raw: str, **root: Any) -> Any:
    parameters = {"type": "object", "properties": {"x": schema}, **DEFINED, **root}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    ((_, arguments),) = calls(parse_answer(written("f", x=raw), thinking_open=False, tools=tools))
    return arguments["x"]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/Text"},
        {"$ref": "#/$defs/Far", "description": "x"},
        {"$ref": "#/definitions/Old"},
        {"$ref": "#/$defs/a~1b~0c%20d"},
        {"$ref": "#/properties/x/oneOf/0", "oneOf": [TEXT]},
        {"$ref": "#/$defs/Many"},
        {"allOf": [{"$ref": "#/$defs/Text"}]},
        {"allOf": [{"description": "x"}, {"type": ["string", "integer"]}, {"type": ["string", "null"]}]},
        {"anyOf": [{"$ref": "#/$defs/Text"}, NONE]},
        {"oneOf": [{"allOf": [TEXT]}, {"const": 5}]},
        {"const": "1"},
        {"enum": ["1", "2"]},
        {"enum": ["1", 2]},
        {"enum": ["a", "b"]},
        {"type": "string", "enum": ["a"]},
        {"type": ["string", "null"], "nullable": True},
        {"type": "string", "nullable": True},
        {"type": ["null", "string"]},
        {"type": ["string", "integer"], "enum": ["1", 2]},
    ],
)
def test_text_stays_text(schema: Any) -> None:
    """In each of these "1" is a text, although it looks like a number."""
    assert parsed(schema, "1") == "1"
    assert parsed(schema, "True") == "True"


@pytest.mark.parametrize(
    ("schema", "raw", "value"),
    [
        ({"$ref": "#/$defs/Count"}, "1", 1),
        ({"allOf": [{"$ref": "#/$defs/Count"}, {"minimum": 0}]}, "1", 1),
        ({"anyOf": [{"$ref": "#/$defs/Count"}, TEXT]}, "1", 1),
        ({"anyOf": [{"$ref": "#/$defs/Count"}, TEXT]}, "one", "one"),
        ({"const": 1}, "1", 1),
        ({"const": True}, "True", True),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", 2]}, "2", 2),
        ({"enum": ["a", None]}, "null", None),
        ({"enum": ["a", "b"]}, "a", "a"),
        ({"enum": ["a", "b"]}, '"a"', "a"),
        ({"type": "string", "nullable": True}, "null", None),
        (TRUTH, "true", True),
        (TRUTH, "True", True),
        (TRUTH, "False", False),
        ({"anyOf": [TRUTH, NONE]}, "None", None),
        ({"type": "boolean", "nullable": True}, "None", None),
        ({"type": "array", "items": TRUTH}, "[True, False, null]", [True, False, None]),
        (
            {"type": "object"},
            '{"a": None, "b": "None True", "c": "\\"False"}',
            {"a": None, "b": "None True", "c": '"False'},
        ),
        ({"type": "object", "properties": {"code": TEXT}}, '{"code": "1", "n": 1}', {"code": "1", "n": 1}),
        ({"$ref": "#/$defs/Node"}, '{"next": {"next": {}}}', {"next": {"next": {}}}),
        ({"type": "number"}, "1.5", 1.5),
        ({"type": "array"}, "[1, 2", "[1, 2"),
        (NUMBER, "12 apples", "12 apples"),
        ({}, "True", "True"),
        ({}, '"1"', "1"),
        (True, "1", 1),
        (False, "1", 1),
        ({"type": "any"}, "[1]", [1]),
        ({"$ref": "https://example.org/x.json"}, "1", 1),
        ({"$ref": "#/nowhere"}, "1", 1),
        ({"$ref": 5, "anyOf": 5, "enum": 5, "type": {}, "allOf": [5]}, "1", 1),
        ({"$ref": "#/$defs/Loop"}, "1", 1),
        ({"$ref": "#/$defs/D0"}, "a", "a"),
        ({"$ref": "#"}, '{"x": 1}', {"x": 1}),
    ],
)
def test_values_by_schema(schema: Any, raw: str, value: Any) -> None:
    found = parsed(schema, raw)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "root",
    [
        {"properties": {}, "allOf": [{"properties": {"x": TEXT}}]},
        {"properties": {}, "$ref": "#/$defs/Args", "$defs": {"Args": {"properties": {"x": TEXT}}}},
        {"properties": {}, "oneOf": [{"properties": {"x": TEXT}}, {"properties": {"y": NUMBER}}]},
        {"properties": {}, "additionalProperties": TEXT},
        {"properties": {}, "anyOf": [{"properties": {"x": {"const": "1"}}}, {"properties": {"x": TEXT}}]},
    ],
)
def test_where_arguments_are_described(root: dict[str, Any]) -> None:
    assert parsed({}, "1", **root) == "1"


JSON_CALLS = {
    "one line": '{"name": "crop", "arguments": {"note": "1", "box": [1]}}',
    "several lines": '\n{\n  "name": "crop",\n  "arguments": {"note": "1", "box": [1]}\n}\n',
    "text": '{"name": "crop", "arguments": "{\\"note\\": \\"1\\", \\"box\\": [1]}"}',
    "other order": '{"arguments": {"note": "1", "box": [1]}, "id": 5, "name": "crop"}',
    "parameters": '{"name": "crop", "parameters": {"note": "1", "box": [1]}}',
    "function": '{"type": "function", "function": {"name": "crop", "arguments": {"note": "1", "box": [1]}}}',
    "name before": 'crop\n{"note": "1", "box": [1]}\n',
    "name beside": 'crop{"note": "1", "box": [1]}',
}


@pytest.mark.parametrize("name", JSON_CALLS)
def test_a_call_in_json(name: str) -> None:
    raw = f"a <tool_call>{JSON_CALLS[name]}</tool_call> b"
    answer = parse_answer(raw, thinking_open=False, tools=TOOLS)
    assert calls(answer) == [("crop", {"note": "1", "box": [1]})]
    assert answer.text == "a  b"
    check_cuttings(raw, False)


AWKWARD = {"a": '}</tool_call>{"', "b": "\\"}


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ('{"name": "now"}', [("now", {})]),
        ('{"name": "now", "arguments": null}', [("now", {})]),
        (
            '{"name": "now", "arguments": {"a": "}</tool_call>{\\"", "b": "\\\\"}}',
            [("now", {"a": '}</tool_call>{"', "b": "\\"})],
        ),
        ('{"name": "now", "arguments": {"a": NaN}}', []),
        ('{"name": "now", "arguments": {"a": "\\ud800"}}', []),
        ('{"name": "now", "arguments": [1]}', []),
        ('{"name": "now", "arguments": "x"}', []),
        ('{"name": 5, "arguments": {}}', []),
        ('{"arguments": {}}', []),
        ('{"name": "now", }', []),
        ('{"name": "now"', []),
        ('{"name": "now"} x', []),
        ("{", []),
        ("{}", []),
        ("[1]", []),
        ('[{"name": "now"}]', []),
        ('"now"', []),
        ("{" * 5000, []),
        ('{"a":' * 5000 + "1" + "}" * 5000, []),
    ],
)
def test_json_that_is_no_call_is_text(inner: str, expected: list[Any]) -> None:
    raw = f"<tool_call>{inner}</tool_call>{written('now')}!"
    answer = parse_answer(raw, thinking_open=False, tools=TOOLS)
    assert calls(answer) == [*expected, ("now", {})]
    assert answer.text == ("!" if expected else f"<tool_call>{inner}</tool_call>!")
    if len(inner) < 200:
        check_cuttings(raw, False)


@pytest.mark.parametrize("tools", [[5], [{}], [{"function": {"name": "f"}}], {"a": 1}, "x"])
def test_tools_of_another_shape(tools: Any) -> None:
    with pytest.raises(InputError, match="tools"):
        StreamParser(thinking_open=False, tools=tools)


def test_schemas_of_any_size_take_no_time() -> None:
    chain = {f"C{i}": {"$ref": f"#/$defs/C{i + 1}"} for i in range(5000)}
    wide = {"anyOf": [{"$ref": "#/$defs/W"}] * 2000}
    for schema, defs in (({"$ref": "#/$defs/C0"}, chain), ({"$ref": "#/$defs/W"}, {"W": wide})):
        assert parsed(schema, "1", **{"$defs": defs}) == 1
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"anyOf": [deep]}
    with pytest.raises(InputError, match=r"tools\[0\] cannot be JSON \(it is nested more than 100 times"):
        parsed(deep, "1")
