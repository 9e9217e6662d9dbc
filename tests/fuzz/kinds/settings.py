"""config.json, tokenizers, and the settings of processors."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from fuzz.kinds.spoiling import ALL, no_file, trying
from fuzz.mutation import as_json, few, odd_text, odd_value, spoil_bytes, spoil_json
from fuzz.outcome import Trial
from fuzz.place import Place, replace


def config(random: Random, place: Place) -> Trial:
    """config.json with other values, types and keys."""
    folder = place.checkpoint(random.choice((*ALL, "siglip2-4bit", "glm46v-4bit")))
    path = folder / "config.json"
    if random.random() < 0.05:
        no_file(random, path)
        return trying(random, folder)
    value = json.loads(path.read_bytes())
    for _ in range(few(random)):
        if random.random() < 0.5:
            value = spoil_json(random, value) if isinstance(value, dict) else value
        elif isinstance(value, dict):
            sections = [value, *(part for key, part in value.items() if isinstance(part, dict))]
            section = random.choice(sections)
            sizes = [key for key, size in section.items() if isinstance(size, int | float)] or ["hidden_size"]
            odd = (0, 1, -1, 2, 3, 5, 2**20, 2**31 - 1, 2**31, 2**40, 10**30, 1.5, -1e-6, True, "7", None, [4], 1e400)
            section[random.choice(sizes)] = random.choice(odd)
    replace(path, as_json(random, value))
    return trying(random, folder)


def quantization(random: Random, place: Place) -> Trial:
    """What config.json says of quantised layers."""
    folder = place.checkpoint(random.choice(("siglip2-4bit", "glm46v-4bit", "siglip2")))
    path = folder / "config.json"
    value = json.loads(path.read_bytes())
    block = value.get("quantization") or {"group_size": 32, "bits": 4, "mode": "affine"}
    roll = random.random()
    if roll < 0.4:
        key, odd = random.choice(
            (
                ("bits", (0, 1, 2, 3, 5, 8, 16, -4, 4.0, "4", True, None, 2**31)),
                ("group_size", (0, 1, 16, 64, 128, -32, 32.0, "32", 2**31, None)),
                ("mode", ("mxfp4", "nvfp4", "", None, 5, "affine ", ["affine"], odd_text(random))),
            )
        )
        block = {**block, key: random.choice(odd)}
    elif roll < 0.6:
        paths = ("vision_model.encoder.layers.0.mlp.fc1", "text_model.head", "", "*", "logit_scale", odd_text(random))
        block = {
            **block,
            random.choice(paths): random.choice((False, True, {"bits": 8}, {}, None, [], odd_value(random))),
        }
    else:
        block = spoil_json(random, block)
    value["quantization"] = block
    if random.random() < 0.5:
        value.pop("quantization_config", None)
    replace(path, as_json(random, value))
    return trying(random, folder)


def tokenizer(random: Random, place: Place) -> Trial:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json or spiece.model."""
    texts = ("siglip2", "metaclip_2", "clap", "jina_clip", "siglip2-text", "glm46v", "spiece")
    folder = place.checkpoint(random.choice(texts))
    names = [
        name
        for name in ("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "spiece.model")
        if (folder / name).exists()
    ]
    path = folder / random.choice(names)
    roll = random.random()
    if roll < 0.04:
        no_file(random, path)
    elif path.suffix == ".model":
        replace(path, spoil_bytes(random, path.read_bytes()))
    elif roll < 0.12:
        value = (
            odd_value(random)
            if roll < 0.07
            else {"eos_token": odd_value(random), "pad_token": {"content": odd_value(random)}}
        )
        replace(folder / "special_tokens_map.json", as_json(random, value))
        replace(folder / "added_tokens.json", as_json(random, value))
    else:
        value = json.loads(path.read_bytes())
        value = (
            _hostile_tokenizer(random, value)
            if path.name == "tokenizer.json" and roll < 0.4
            else spoil_json(random, value)
        )
        replace(path, as_json(random, value))
    return trying(random, folder)


def _hostile_tokenizer(random: Random, value: dict[str, Any]) -> dict[str, Any]:
    """Steps that take time or memory out of proportion, or ids that no table has."""
    pattern = random.choice(("(a+)+$", "(.*)*x", "(a|aa)+$", "(", "\\p{L", "a{1,60000}", "(?=a)*", ".", ""))
    steps: dict[str, tuple[Any, ...]] = {
        "normalizer": (
            {"type": "Prepend", "prepend": "x" * random.choice((1, 10_000, 3_000_000))},
            {"type": "Replace", "pattern": {"Regex": pattern}, "content": "y" * random.choice((0, 5, 100_000))},
            {"type": "Replace", "pattern": {"String": " "}, "content": "z" * 1_000_000},
            {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "c"}, "content": "c" * 50}] * 6,
            },
            {"type": "Precompiled", "precompiled_charsmap": random.choice(("", "AAAA", "////", "QUJD" * 99))},
            {"type": "Nonsense"},
        ),
        "pre_tokenizer": (
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {
                "type": "Metaspace",
                "replacement": random.choice(("▁", "", "ab")),
                "prepend_scheme": "always",
                "split": True,
            },
            {"type": "Sequence", "pretokenizers": []},
        ),
        "post_processor": (
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "nowhere", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            },
            {"type": "BertProcessing", "sep": ["x", 2**31], "cls": ["y", 2**32 - 1]},
            {
                "type": "RobertaProcessing",
                "sep": ["</s>", 10**6],
                "cls": ["<s>", 10**6],
                "trim_offsets": True,
                "add_prefix_space": False,
            },
        ),
        "truncation": (
            {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9},
            {"max_length": 2**63},
        ),
        "padding": (
            {
                "strategy": {"Fixed": random.choice((0, 7, 300_000_000))},
                "direction": "Right",
                "pad_to_multiple_of": 0,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            },
        ),
        "model": (
            {"type": "BPE", "vocab": {"a": 0}, "merges": []},
            {"type": "WordLevel", "vocab": {"a": 2**31}, "unk_token": "a"},
            {"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]]},
            {
                "type": "WordPiece",
                "unk_token": "x",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 0,
                "vocab": {},
            },
            {},
        ),
        "added_tokens": (
            [
                {
                    "id": i,
                    "content": random.choice(("", "a", " ", "\ud800")),
                    "special": True,
                    "normalized": False,
                    "single_word": False,
                    "lstrip": True,
                    "rstrip": True,
                }
                for i in (0, 0, 2**32 - 1)
            ],
        ),
    }
    key = random.choice(sorted(steps))
    return {**value, key: random.choice(steps[key])}


