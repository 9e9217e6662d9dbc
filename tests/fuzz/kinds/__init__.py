"""Kinds of inputs by name: each makes one from a `Random` and a `Place`, and returns the trial that uses it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fuzz.kinds import arguments, chats, checkpoints, commands, media, urls
from fuzz.outcome import Trial
from fuzz.place import Place

Kind = Callable[[Random, Place], Trial]

KINDS: dict[str, Kind] = {
    "safetensors": checkpoints.safetensors,
    "numbers": checkpoints.numbers,
    "index": checkpoints.index,
    "config": checkpoints.config,
    "tokenizer": checkpoints.tokenizer,
    "processor files": checkpoints.processor_files,
    "template": checkpoints.template,
    "pickle": checkpoints.pickle,
    "quantization": checkpoints.quantization,
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
    "text files": commands.text_files,
    "process": commands.process,
}
# Trials of these take far longer than the others, so there are fewer
SHARES = {"process": 0.2, "url": 0.6, "command line": 1.5, "config": 1.5, "arguments": 1.5}
# Beyond the usual limit: a server may let a caller wait as long as the package waits for it
PATIENCE = {"url": 40.0, "process": 20.0, "command line": 40.0}
