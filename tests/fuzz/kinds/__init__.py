"""Kinds of inputs by name: each makes one from a `Random` and a `Place`, and returns the trial that uses it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fuzz.kinds import (
    arguments,
    chats,
    commands,
    media,
    pickles,
    processes,
    settings,
    templates,
    text_files,
    urls,
    weights,
)
from fuzz.outcome import Trial
from fuzz.place import Place

Kind = Callable[[Random, Place], Trial]

KINDS: dict[str, Kind] = {
    "safetensors": weights.safetensors,
    "numbers": weights.numbers,
    "index": weights.index,
    "config": settings.config,
    "tokenizer": settings.tokenizer,
    "processor files": settings.processor_files,
    "template": templates.template,
    "pickle": pickles.pickle,
    "quantization": settings.quantization,
    "picture": media.picture,
    "sound": media.sound,
    "video": media.video,
    "messages": chats.messages,
    "tools": chats.tools,
    "answers": chats.answers,
    "url": urls.url,
    "data uri": urls.data_uri,
    "arguments": arguments.arguments,
    "command line": commands.command_line,
    "text files": text_files.text_files,
    "process": processes.process,
}
# Trials of these take far longer than the others, so there are fewer
SHARES = {"process": 0.2, "url": 0.6, "command line": 1.5, "config": 1.5, "arguments": 1.5}
# Beyond the usual limit: a server may let a caller wait as long as the package waits for it
PATIENCE = {"url": 40.0, "process": 20.0, "command line": 40.0}
