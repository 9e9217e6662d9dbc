"""Chats to prompts: what the golden file says of GLM-4.6V, which messages are refused, what a template may not do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.processing import sandbox
from mlx_mm.processing.chat import ChatTemplate, check_tools, for_template, media_in, texts_in, typed_markers

TESTS = Path(__file__).parents[1]
SOURCE = (TESTS / "glm_template.jinja").read_text("utf-8")
GOLDEN = json.loads((TESTS / "golden" / "glm46v_examples.json").read_text("utf-8"))["chat_rendering"]
CASES = sorted(GOLDEN["cases"])
CROP = {"type": "function", "function": {"name": "crop", "description": "Ünï <b>", "parameters": {"type": "object"}}}


def without_tools_block(text: str) -> str:
    """The golden file holds one word for the instructions and schemas of the tools."""
    start, end = text.find("TOOLS\n"), text.find("END OF TOOLS")
    return text if start < 0 else f"{text[:start]}{{TOOLS_PREAMBLE}}{text[end + len('END OF TOOLS') :]}"


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def call(arguments: Any, **changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "crop", "arguments": arguments}} | changes


def asked(*calls: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": None, "tool_calls": list(calls)}]


# --- rendering --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    assert without_tools_block(ChatTemplate(SOURCE).render(**GOLDEN["messages"][name])) == GOLDEN["cases"][name]


@pytest.mark.parametrize("name", [name for name in CASES if "no_thinking" in name])
@pytest.mark.parametrize("thinking", [None, True])
def test_thinking_ignored_is_not_golden(name: str, thinking: bool | None) -> None:
    case = GOLDEN["messages"][name] | {"enable_thinking": thinking}
    assert ChatTemplate(SOURCE).render(**case) != GOLDEN["cases"][name]


def test_generation_prompt_ignored_is_not_golden() -> None:
    case = GOLDEN["messages"]["no_generation_prompt"] | {"add_generation_prompt": True}
    assert ChatTemplate(SOURCE).render(**case) != GOLDEN["cases"]["no_generation_prompt"]


@pytest.mark.parametrize("switch", ["trim_blocks", "lstrip_blocks"])
def test_blocks_untrimmed_are_not_the_same(switch: str) -> None:
    case = GOLDEN["messages"]["tool_roundtrip"]
    right = ChatTemplate(SOURCE).render(**case)
    schema = json.dumps(case["tools"][0])
    assert f"<|system|>\nTOOLS\n{schema}\nEND OF TOOLS<|user|>" in right

    class Untrimmed(sandbox.Sandbox):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, switch, False)

    values = {"messages": for_template(case["messages"]), "tools": case["tools"], "add_generation_prompt": True}
    for kind, same in ((sandbox.Sandbox, True), (Untrimmed, False)):
        own = kind()
        assert (own.run(own.compiled(SOURCE), values, 9.0) == right) is same


def test_thinking_is_unset_unless_asked() -> None:
    template = ChatTemplate("{{ enable_thinking is defined }}")
    said = user({"type": "text", "text": "x"})
    assert template.render(said) == "False"
    assert template.render(said, enable_thinking=False) == "True"


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("tojson", '{"b": "ä<&\'", "a": 1}'),
        ("tojson(ensure_ascii=True)", '{"b": "\\u00e4<&\'", "a": 1}'),
        ("tojson(sort_keys=True)", '{"a": 1, "b": "ä<&\'"}'),
        ("tojson(separators=(',', ':'))", '{"b":"ä<&\'","a":1}'),
        ("tojson(indent=2)", '{\n  "b": "ä<&\'",\n  "a": 1\n}'),
    ],
)
def test_to_json(filter_: str, expected: str) -> None:
    template = ChatTemplate(f"{{{{ value | {filter_} }}}}")
    assert template.render([{"role": "user", "content": ""}], value={"b": "ä<&'", "a": 1}) == expected


def render(source: str, **variables: Any) -> str:
    return ChatTemplate(source).render([{"role": "user", "content": "Hi"}], **variables)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        (
            "{% for i in 'abc' %}{{ loop.index0 }}{{ loop.length }}{{ loop.last }} {% endfor %}",
            "03False 13False 23True ",
        ),
        ("{% for i in 'ab' %}{{ loop.previtem }}{{ loop.nextitem }}|{% endfor %}", "b|a|"),
        ("{% for k, v in {'a': 1}.items() if v %}{{ k }}{% else %}none{% endfor %}", "a"),
        ("{% for i in missing %}x{% else %}none{% endfor %}", "none"),
        ("{% for i in [[1], 2] recursive %}{{ loop(i) if i is iterable else i }}{% endfor %}", "12"),
        ("{% generation %}a{% set b = 1 %}{% endgeneration %}{{ b }}", "a"),
        ("{% set n = namespace(a=1) %}{% for i in 'ab' %}{% set n.a = n.a + 1 %}{% endfor %}{{ n.a }}", "3"),
        ("{{ messages[::-1][0].content }}{{ messages[0]['role'] }}", "Hiuser"),
        ("{{ 'a' * 3 }}{{ 2 * 3 }}{{ 2 ** 3 }}{{ 1.5 * 2 }}", "aaa683.0"),
    ],
)
def test_what_templates_use(source: str, expected: str) -> None:
    assert render(source) == expected


def test_strftime_now() -> None:
    assert render("{{ strftime_now('%Y') }}") in {str(time.localtime().tm_year), str(time.localtime().tm_year + 1)}


# --- files ------------------------------------------------------------------------------------------------------


def test_no_template(tmp_path: Path) -> None:
    assert ChatTemplate.from_folder(tmp_path) is None


def test_order_of_files(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "x"}]

    def found() -> str:
        template = ChatTemplate.from_folder(tmp_path)
        assert template is not None
        return template.render(said)

    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "old"}))
    assert found() == "old"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "list {{ bos_token }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named, "bos_token": {"content": "B"}}))
    assert found() == "list B"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "string", "bos_token": "B"}))
    assert found() == "string"
    (tmp_path / "chat_template.jinja").write_text("jinja ä {{ bos_token }}", "utf-8")
    assert found() == "jinja ä B"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("chat_template.jinja", b"\xff\xfe\x00", "UTF-8"),
        ("chat_template.jinja", b"{% if %}", "line 1"),
        ("chat_template.jinja", b"{{ x | nonsense }}", "nonsense"),
        ("chat_template.jinja", b"{{ " + b"(" * 5000 + b" }}", "Jinja"),
        ("chat_template.jinja", b"x" * 2**20 + b"yz", "expected at most 1,048,576"),
        ("chat_template.jinja", b"x" * 2**23, "more than 4,194,304 bytes"),
        ("chat_template.jinja", b"{{ 'a' | center(10 ** 9) }}" + b"{% endif %}", "endif"),
        ("tokenizer_config.json", b'{"chat_template": "x", "bos_token": 5}', "has 5 for bos_token"),
        ("tokenizer_config.json", b'{"chat_template": "x", "eos_token": {"content": []}}', "for eos_token"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": ["a"], "template": "x"}]}', "default"),
        ("tokenizer_config.json", b'{"chat_template": "{{ x | nonsense }}"}', "nonsense"),
        ("tokenizer_config.json", b'{"chat_template": 5}', "int"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "rag", "template": "x"}]}', "rag"),
        ("tokenizer_config.json", b'{"chat_template": ["x"]}', "list"),
        ("chat_template.json", b"{", "JSON"),
    ],
)
def test_files_without_sense(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        ChatTemplate.from_folder(tmp_path)
    assert name in str(caught.value)


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}", "utf-8-sig")
    template = ChatTemplate.from_folder(tmp_path)
    assert template is not None
    assert template.render([{"role": "user", "content": "x"}]) == "x"


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    path = tmp_path / "chat_template.jinja"
    path.mkdir()
    with pytest.raises(ConfigError, match=r"chat_template\.jinja cannot be read \(.*directory.*\); expected UTF-8"):
        ChatTemplate.from_folder(tmp_path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"chat_template\.jinja cannot be read \(it is a pipe"):
        ChatTemplate.from_folder(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"chat_template\.jinja cannot be read \(it is a device"):
        ChatTemplate.from_folder(tmp_path)


# --- what a template may not do ---------------------------------------------------------------------------------


def test_raise_exception_is_the_users_business() -> None:
    with pytest.raises(InputError, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must\n alternate') }}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ [''] | map(attribute='__class__') | list }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{{ ('{0.__class__}' | attr('format'))(1) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['__builtins__'] }}",
        "{{ lipsum.__globals__.os }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__ }}",
        "{{ namespace.mro() }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ self.__init__ }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
    ],
)
def test_sandbox(source: str) -> None:
    with pytest.raises(ConfigError, match=r"unsafe|not safely|may not hold|undefined|has no attribute"):
        render(source)


@pytest.mark.parametrize("tag", ["include '{}'", "import '{}' as x", "extends '{}'", "from '{}' import x"])
def test_no_files(tag: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(ConfigError, match="loader"):
        render(f"{{% {tag.format(tmp_path / 'secret')} %}}")


@pytest.mark.parametrize(
    "source",
    [
        "{% set r = range(9999) %}{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10 ** 9) | list }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ 10 ** 12 * [1] }}",
        "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    ],
)
def test_no_endless_work(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(ConfigError, match="fails on these messages"):
        render(source)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("source", ["{{ x.y.z }}", "{{ 1 / 0 }}", "{{ messages + 1 }}", "{{ int('a') }}"])
def test_a_template_that_fails(source: str) -> None:
    with pytest.raises(ConfigError, match="fails on these messages") as caught:
        render(source)
    assert "\n" not in str(caught.value)


# --- messages ---------------------------------------------------------------------------------------------------


def test_media_in_reading_order() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    messages = [
        *user({"type": "text", "text": "A"}, {"type": "image", "image": picture}, {"type": "image", "path": Path("b")}),
        {"role": "assistant", "content": "", "tool_calls": [call({})]},
        {"role": "tool", "content": [{"type": "image_url", "image_url": {"url": "http://c", "detail": "auto"}}]},
        *user(
            {"type": "video", "video": "d", "fps": 2, "num_frames": None},
            {"type": "video_url", "video_url": {"url": "e", "fps": 1}},
            {"type": "image_url", "image_url": "f"},
            {"type": "image", "url": "g"},
        ),
    ]
    found = media_in(messages)
    assert found[0].source is picture
    assert [media.kind[0] for media in found] == ["i", "i", "i", "v", "v", "i", "i"]
    assert [media.source for media in found[1:]] == [Path("b"), "http://c", "d", "e", "f", "g"]
    assert [dict(media.options) for media in found] == [{}, {}, {}, {"fps": 2}, {"fps": 1}, {}, {}]
    assert found[2].where == "messages[2].content[0]"
    shown = for_template(messages)
    assert shown[0]["content"] == [{"type": "text", "text": "A"}, {"type": "image"}, {"type": "image"}]
    assert [part["type"] for part in shown[3]["content"]] == ["video", "video", "image", "image"]
    assert for_template(shown) == shown


def test_assistants() -> None:
    said = {"role": "assistant", "tool_calls": [call('{"box": [1, 2]}', id="a"), call({"x": 1}), call(""), call(None)]}
    (shown,) = for_template([said | {"reasoning": "hm", "refusal": None}])
    assert shown["content"] == ""
    assert shown["reasoning_content"] == "hm"
    assert [c["function"]["arguments"] for c in shown["tool_calls"]] == [{"box": [1, 2]}, {"x": 1}, {}, {}]
    assert shown["tool_calls"][0]["id"] == "a"
    (shown,) = for_template([{"role": "assistant", "content": "x", "reasoning_content": "a", "reasoning": "b"}])
    assert shown == {"role": "assistant", "content": "x", "reasoning_content": "a"}
    shown = for_template([{"role": "tool", "content": None, "tool_call_id": "a"}])[0]
    assert shown == {"role": "tool", "content": "", "tool_call_id": "a"}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("Hi", "messages is str"),
        ([], "without items"),
        ({"role": "user"}, "messages is dict"),
        (["Hi"], r"messages\[0\] is str"),
        ([{"content": "x"}], "role None; expected one of system, user, assistant, tool"),
        ([{"role": "developer", "content": "x"}], "'developer'"),
        ([{"role": ["user"], "content": "x"}], "role"),
        ([{"role": "user"}], r"messages\[0\].content is missing"),
        ([{"role": "user", "content": 5}], "content is int"),
        ([{"role": "user", "content": "x", "tool_calls": [call({})]}], "'tool_calls'"),
        ([{"role": "user", "content": "x", "name": 5}], r"messages\[0\].name is int"),
        ([{"role": "assistant", "content": "x", "reasoning_content": 5}], "reasoning_content is int"),
        (user("Hi"), r"messages\[0\].content\[0\] is str"),
        (user({"type": "text", "text": "x"}, {"type": "text"}), r"content\[1\].text is missing"),
        (user({"type": "audio", "audio": "x"}), "type 'audio'; expected one of text, image, image_url, video"),
        (user({"text": "x"}), "type None"),
        (user({"type": ["image"]}), "type"),
        (user({"type": "image", "image": 5}), r"content\[0\].image is int"),
        (user({"type": "image", "url": Path("x")}), r"content\[0\].url is "),
        (user({"type": "image", "image": "x", "url": "y"}), "twice, in image and url"),
        (user({"type": "image_url", "image_url": ["x"]}), "image_url is list"),
        (user({"type": "image_url", "image_url": {"url": 5}}), "image_url.url is int"),
        ([{"role": "assistant", "tool_calls": {}}], "tool_calls is dict"),
        (asked("x"), r"messages\[0\].tool_calls\[0\] is str"),
        (asked(call({}, type="code")), "'code'"),
        (asked({"name": "crop", "arguments": {}}), "function is missing"),
        (asked({"function": {"arguments": {}}}), "function.name is missing"),
        (asked(call("{")), "no JSON"),
        (asked(call("[1]")), "arguments is list"),
        (asked(call("[" * 99999)), "no JSON"),
        (asked(call({"x": object()})), "cannot be JSON"),
    ],
)
@pytest.mark.parametrize("function", [media_in, for_template, ChatTemplate("").render])
def test_messages_refused(function: Callable[[Any], Any], messages: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        function(messages)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image"},
        {"type": "video", "video": None},
        {"type": "image", "url": ""},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {}},
    ],
)
def test_media_without_a_source(part: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"messages\[1\].content\[1\] .* without a source"):
        media_in([*user({"type": "text", "text": "x"}), *user({"type": "text", "text": "x"}, part)])


def test_nothing_is_changed() -> None:
    messages = asked(call('{"a": 1}')) + user({"type": "image", "image": "x", "fps": 1})
    before = json.dumps(messages)
    for_template(messages)
    media_in(messages)
    assert json.dumps(messages) == before


# --- markers and tools ------------------------------------------------------------------------------------------


def test_typed_markers() -> None:
    markers = ["<|image|>", "<|video|>", "<|user|>"]
    assert typed_markers("a <|user|> b <|image|>", markers) == ["<|image|>", "<|user|>"]
    assert typed_markers("a <|imag", markers) == []


def test_texts_in() -> None:
    messages = [
        {"role": "system", "content": "S"},
        *user({"type": "text", "text": "<|im"}, {"type": "text", "text": "age|>"}, {"type": "image"}),
        {"role": "assistant", "content": "", "reasoning_content": "R", "tool_calls": [call({"k": ["v", {"w": "x"}]})]},
    ]
    texts = texts_in(messages)
    assert texts[:2] == ["S", "<|image|>"]
    assert {"R", "crop", "k", "v", "w", "x"} <= set(texts)


def test_tools() -> None:
    assert check_tools([CROP]) == [CROP]
    assert check_tools(None) is None
    assert check_tools([]) is None
    assert '"Ünï <b>"' in ChatTemplate(SOURCE).render([{"role": "user", "content": "x"}], tools=[CROP])


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        (CROP, "tools is dict"),
        ([CROP, "x"], r"tools\[1\] is str"),
        ([CROP["function"]], '"type": "function"'),
        ([{"type": "function"}], r"tools\[0\].function is missing"),
        ([{"type": "function", "function": {}}], "function.name is missing"),
        ([{"type": "function", "function": {"name": "x", "description": 5}}], "description is int"),
        ([{"type": "function", "function": {"name": "x", "parameters": []}}], "parameters is list"),
        ([{"type": "function", "function": {"name": "x", "extra": object()}}], "cannot be JSON"),
    ],
)
def test_tools_refused(tools: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ChatTemplate(SOURCE).render([{"role": "user", "content": "x"}], tools=tools)
