"""Texts to token ids: a wrapper around a checkpoint's tokenizer.json, or its SentencePiece file."""

import re
import string
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import normalizers

from mlx_mm.errors import ConfigError, InputError, foreign, is_whole, shown, whole_number
from mlx_mm.processing.arguments import Texts, flag, optional_flag, strings
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.files import check_regular, read_json
from mlx_mm.processing.plain import check_text, quoted
from mlx_mm.processing.sentence_piece import SentencePiece
from mlx_mm.processing.token_names import named_value, token_text
from mlx_mm.processing.tokenizer_steps import MAX_BYTES, MAX_PROMPT, check_size, check_steps, without_lower_case

SENTENCEPIECE = "spiece.model"  # what SigLIP's own tokenizer class reads; its ids are the pieces' places in the file
# The formats a tokenizer.json is made from; we read only the result.
_SOURCE_CANONICAL = ("SiglipTokenizer", "SiglipTokenizerFast")
_SOURCE_FILES = ("tokenizer.model", "sentencepiece.bpe.model", "vocab.json")
_CANONICAL = ("SiglipTokenizer", "SiglipTokenizerFast")
_FILES = ("tokenizer.json", "tokenizer_config.json", SENTENCEPIECE, *_SOURCE_FILES)

OnCut = Callable[[int], None]
_QUOTED = 40  # characters of a text that an error shows
MAX_ID = 2**31 - 1

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Tokenizer:
    """Token ids from a checkpoint's file, and what tokenizer_config.json says about them.

    canonical: texts go through `canonicalize` first. do_lower_case: as that file says, by default True.
    The ids in a model's config.json are not used: SigLIP 2's are leftovers of another tokenizer.
    The vocabulary is read at the first text, because a large one costs seconds that pictures do not need.
    """

    def __init__(self, path: Path, named: Mapping[str, object]) -> None:
        self.path = path
        self.canonical = named_value(named, "tokenizer_class", str, path.parent) in _CANONICAL
        self.do_lower_case = named_value(named, "do_lower_case", bool, path.parent) is not False
        self._pad_token = token_text(named, "pad_token", path.parent)
        self._eos_token = token_text(named, "eos_token", path.parent)
        self._bos_token = None if named.get("bos_token") is None else token_text(named, "bos_token", path.parent)
        self._backends: dict[bool | None, Any] = {}
        self._lock = threading.Lock()  # texts are prepared in threads, and the file should be read once

    def __getstate__(self) -> dict[str, object]:
        """What a copy or a pickle holds: it reads the vocabulary anew."""
        return {name: value for name, value in vars(self).items() if name not in ("_backends", "_lock")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _backends={}, _lock=threading.Lock())

    @classmethod
    def find(cls, folder: Path) -> "Tokenizer | None":
        """The tokenizer of a checkpoint; None where its folder has no tokenizer file at all."""
        return cls.from_folder(folder) if any((folder / name).is_file() for name in _FILES) else None

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Find a checkpoint's files; raises ConfigError when the vocabulary or a token's name is missing."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            path = folder / SENTENCEPIECE
        if not path.is_file():
            others = [name for name in _SOURCE_FILES if (folder / name).is_file()]
            found = f"only {' and '.join(others)}" if others else "no tokenizer file"
            raise ConfigError(
                f"{folder} has {found}; expected tokenizer.json. Take that file from the checkpoint's hub "
                "repository, or write it with transformers: PreTrainedTokenizerFast.save_pretrained()."
            )
        named = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
        return cls(path, named)

    @property
    def pad_id(self) -> int:
        return self._id(self._pad_token)

    @property
    def eos_id(self) -> int:
        return self._id(self._eos_token)

    @property
    def bos_id(self) -> int | None:
        """None where the files name no token for the beginning."""
        return None if self._bos_token is None else self._id(self._bos_token)

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary itself; tokens that a file adds to it are not counted."""
        size: int = self._any_backend().get_vocab_size(with_added_tokens=False)
        return size

    def encode(
        self,
        texts: Sequence[str],
        length: int,
        *,
        do_lower_case: bool,
        truncation: bool = True,
        on_cut: OnCut | None = None,
    ) -> npt.NDArray[np.int32]:
        """Ids int32 (B, length): tokens, exactly one end token after them, then padding on the right.

        Longer texts are cut so that the end token stays the last; truncation False refuses them. on_cut: called with
        the tokens of each text that is cut, its end token included. Special tokens typed in a text are matched
        before it is lower-cased: "<eos>" is a token, "<EOS>" is text. Raises InputError, also for what is not text.
        """
        flag("truncation", truncation)
        eos = self.eos_id
        # Files differ in whether they add the end token; here it is always there and never twice.
        rows = [_without_end(row, eos) for row in self._ids(texts, do_lower_case)]
        if not truncation:
            _refuse_long(texts, [len(row) + 1 for row in rows], length)
        for row in rows:
            if len(row) >= length and on_cut is not None:
                on_cut(len(row) + 1)
        return pad_rows([[*_without_end(row[: length - 1], eos), eos] for row in rows], length, self.pad_id)

    def encode_as_filed(
        self,
        texts: Sequence[str],
        length: int | None,
        *,
        do_lower_case: bool | None = None,
        on_cut: OnCut | None = None,
    ) -> list[list[int]]:
        """Ids with the tokens that the file puts around a text, and with an end token at the end in any case.

        length: longer texts are cut so that the end token stays the last; None: they are not cut.
        do_lower_case None: as the files say. on_cut: called with the tokens of each text that is cut, all included.
        Raises InputError for what is not text.
        """
        rows, eos = self._ids(texts, do_lower_case), self.eos_id
        rows = [row if row[-1:] == [eos] else [*row, eos] for row in rows]
        if length is None:
            return rows
        for row in rows:
            if len(row) > length and on_cut is not None:
                on_cut(len(row))
        return [row if len(row) <= length else [*row[: length - 1], eos] for row in rows]

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a finished prompt: nothing is added, and special tokens written in it count as such."""
        check_text(text, "A prompt")
        backend = self._any_backend()
        check_size(backend, text, "A prompt", MAX_PROMPT)
        with self._failing():
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        self._check_ids(ids)
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of ids; tokens that the file calls special are written only without skip_special_tokens."""
        flag("skip_special_tokens", skip_special_tokens)
        if not all(is_whole(token) and 0 <= token <= MAX_ID for token in ids):
            raise InputError(
                "Among the ids is one that no token can have; expected whole numbers of 0 or more. Leave it out."
            )
        with self._failing():
            text: str = self._any_backend().decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def _ids(self, texts: Sequence[str], do_lower_case: bool | None) -> list[list[int]]:
        backend = self._backend(do_lower_case)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    f"Text number {index} is {type(text).__name__}; expected str. Convert it or leave it out."
                )
            check_text(text, f"Text number {index}")
            check_size(backend, text, f"Text number {index}")
        if self.canonical:
            lower = self.do_lower_case if do_lower_case is None else do_lower_case
            texts = [canonicalize(text, lower) for text in texts]
        with self._failing():
            rows = [encoding.ids for encoding in backend.encode_batch(list(texts))]
        for row in rows:
            self._check_ids(row)
        return rows

    def _id(self, token: str) -> int:
        with self._failing():
            found: int | None = self._any_backend().token_to_id(token)
        if found is None:
            raise ConfigError(
                f"{self.path} has no token {quoted(token)}, which tokenizer_config.json names; expected it in the "
                "vocabulary. Use the two files of the same checkpoint."
            )
        self._check_ids([found])
        return found

    def _check_ids(self, ids: Sequence[int]) -> None:
        if ids and max(ids) > MAX_ID:
            raise ConfigError(
                f"{self.path} gave the id {max(ids)}; expected ids for the rows of a table. Download it again."
            )

    def _failing(self) -> AbstractContextManager[None]:
        """Around what a library does with texts by the rules of a file, such as a pattern that does not end."""
        advice = "expected a tokenizer that takes any text. Take the checkpoint's own file, or leave the text out."
        return foreign(ConfigError, f"{self.path} fails on a text", advice)

    def _any_backend(self) -> Any:
        """A tokenizer that is read already, or else the file's own."""
        return next(iter(self._backends.values()), None) or self._backend(None)

    def _backend(self, do_lower_case: bool | None) -> Any:
        optional_flag("do_lower_case", do_lower_case)
        with self._lock:
            if do_lower_case not in self._backends:
                self._backends[do_lower_case] = self._read(do_lower_case)
            return self._backends[do_lower_case]

    def _read(self, do_lower_case: bool | None) -> Any:
        if self.path.name == SENTENCEPIECE:
            return SentencePiece(self.path, do_lower_case is True)
        with foreign(ConfigError, f"{self.path} cannot be read", "expected a tokenizer file. Download it again."):
            check_regular(self.path, MAX_BYTES)
            backend = tokenizers.Tokenizer.from_file(str(self.path))
            if do_lower_case:
                steps = [backend.normalizer] if backend.normalizer is not None else []
                # Not str.lower: it differs on the Greek final sigma.
                backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
            elif do_lower_case is False and backend.normalizer is not None:
                backend.normalizer = without_lower_case(backend.normalizer)
            check_steps(backend, self.path)
        # A file can carry its own padding and cutting, which would come before ours.
        backend.no_padding()
        backend.no_truncation()
        return backend


