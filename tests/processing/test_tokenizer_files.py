"""Tokenizer files that are damaged or hostile, and texts that are: an error that names the file or the text."""

from __future__ import annotations

import base64
import json
import os
import resource
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import LONG
from tiny import golden

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.processing.text import Tokenizer, check_vocabulary, text_batch

FILE: dict[str, Any] = golden("siglip2_tokenizer_cases")["tokenizer_json"]
NAMES: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>"}


def write(folder: Path, names: dict[str, Any] | None = None, **changes: Any) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(FILE | changes))
    (folder / "tokenizer_config.json").write_text(json.dumps(NAMES | (names or {})))
    return Tokenizer.from_folder(folder)


def use(tokenizer: Tokenizer, text: str = "a cat") -> list[int]:
    row: list[int] = tokenizer.encode([text], 12, do_lower_case=True)[0].tolist()
    assert tokenizer.encode_as_filed([text], None, do_lower_case=False)
    return row


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def charsmap(longest: int) -> dict[str, Any]:
    data = struct.pack("<I", 1024) + bytes(1024) + b"a\0" + b"b" * longest + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


@LONG[0]
@LONG[1]
@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
def test_a_pattern_that_does_not_end(tmp_path: Path, part: str) -> None:
    """tokenizers raises a PanicException, which is no Exception."""
    pattern = {"pattern": {"Regex": "(a+)+$"}}
    steps = {"type": "Split", **pattern, "behavior": "Isolated", "invert": False}
    steps = steps if part == "pre_tokenizer" else replace("(a+)+$", "x", "Regex")
    tokenizer = write(tmp_path, **{part: steps})
    for call in (
        lambda: tokenizer.encode_as_filed(["a cat", "a" * 40 + "b"], 9),
        lambda: tokenizer.encode_prompt("a" * 40 + "b"),
    ):
        with pytest.raises(ConfigError, match=r"tokenizer\.json fails on a text \(.*retry-limit.*\); expected .* Take"):
            call()
    assert use(tokenizer, "a cat")[-1] == 0