PROCESSOR_FILES = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)


def processor_files(random: Random, place: Place) -> Trial:
    """The settings of pictures, sounds, videos and sampling."""
    folder = place.checkpoint(random.choice((*ALL, "glm46v")))
    path = folder / random.choice(
        [name for name in PROCESSOR_FILES if (folder / name).exists()] or [PROCESSOR_FILES[0]]
    )
    roll = random.random()
    if roll < 0.04:
        no_file(random, path)
        return trying(random, folder)
    if roll < 0.08:  # what travels with the weights, and the card, whose licence is read
        names = (
            "README.md",
            "LICENSE",
            "merges.txt",
            "extra.json",
            "extra.jinja",
            "extra.model",
            "LICENSE-x.txt",
            ".json",
        )
        no_file(random, folder / random.choice(names))
        return trying(random, folder, load=False)
    value = json.loads(path.read_bytes()) if path.exists() else {}
    if roll < 0.16:
        path, value = folder / "processor_config.json", {"image_processor": value, "feature_extractor": value}
    if roll < 0.5 and value:
        numbers = (
            0,
            -1,
            1,
            2**31,
            2**40,
            10**30,
            1e-30,
            1e38,
            -0.5,
            float("nan"),
            "224",
            True,
            None,
            [0, 0],
            {"height": 0, "width": 1},
        )
        sizes = (
            {"height": 20000, "width": 20000},
            {"shortest_edge": 0},
            {"longest_edge": 10**9, "shortest_edge": 10**9},
        )
        value = {**value, random.choice(sorted(value)): random.choice((*numbers, *sizes))}
    else:
        value = spoil_json(random, value)
    replace(path, as_json(random, value))
    return trying(random, folder)