def as_texts(texts: Texts) -> list[str]:
    """One text or several as a list; InputError for none, and for what is no text."""
    items = strings(texts, "Text")[0]
    if not items:
        raise InputError("The list of texts is empty; expected at least one. Leave the call out for an empty batch.")
    return items


def refuse_task(task: str | None) -> None:
    """Raise InputError where a call names a task and the family has none."""
    if task is not None:
        raise InputError(f"task={shown(task)} was given, and this family has no tasks; expected none. Leave task out.")


def prepare_texts(
    tokenizer: Tokenizer,
    texts: Texts,
    limit: int,
    vocabulary: int,
    *,
    padding: bool | str,
    truncation: bool,
    do_lower_case: bool | None = None,
    on_cut: OnCut | None = None,
) -> Batch:
    """The result of `text_batch`, from a tokenizer that is held against the model first.

    vocabulary: rows of the model's table. Raises ConfigError for files that do not fit each other, and InputError.
    """
    check_ends(tokenizer, do_lower_case)
    batch = text_batch(
        tokenizer,
        texts,
        limit,
        padding=padding,
        truncation=truncation,
        do_lower_case=do_lower_case,
        on_cut=on_cut,
    )
    check_vocabulary(tokenizer, vocabulary, batch["input_ids"])
    return batch