@pytest.mark.parametrize(
    "steps",
    [
        {"type": "Prepend", "prepend": "a" * 10_000_000},
        {"type": "Prepend", "prepend": "a" * 10_001},
        replace("a", "a" * 5000),
        replace("", "a" * 5000),
        sequence(*[replace("a", "aa")] * 40),
        sequence(*[replace("x*", "y", "Regex")] * 40),
        sequence({"type": "Prepend", "prepend": "a" * 100}, sequence(replace("a", "b" * 101))),
        sequence(*[{"type": "NFKD"}] * 4),
        sequence(*[{"type": "Lowercase"}] * 1001),
        charsmap(5000),
    ],
    ids=lambda steps: steps["type"],
)
def test_steps_that_make_gigabytes(tmp_path: Path, steps: dict[str, Any]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=r"tokenizer\.json changes texts in .*; expected at most 1,000 steps.* Take"):
        use(write(tmp_path, normalizer=steps))
    if steps["type"] == "Replace":
        with pytest.raises(ConfigError, match=r"tokenizer\.json changes texts in"):
            write(tmp_path, decoder=steps).decode([5], skip_special_tokens=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KB


@pytest.mark.parametrize(
    "steps",
    [
        sequence({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        sequence({"type": "NFKC"}, replace(r" {2,}", " ", "Regex"), replace(r"\s+", " ", "Regex")),
        sequence(charsmap(18), {"type": "Lowercase"}, {"type": "StripAccents"}),
        {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
    ],
    ids=["llama", "t5", "xlm-r", "bert"],
)
def test_steps_that_checkpoints_have(tmp_path: Path, steps: dict[str, Any]) -> None:
    assert use(write(tmp_path, normalizer=steps))


def test_texts_that_grow(tmp_path: Path) -> None:
    tokenizer = write(tmp_path, normalizer=replace("a", "a" * 100))
    assert len(tokenizer.encode_as_filed(["b" * 40_000], None)[0]) > 100
    with pytest.raises(InputError, match=r"Text number 1 has 4,000,000 characters; expected at most 2,000,000"):
        tokenizer.encode_as_filed(["b", "a" * 40_000], 9)


@pytest.mark.parametrize("text", ["x", "hello dog ", "é🙂", "\n", "\0", " "])
def test_ten_megabytes(tmp_path: Path, text: str) -> None:
    tokenizer, start = write(tmp_path), time.monotonic()
    text *= 10_000_000 // len(text)
    with pytest.raises(InputError, match=r"Text number 0 has .* characters; expected at most 1,000,000, .* Cut it"):
        use(tokenizer, text)
    with pytest.raises(InputError, match=r"A prompt has .* characters; expected at most 2,000,000, .* Cut it"):
        tokenizer.encode_prompt(text)
    assert time.monotonic() - start < 10
    assert use(tokenizer, text[:5000])[-1] == 1


def test_odd_characters(tmp_path: Path) -> None:
    tokenizer = write(tmp_path)
    assert use(tokenizer, "a\0b") != use(tokenizer, "ab")
    for half in ("a \ud83d", "\udc80 cat"):
        with pytest.raises(InputError, match=r"Text number 1 holds half of a surrogate pair.*Decode its source again"):
            tokenizer.encode_as_filed(["a", half], 9)
        with pytest.raises(InputError, match=r"A prompt holds half of a surrogate pair"):
            tokenizer.encode_prompt(half)


@pytest.mark.parametrize("ids", [[-1], [2**40], [1.5], ["a"], [None], [True]])
def test_ids_that_are_none(tmp_path: Path, ids: list[Any]) -> None:
    with pytest.raises(InputError, match="Among the ids is one that no token can have; expected whole numbers"):
        write(tmp_path).decode(ids, skip_special_tokens=False)
    with pytest.raises(InputError, match="skip_special_tokens is 'false'; expected True or False"):
        write(tmp_path).decode([1], skip_special_tokens="false")  # type: ignore[arg-type]


ODD = [None, 5, -1, "x", [], {}, 1e30, [[1]], {"type": "x"}, {"a": 1}, 2**32, "\ud800"]


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("model", [*ODD, {"type": "BPE"}, {"type": "BPE", "vocab": {"a": -1}, "merges": ["a b"]}]),
        (
            "added_tokens",
            [5, "x", [5], [{"id": 3}], [{"id": -1, "content": "<eos>"}], [{"id": 1, "content": ["<eos>"]}]],
        ),
        ("normalizer", [5, "x", {"type": "Replace"}, sequence(5), {"type": "Sequence"}]),  # type: ignore[arg-type]
        (
            "pre_tokenizer",
            [5, {"type": "Split"}, {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}],
        ),
        (
            "post_processor",
            [5, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<no>", "type_id": 0}}]}],
        ),
        ("decoder", [5, {"type": "Replace"}]),
        ("version", [5, "2.0"]),
    ],
)
def test_parts_of_other_kinds(tmp_path: Path, part: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(
            ConfigError, match=r"tokenizer\.json cannot be read .*; expected a tokenizer file\. Download"
        ):
            use(write(tmp_path, **{part: value}))


@pytest.mark.parametrize("value", ["false", 0, 1, [], "longest_first"])
def test_switches(tmp_path: Path, value: Any) -> None:
    tokenizer = write(tmp_path)
    with pytest.raises(InputError, match=r"truncation is .*; expected True or False"):
        tokenizer.encode(["a"], 5, do_lower_case=True, truncation=value)
    with pytest.raises(InputError, match=r"truncation is .*; expected True or False"):
        text_batch(tokenizer, ["a"], 5, padding=True, truncation=value, do_lower_case=None)
    with pytest.raises(InputError, match=r"do_lower_case is .*; expected True or False"):
        tokenizer.encode(["a"], 5, do_lower_case=value)


def test_nesting_without_end(tmp_path: Path) -> None:
    for depth in (500, 100_000):
        write(tmp_path)
        deep = '{"type": "Sequence", "normalizers": [' * depth + "]}" * depth
        (tmp_path / "tokenizer.json").write_text(json.dumps(FILE | {"normalizer": "@"}).replace('"@"', deep))
        for lower in (True, False):
            with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
                Tokenizer.from_folder(tmp_path).encode_as_filed(["a"], 9, do_lower_case=lower)


def test_ids_beyond_any_table(tmp_path: Path) -> None:
    model = FILE["model"] | {"vocab": FILE["model"]["vocab"] | {"<far>": 2**32 - 1}}
    added = [*FILE["added_tokens"], FILE["added_tokens"][0] | {"content": "<far>", "id": 2**32 - 1}]
    tokenizer = write(tmp_path, model=model, added_tokens=added)
    assert use(tokenizer)
    for call in (lambda: use(tokenizer, "a <far>"), lambda: tokenizer.encode_prompt("a <far>")):
        with pytest.raises(ConfigError, match=r"tokenizer\.json gave the id 4294967295; expected ids for the rows"):
            call()


def test_a_padding_beyond_any_table(tmp_path: Path) -> None:
    """A lookup beyond a table ends the process."""
    model = FILE["model"] | {"vocab": FILE["model"]["vocab"] | {"<far>": 10**6}}
    added = [*FILE["added_tokens"], FILE["added_tokens"][0] | {"content": "<far>", "id": 10**6}]
    tokenizer = write(tmp_path, model=model, added_tokens=added, names={"pad_token": "<far>"})
    assert tokenizer.pad_id == 10**6
    with pytest.raises(ConfigError, match=r"has the id 1000000; expected ids for the 500 rows"):
        check_vocabulary(tokenizer, 500, np.array([[1]], np.int32))


@pytest.mark.parametrize("key", ["pad_token", "eos_token", "bos_token", "tokenizer_class", "do_lower_case"])
@pytest.mark.parametrize("value", [5, 1e30, [], ["<pad>"], {"content": 5}, {"content": "\ud800"}, True, "\ud800"])
def test_names_of_other_kinds(tmp_path: Path, key: str, value: Any) -> None:
    if (key, value) in (("do_lower_case", True), ("tokenizer_class", "\ud800")):
        return
    with pytest.raises(
        ConfigError, match=rf"tokenizer_config\.json (in .* {key}|cannot be read).*; expected .*\. (Use the|Download)"
    ) as caught:
        use(write(tmp_path, names={key: value}))
    assert str(caught.value).isprintable()


def test_a_file_of_any_size(tmp_path: Path) -> None:
    tokenizer = write(tmp_path)
    os.truncate(tmp_path / "tokenizer.json", 10**12)  # a hole: it takes no room on the disk
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read \(it has more than 50,331,648 bytes\)"):
        use(tokenizer)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    os.mkfifo(tmp_path / "tokenizer_config.json")
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json cannot be read \(it is a pipe"):
        Tokenizer.from_folder(tmp_path)
    for name in ("tokenizer.json", "spiece.model"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        tokenizer = write(folder)
        (folder / "tokenizer.json").rename(folder / name)
        tokenizer = Tokenizer.from_folder(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)  # between the two looks
        with pytest.raises(ConfigError, match=rf"{name} cannot be read \(it is a pipe, no regular file\)"):
            use(tokenizer)
