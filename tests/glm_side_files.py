"""Processor, tokenizer and template files of a small GLM: one token per byte, special tokens with their real names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import write_json
from tokenizers.pre_tokenizers import ByteLevel

# Of the tokenizer of GLM-4.5V and 4.6V, in the order of its ids from 151329 on.
SPECIAL = [
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|begin_of_audio|>",
    "<|end_of_audio|>",
    "<|begin_of_transcription|>",
    "<|end_of_transcription|>",
    "<|code_prefix|>",
    "<|code_middle|>",
    "<|code_suffix|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "/nothink",
    "<|begin_of_box|>",
    "<|end_of_box|>",
    "<|image|>",
    "<|video|>",
]
FIRST = 151329
REAL_IDS = {token: FIRST + i for i, token in enumerate(SPECIAL)}
# What a text would lose if it were left out of an answer by skip_special_tokens.
KEPT = {"<think>", "</think>", "/nothink", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"}
KEPT |= {"<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"}

PICTURES = {
    "do_rescale": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "Glm46VImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "merge_size": 2,
    "patch_size": 14,
    "processor_class": "Glm46VProcessor",
    "size": {"shortest_edge": 12544, "longest_edge": 9633792},
    "temporal_patch_size": 2,
}

TEMPLATE = """\
[gMASK]<sop>
{%- macro show(content) -%}
{%- if content is string -%}
{{- content -}}
{%- elif content -%}
{%- for item in content -%}
{%- if item is string -%}
{{- item -}}
{%- elif item.type == 'text' -%}
{{- item.text -}}
{%- elif item.type in ('image', 'image_url') -%}
<|begin_of_image|><|image|><|end_of_image|>
{%- elif item.type in ('video', 'video_url') -%}
<|begin_of_video|><|video|><|end_of_video|>
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
<|system|>
{{ '# Tools' }}
<tools>
{% for tool in tools %}
{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}
</tools>
{%- endif -%}
{%- set ns = namespace(last=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
<|system|>
{{ show(message.content) }}
{%- elif message.role == 'user' -%}
{%- set text = show(message.content) -%}
<|user|>
{{ text }}
{{- '/nothink' if enable_thinking is defined and not enable_thinking and not text.endswith('/nothink') else '' -}}
{%- elif message.role == 'assistant' -%}
{%- set text = show(message.content) -%}
{%- set thought = message.reasoning_content or '' -%}
{%- if '</think>' in text -%}
{%- set thought = text.split('</think>')[0].split('<think>')[-1] -%}
{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
<|assistant|>
{{ '<think>' ~ (thought.strip() if loop.index0 > ns.last else '') ~ '</think>' }}
{{- '\\n' ~ text.strip() if text.strip() else '' -}}
{%- for call in message.tool_calls or [] -%}
{%- set call = call.function or call -%}
{{ '\\n<tool_call>' ~ call.name }}
{% for key, value in call.arguments.items() %}
<arg_key>{{ key }}</arg_key>
<arg_value>{{ value if value is string else value | tojson(ensure_ascii=False) }}</arg_value>
{% endfor %}
</tool_call>
{%- endfor -%}
{%- elif message.role == 'tool' -%}
{{ '<|observation|>' if loop.first or messages[loop.index0 - 1].role != 'tool' else '' }}
<tool_response>
{{ show(message.content) }}
</tool_response>
{{- '\\n' if message.content is string else '' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{{ '<think></think>\\n' if enable_thinking is defined and not enable_thinking else '' }}
{%- endif -%}
"""


def special_ids(config: dict[str, Any]) -> dict[str, int]:
    """Ids of the special tokens: the real ones, or those of a tiny config.json and free ones below them."""
    if config["image_token_id"] == REAL_IDS["<|image|>"]:
        return REAL_IDS
    known = {
        "<|endoftext|>": config["text_config"]["pad_token_id"],
        "<|image|>": config["image_token_id"],
        "<|video|>": config["video_token_id"],
        "<|begin_of_image|>": config["image_start_token_id"],
        "<|end_of_image|>": config["image_end_token_id"],
        "<|begin_of_video|>": config["video_start_token_id"],
        "<|end_of_video|>": config["video_end_token_id"],
    }
    others = [token for token in SPECIAL if token not in known]
    return known | {token: config["image_token_id"] - len(others) + i for i, token in enumerate(others)}


def write_glm_side_files(folder: Path, config: dict[str, Any]) -> None:
    """All files of a checkpoint beside config.json and its weights."""
    ids = special_ids(config)
    byte_ids = {character: 1 + i for i, character in enumerate(sorted(ByteLevel.alphabet()))}
    added = [
        {"id": ids[token], "content": token, "special": token not in KEPT, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for token in sorted(SPECIAL, key=ids.__getitem__)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": byte_ids | ids, "merges": []},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    names = {"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "padding_side": "left"}
    write_json(folder / "tokenizer_config.json", {**names, "processor_class": "Glm46VProcessor"})
    write_json(folder / "preprocessor_config.json", PICTURES)
    write_json(
        folder / "video_preprocessor_config.json",
        PICTURES
        | {"video_processor_type": "Glm46VVideoProcessor", "size": {"shortest_edge": 12544, "longest_edge": 47040000}}
        | {"do_sample_frames": True, "fps": 2, "num_frames": 16, "max_image_size": {"longest_edge": 47040000}},
    )
    stops = [ids["<|endoftext|>"], ids["<|user|>"], ids["<|observation|>"]]
    write_json(folder / "generation_config.json", {"eos_token_id": stops, "pad_token_id": ids["<|endoftext|>"]})
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