def text_batch(
    tokenizer: Tokenizer,
    texts: Texts,
    limit: int,
    *,
    padding: bool | str,
    truncation: bool,
    do_lower_case: bool | None,
    on_cut: OnCut | None = None,
) -> Batch:
    """input_ids and attention_mask, int32 (B, L), 1 = real, of texts with the tokens that the file puts around them.

    limit: the most tokens of a text. padding: to the "longest" of the texts (or True), or to "max_length", the limit.
    truncation: longer texts are cut and keep their end token; False refuses them. on_cut: called with the tokens of
    each text that is cut, all included, before it is. Raises InputError.
    """
    if not (padding is True or (isinstance(padding, str) and padding in ("longest", "max_length"))):
        raise InputError(f'padding is {shown(padding)}; expected "longest" or "max_length". Leave it out.')
    items, cut = as_texts(texts), limit if flag("truncation", truncation) else None
    rows = tokenizer.encode_as_filed(items, cut, do_lower_case=do_lower_case, on_cut=on_cut)
    _refuse_long(items, [len(row) for row in rows], limit)
    length = limit if padding == "max_length" else max(map(len, rows))
    mask = pad_rows([[1] * len(row) for row in rows], length, 0)
    return {"input_ids": pad_rows(rows, length, tokenizer.pad_id), "attention_mask": mask}


