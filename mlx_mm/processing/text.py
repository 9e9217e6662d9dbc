"""Texts to token ids of one length: a wrapper around a checkpoint's tokenizer.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import normalizers

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.processing.settings import read_json

# The formats a tokenizer.json is made from; we read only the result.
_SOURCE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json")


class Tokenizer:
    """Token ids from tokenizer.json; pad and end token by the names in tokenizer_config.json.

    The ids in a model's config.json are not used: SigLIP 2's are leftovers of another tokenizer.
    The file is read at the first text, because a large vocabulary costs a second that pictures do not need.
    """

    def __init__(self, path: Path, pad_token: str, eos_token: str) -> None:
        self._path = path
        self._pad_token = pad_token
        self._eos_token = eos_token
        self._backends: dict[bool, tokenizers.Tokenizer] = {}

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Find a checkpoint's files; raises ConfigError when tokenizer.json or a token's name is missing."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            others = [name for name in _SOURCE_FILES if (folder / name).is_file()]
            found = f"only {' and '.join(others)}" if others else "no tokenizer file"
            raise ConfigError(
                f"{folder} has {found}; expected tokenizer.json. Take that file from the checkpoint's hub "
                "repository, or write it with transformers: PreTrainedTokenizerFast.save_pretrained()."
            )
        named = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
        return cls(path, _token(named, "pad_token", folder), _token(named, "eos_token", folder))

    @property
    def pad_id(self) -> int:
        return self._id(self._pad_token)

    @property
    def eos_id(self) -> int:
        return self._id(self._eos_token)

    def encode(self, texts: Sequence[str], length: int, *, do_lower_case: bool) -> npt.NDArray[np.int32]:
        """Ids int32 (B, length): tokens, exactly one end token after them, then padding on the right.

        Longer texts are cut so that the end token stays the last. Special tokens typed in a text are matched
        before it is lower-cased: "<eos>" is a token, "<EOS>" is text. Raises InputError for what is not text.
        """
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    f"Text number {index} is {type(text).__name__}; expected str. Convert it or leave it out."
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"Text number {index} holds half of a surrogate pair ({error.reason}); expected valid "
                    "Unicode. Decode its source again, with errors='replace'."
                ) from error
        eos, backend = self.eos_id, self._backend(do_lower_case)
        ids = np.full((len(texts), length), self.pad_id, np.int32)
        for row, encoding in zip(ids, backend.encode_batch(list(texts)), strict=True):
            tokens = encoding.ids[: length - 1]
            # Files differ in whether they add the end token; here it is always there and never twice.
            while tokens and tokens[-1] == eos:
                tokens.pop()
            row[: len(tokens)] = tokens
            row[len(tokens)] = eos
        return ids

    def _id(self, token: str) -> int:
        found: int | None = self._backend(True).token_to_id(token)
        if found is None:
            raise ConfigError(
                f"{self._path} has no token {token!r}, which tokenizer_config.json names; expected it in the "
                "vocabulary. Use the two files of the same checkpoint."
            )
        return found

    def _backend(self, do_lower_case: bool) -> tokenizers.Tokenizer:
        if do_lower_case not in self._backends:
            self._backends[do_lower_case] = self._read(do_lower_case)
        return self._backends[do_lower_case]

    def _read(self, do_lower_case: bool) -> tokenizers.Tokenizer:
        try:
            if do_lower_case:
                backend = tokenizers.Tokenizer.from_file(str(self._path))
                steps = [backend.normalizer] if backend.normalizer is not None else []
                # Not str.lower: it differs on the Greek final sigma.
                backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
            else:
                values = json.loads(self._path.read_bytes())
                values["normalizer"] = _without_lower_case(values.get("normalizer"))
                backend = tokenizers.Tokenizer.from_str(json.dumps(values))
        except Exception as error:  # tokenizers raises no narrower type for a bad file
            raise ConfigError(
                f"{self._path} cannot be read ({error}); expected a tokenizer file. Download it again."
            ) from error
        # A file can carry its own padding and cutting, which would come before ours.
        backend.no_padding()
        backend.no_truncation()
        return backend


def _token(named: dict[str, Any], key: str, folder: Path) -> str:
    """A token is written as its text, or as an object with its text and its matching rules."""
    value = named.get(key)
    token = value.get("content") if isinstance(value, dict) else value
    if not isinstance(token, str):
        raise ConfigError(
            f'tokenizer_config.json in {folder} names no {key}; expected its text, such as "<{key[:3]}>". '
            "Use the file of the checkpoint's hub repository."
        )
    return token


def _without_lower_case(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    if normalizer is None or normalizer["type"] == "Lowercase":
        return None
    if normalizer["type"] != "Sequence":
        return normalizer
    steps = [_without_lower_case(step) for step in normalizer["normalizers"]]
    return normalizer | {"normalizers": [step for step in steps if step is not None]}
