"""What a tokenizer file may do with a text before it looks its pieces up: steps that are few and lengthen it little."""

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tokenizers import normalizers
from tokenizers.normalizers import Normalizer

from mlx_mm.errors import ConfigError, InputError

MAX_BYTES = 48 << 20  # of a tokenizer.json, which takes 17 times as much memory; the largest known one has 33 MB
MAX_CHARACTERS = 1_000_000  # of a text: seconds, and some hundred MB; no model reads a tenth of it
MAX_PROMPT = 2 * MAX_CHARACTERS  # of a chat: a model may read 131,072 tokens
MAX_GROWN = 2_000_000  # characters that the steps may make of one
MEASURED = 30_000  # characters from which it is measured what they make
MAX_STEPS = 1000
MAX_GROWTH = 4096  # times; NFKC has 18, and a pattern that could match nothing counts as 2
MAX_ADDED = 10_000  # characters


class Backend(Protocol):
    """What of `tokenizers.Tokenizer` is looked at here."""

    @property
    def normalizer(self) -> object: ...
    @property
    def decoder(self) -> object: ...


def check_steps(backend: Backend, path: Path) -> None:
    """Raise ConfigError for a file whose steps could make gigabytes of a word."""
    for part in (backend.normalizer, backend.decoder):
        steps, growth, added = _bounds(part)
        if steps > MAX_STEPS or growth > MAX_GROWTH or added > MAX_ADDED:
            raise ConfigError(
                f"{path} changes texts in {steps:,} steps, which can make them {growth:,} times as long and add "
                f"{added:,} characters; expected at most {MAX_STEPS:,} steps, {MAX_GROWTH:,} times and {MAX_ADDED:,}. "
                "Take the checkpoint's own file."
            )


def check_size(backend: Backend, text: str, where: str, most: int = MAX_CHARACTERS) -> None:
    """Raise InputError for a text that is too long, or becomes so by the steps of a file."""
    size = len(text)
    if MEASURED < size <= most and (growth := _bounds(backend.normalizer)[1]) > 1 and size * growth > MAX_GROWN:
        piece = MAX_GROWN // growth
        normal: Any = backend.normalizer
        size = sum(len(normal.normalize_str(text[start : start + piece])) for start in range(0, size, piece))
        most = MAX_GROWN
    if size > most:
        raise InputError(
            f"{where} has {size:,} characters; expected at most {most:,}, which is more than a model reads. Cut it."
        )


def without_lower_case(normalizer: Normalizer) -> Normalizer:
    """A normalizer without its steps that lower-case."""
    kept = _kept(json.loads(normalizer.__getstate__()))
    result: Normalizer = normalizers.Sequence([])
    if kept is not None:
        result.__setstate__(json.dumps(kept).encode())
    return result


def _kept(step: dict[str, Any]) -> dict[str, Any] | None:
    if step["type"] == "Lowercase":
        return None
    if step["type"] != "Sequence":
        return step
    steps = [_kept(inner) for inner in step["normalizers"]]
    return {**step, "normalizers": [inner for inner in steps if inner is not None]}


def _bounds(part: Any) -> tuple[int, int, int]:
    """Steps of a normalizer or decoder, how many times as long a text can become, and characters beside that."""
    count, growth, added = 0, 1, 0
    for step in _steps({} if part is None else json.loads(part.__getstate__())):
        count += 1
        if step.get("type") == "Replace":
            pattern, size = step["pattern"], len(step["content"])
            times = max(1, size) if pattern.get("String") else 1 + size
        elif step.get("type") == "Precompiled":
            times = _longest(step["precompiled_charsmap"])
        elif step.get("type") in ("NFKC", "NFKD"):
            times = 18  # of U+FDFA
        else:
            times = 4 if step.get("type") in ("NFC", "NFD") else 1
            added += len(step.get("prepend") or "") if step.get("type") == "Prepend" else 0
        growth, added = min(growth * times, 10**12), min(added * times, 10**12)
    return count, growth, added


def _steps(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The steps of nested sequences; tokenizers reads no deep ones."""
    inner = part.get("normalizers") or part.get("decoders")
    if part.get("type") == "Sequence" and inner:
        for step in inner:
            yield from _steps(step)
    else:
        yield part


def _longest(charsmap: str) -> int:
    """Characters of the longest replacement in a map as SentencePiece has it: a size, a trie of it, and the texts."""
    data = base64.b64decode(charsmap)
    if len(data) < 4:
        return 1
    texts = data[4 + struct.unpack("<I", data[:4])[0] :].split(b"\0")
    return max(1, *(len(text.decode("utf-8", "replace")) for text in texts))