def text_padding(tokenizer: Tokenizer | None, items: Sequence[Batch]) -> dict[str, int]:
    """What `collate` fills up the texts of these batches with. The vocabulary is not read where there are none."""
    if tokenizer is None or not any("input_ids" in item for item in items):
        return {}
    return {"input_ids": tokenizer.pad_id, "attention_mask": 0}


def check_ends(tokenizer: Tokenizer, do_lower_case: bool | None) -> None:
    """Raise ConfigError unless an empty text becomes its begin and end token; of a canonical file, its end token."""
    found = tokenizer.encode_as_filed([""], None, do_lower_case=do_lower_case)[0]
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    if found != ([eos] if tokenizer.canonical else [bos, eos]):
        expected = f"[{eos}]" if tokenizer.canonical else f"[{'the id of bos_token' if bos is None else bos}, {eos}]"
        raise ConfigError(
            f"{tokenizer.path} turns an empty text into {found[:9]}; expected {expected}, the tokens that "
            "tokenizer_config.json names for begin and end. Use these files of the checkpoint's hub repository."
        )


def check_vocabulary(tokenizer: Tokenizer, rows: int, ids: npt.NDArray[np.int32]) -> None:
    """Raise ConfigError where a vocabulary, or an id that it gave or pads with, does not fit a model's table of `rows`.

    A lookup beyond a table would read memory that is not the model's.
    """
    size, highest = tokenizer.vocab_size, max(int(ids.max()), tokenizer.pad_id)
    if size > rows or highest >= rows:
        found = f"{size} entries" if size > rows else f"the id {highest}"
        raise ConfigError(
            f"{tokenizer.path} has {found}; expected ids for the {rows} rows of the model's table. Use the tokenizer "
            "and the config.json of one checkpoint."
        )


def check_padding(tokenizer: Tokenizer, expected: int) -> None:
    """Raise ConfigError for a tokenizer that pads with another id than the model takes for padding."""
    if tokenizer.pad_id != expected:
        raise ConfigError(
            f"{tokenizer.path} pads with {tokenizer.pad_id}; expected {expected}, the id that the model takes for "
            "padding, as config.json says. Use the files of one checkpoint."
        )


def check_length(max_length: int | None, longest: int, *, usual: int | None = None, least: int = 1) -> int:
    """The length of a call's texts in tokens; InputError for one the model cannot have.

    longest: the positions of the model. usual: the length by default, where it is shorter.
    """
    if max_length is None:
        return longest if usual is None else min(usual, longest)
    advice = "The model has no more positions; leave max_length out."
    return whole_number("max_length", max_length, least=least, most=longest, advice=advice)


def canonicalize(text: str, do_lower_case: bool) -> str:
    """Lower case, no ASCII punctuation, single spaces: SigLIP 1's SiglipTokenizer.canonicalize_text.

    Doing it here is right whether or not the checkpoint's tokenizer.json repeats it.
    """
    text = text.lower() if do_lower_case else text
    return re.sub(r"\s+", " ", text.translate(_PUNCTUATION)).strip()


def pad_rows(rows: Sequence[Sequence[int]], length: int, value: int) -> npt.NDArray[np.int32]:
    """Rows of at most `length` numbers as int32 (B, length), filled up on the right."""
    result = np.full((len(rows), length), value, np.int32)
    for row, tokens in zip(result, rows, strict=True):
        row[: len(tokens)] = tokens
    return result


def _refuse_long(texts: Sequence[str], counts: Sequence[int], limit: int) -> None:
    """Raise InputError for the first of the texts that has more tokens than the limit."""
    for text, count in zip(texts, counts, strict=True):
        if count > limit:
            start = repr(text[:_QUOTED]) + ("…" if len(text) > _QUOTED else "")
            raise InputError(
                f"A text has {count} tokens and truncation is False; expected at most {limit}. It begins with {start}. "
                "Shorten it, or leave truncation on."
            )


def _without_end(tokens: list[int], eos: int) -> list[int]:
    """The tokens up to the end tokens that they end with."""
    count = len(tokens)
    while count and tokens[count - 1] == eos:
        count -= 1
    return tokens[:count]
