"""The tokenizer wrapper against ids made by transformers."""

import io
import json
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from comparing import LONG
from tiny import golden

from mlx_mm.errors import ConfigError, InputError
from mlx_mm.processing import text as room
from mlx_mm.processing.text import Tokenizer, text_batch

CASES = golden("siglip2_tokenizer_cases")
NAMES: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>"}


def write(folder: Path, changes: dict[str, Any] | None = None, names: dict[str, Any] | None = None) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(CASES["tokenizer_json"] | (changes or {})))
    (folder / "tokenizer_config.json").write_text(json.dumps(NAMES if names is None else names))
    return folder


def ids(tokenizer: Tokenizer, text: str, length: int = 12, lower: bool = True) -> list[int]:
    return tokenizer.encode([text], length, do_lower_case=lower)[0].tolist()


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_folder(write(tmp_path))


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: repr(case["text"][:20]))
@pytest.mark.parametrize(("lower", "key"), [(True, "siglip2_lowercasing_len12"), (False, "gemma_no_lowercase_len12")])
def test_golden_cases(tokenizer: Tokenizer, case: dict[str, Any], lower: bool, key: str) -> None:
    assert ids(tokenizer, case["text"], lower=lower) == case[key]


def test_the_switch_matters(tokenizer: Tokenizer) -> None:
    assert ids(tokenizer, "A CAT") != ids(tokenizer, "A CAT", lower=False)


def test_a_batch_equals_its_rows(tokenizer: Tokenizer) -> None:
    texts = [case["text"] for case in CASES["cases"]]
    batch = tokenizer.encode(texts, 64, do_lower_case=True)
    assert batch.dtype == np.int32
    assert batch.tolist() == [ids(tokenizer, text, 64) for text in texts]
    for case, row in zip(CASES["cases"], batch, strict=True):
        used = min(64, case["n_unpadded_siglip2"])
        assert row[used - 1] == 1
        assert (row[used:] == 0).all()


def test_ids_come_from_the_files(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)


def test_greek_final_sigma_is_lower_cased_letter_by_letter(tokenizer: Tokenizer) -> None:
    """Bytes stand for letters outside this vocabulary: σ is CF 83, ς is CF 82."""
    assert ids(tokenizer, "ΟΔΟΣ", 20) == ids(tokenizer, "οδοσ", 20, lower=False)
    assert ids(tokenizer, "ΟΔΟΣ", 20) != ids(tokenizer, "ΟΔΟΣ".lower(), 20, lower=False)


def test_special_tokens_are_found_before_lower_casing(tokenizer: Tokenizer) -> None:
    assert 1 in ids(tokenizer, "a <eos> cat", 20)[:4]
    row = ids(tokenizer, "A <EOS> CAT", 30)
    assert row.count(1) == 1
    # Lower-casing the text beforehand would make a token of it.
    assert row != ids(tokenizer, "A <EOS> CAT".lower(), 30)


@pytest.mark.parametrize("post_processor", [CASES["tokenizer_json"]["post_processor"], None])
@pytest.mark.parametrize("text", ["a cat", "", "a cat<eos>", "a cat<eos><eos>", "<eos>", "cat " * 50])
def test_exactly_one_end_token(tmp_path: Path, post_processor: object, text: str) -> None:
    tokenizer = Tokenizer.from_folder(write(tmp_path, {"post_processor": post_processor}))
    for length in (1, 2, 3, 12):
        row = ids(tokenizer, text, length)
        end = row.index(1)
        assert row.count(1) == 1
        assert set(row[end + 1 :]) <= {0}
    assert ids(tokenizer, "a cat") == [261, 320, 1] + [0] * 9


def test_padding_and_cutting_of_the_file_are_dropped(tmp_path: Path) -> None:
    padding = {
        "strategy": {"Fixed": 5}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 3, "pad_type_id": 0, "pad_token": "<unk>",
    }  # fmt: skip
    truncation = {"direction": "Left", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tokenizer = Tokenizer.from_folder(write(tmp_path, {"padding": padding, "truncation": truncation}))
    for lower in (True, False):
        assert ids(tokenizer, "a cat", lower=lower) == [261, 320, 1] + [0] * 9


@pytest.mark.parametrize("place", ["alone", "first", "last"])
def test_a_file_that_lower_cases_itself_obeys_the_switch(tmp_path: Path, place: str) -> None:
    lower, replace = {"type": "Lowercase"}, CASES["tokenizer_json"]["normalizer"]
    steps = {"first": [lower, replace], "last": [replace, {"type": "Sequence", "normalizers": [lower]}]}
    normalizer = lower if place == "alone" else {"type": "Sequence", "normalizers": steps[place]}
    tokenizer = Tokenizer.from_folder(write(tmp_path, {"normalizer": normalizer}))
    assert ids(tokenizer, "HELLO") == [327, 1] + [0] * 10
    assert ids(tokenizer, "HELLO", lower=False) == [294, 291, 298, 298, 301, 1] + [0] * 6


def test_a_file_without_a_normalizer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write(tmp_path, {"normalizer": None}))
    assert ids(tokenizer, "HELLO") == [327, 1] + [0] * 10
    assert ids(tokenizer, "HELLO", lower=False) == [294, 291, 298, 298, 301, 1] + [0] * 6


def test_token_names_as_objects_and_in_the_older_file(tmp_path: Path) -> None:
    write(tmp_path, names={"pad_token": {"content": "<pad>", "lstrip": False}})
    with pytest.raises(ConfigError, match="eos_token"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": "<unk>"}))
    assert ids(Tokenizer.from_folder(tmp_path), "a cat") == [261, 320, 1] + [0] * 9


@LONG[0]
@LONG[1]
def test_long_text_in_time(tokenizer: Tokenizer) -> None:
    start = time.perf_counter()
    for text in ("x" * 100_000, "hello dog " * 10_000, "é🙂" * 50_000, "\n" * 100_000):
        assert ids(tokenizer, text, 64)[-1] == 1
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("text", [None, 3, b"a cat", ["a cat"]])
def test_what_is_no_text(tokenizer: Tokenizer, text: object) -> None:
    with pytest.raises(InputError, match=f"Text number 1 is {type(text).__name__}; expected str"):
        tokenizer.encode(["a cat", text], 12, do_lower_case=True)  # type: ignore[list-item]


def test_half_a_surrogate_pair(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="surrogate"):
        ids(tokenizer, "a \ud83d cat")


@pytest.mark.parametrize("name", ["tokenizer.model", "sentencepiece.bpe.model", None])
def test_missing_tokenizer_json(tmp_path: Path, name: str | None) -> None:
    if name:
        (tmp_path / name).touch()
    with pytest.raises(
        ConfigError, match=rf"has {'only ' + name if name else 'no tokenizer file'}; expected tokenizer"
    ):
        Tokenizer.from_folder(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    for content in ("", "{", "[]", '{"version": "1.0"}'):
        write(tmp_path)
        (tmp_path / "tokenizer.json").write_text(content)
        for lower in (True, False):
            with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
                ids(Tokenizer.from_folder(tmp_path), "a cat", lower=lower)
    for content in ("", "{", "[]"):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"tokenizer_config\.json"):
            Tokenizer.from_folder(tmp_path)
    with pytest.raises(ConfigError, match="no token '</s>'"):
        ids(Tokenizer.from_folder(write(tmp_path, names=NAMES | {"eos_token": "</s>"})), "a cat")


# --- a SentencePiece file without a tokenizer.json


@pytest.fixture
def spiece(tmp_path: Path) -> Path:
    """A folder as SigLIP 1's: the pad token is the end token, and texts are canonicalised."""
    from sentencepiece import SentencePieceTrainer

    learnt = io.BytesIO()
    texts = ["a photo of a cat", "a cat and a dog", "the dog sees a photo"] * 20
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    options = {"vocab_size": 40, "hard_vocab_limit": False, "minloglevel": 2}
    SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=learnt, **ids, **options)
    (tmp_path / "spiece.model").write_bytes(learnt.getvalue())
    names = {"pad_token": "</s>", "eos_token": "</s>", "tokenizer_class": "SiglipTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    return tmp_path


def test_sentencepiece_file(spiece: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    tokenizer, pieces = Tokenizer.from_folder(spiece), SentencePieceProcessor(str(spiece / "spiece.model"))
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (1, 1, None)
    assert tokenizer.vocab_size == pieces.get_piece_size()
    expected = pieces.encode("a photo of a dog")
    assert 2 not in expected
    assert ids(tokenizer, "A photo, of a  DOG!", 20) == expected + [1] * (20 - len(expected))
    assert tokenizer.encode_as_filed(["a photo of a dog", ""], 3) == [[*expected[:2], 1], [1]]
    upper = tokenizer.encode_as_filed(["A PHOTO"], None, do_lower_case=False)[0]
    assert upper == [*pieces.encode("A PHOTO"), 1] != [*pieces.encode("a photo"), 1]
    assert ids(tokenizer, "zq", 20)[:2] != [1, 1]


def test_sentencepiece_file_without_the_tokens_it_should_have(spiece: Path) -> None:
    names = {"pad_token": "<nothing>", "eos_token": "</s>"}
    (spiece / "tokenizer_config.json").write_text(json.dumps(names))
    with pytest.raises(ConfigError, match="no token '<nothing>'"):
        ids(Tokenizer.from_folder(spiece), "a cat")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\xff\xff\xff\xff"])
def test_damaged_sentencepiece_file(spiece: Path, content: bytes) -> None:
    (spiece / "spiece.model").write_bytes(content)
    with pytest.raises(ConfigError, match=r"spiece\.model cannot be read.*Download"):
        ids(Tokenizer.from_folder(spiece), "a cat")


# --- the ids that a file gives


def test_ids_as_filed(tokenizer: Tokenizer) -> None:
    """A typed end token stays, also beside the one that ends the text."""
    assert tokenizer.encode_as_filed(["a cat<eos>"], None)[0].count(1) == 2
    long = tokenizer.encode_as_filed(["a cat " * 50], 7)[0]
    assert len(long) == 7
    assert long.count(1) == 1
    assert long[-1] == 1
    assert len(tokenizer.encode_as_filed(["a cat " * 50], None)[0]) > 50


def test_the_file_is_read_once_by_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, reads = Tokenizer.from_folder(write(tmp_path)), []

    def slow(path: str) -> tokenizers.Tokenizer:
        reads.append(path)
        time.sleep(0.05)
        return tokenizers.Tokenizer.from_file(path)

    library = types.SimpleNamespace(Tokenizer=types.SimpleNamespace(from_file=slow))
    monkeypatch.setattr(room, "tokenizers", library)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: tokenizer.encode_as_filed(["a cat"], None), range(8)))
    assert reads == [str(tokenizer.path)]
    assert all(row == rows[0] for row in rows)


# --- texts that are too long


@pytest.mark.parametrize("post_processor", [CASES["tokenizer_json"]["post_processor"], None])
@pytest.mark.parametrize("ending", ["", "<eos>", "<eos><eos>"])
def test_texts_that_are_cut_are_reported(tmp_path: Path, post_processor: object, ending: str) -> None:
    """With the number of tokens they would have uncut, the one end token included."""
    tokenizer = Tokenizer.from_folder(write(tmp_path, {"post_processor": post_processor}))
    texts = ["a cat" + ending, "cat " * 50 + ending, "", "a cat a" + ending]
    rows = tokenizer.encode(texts, 500, do_lower_case=True).tolist()
    counts = [row.index(1) + 1 for row in rows]
    assert counts[0] == 3
    for length in (3, counts[1] - 1, counts[1], 500):
        cut: list[int] = []
        told = tokenizer.encode(texts, length, do_lower_case=True, on_cut=cut.append)
        assert cut == [count for count in counts if count > length]
        assert told.tolist() == tokenizer.encode(texts, length, do_lower_case=True).tolist()


def test_texts_that_are_cut_as_filed_are_reported(tokenizer: Tokenizer) -> None:
    texts = ["a cat", "cat " * 50, "dog " * 20]
    counts = [len(row) for row in tokenizer.encode_as_filed(texts, None)]
    for limit in (2, 3, max(counts) - 1, max(counts)):
        seen: list[list[int]] = [[], []]
        rows = tokenizer.encode_as_filed(texts, limit, on_cut=seen[0].append)
        options: dict[str, Any] = {"padding": True, "truncation": True, "do_lower_case": None}
        batch = text_batch(tokenizer, texts, limit, **options, on_cut=seen[1].append)
        assert seen == [[count for count in counts if count > limit]] * 2
        assert rows == tokenizer.encode_as_filed(texts, limit)
        assert batch["attention_mask"].sum(axis=1).tolist() == [min(count, limit) for count in counts]
    tokenizer.encode_as_filed(texts, None, on_cut=pytest.fail)


def test_long_texts_can_be_refused(tokenizer: Tokenizer) -> None:
    texts = ["a cat", "cat " * 50]
    count = tokenizer.encode(texts, 500, do_lower_case=True)[1].tolist().index(1) + 1
    whole = tokenizer.encode(texts, count, do_lower_case=True, truncation=False)
    assert whole.tolist() == tokenizer.encode(texts, count, do_lower_case=True).tolist()
    message = f"A text has {count} tokens and truncation is False; expected at most {count - 1}"
    with pytest.raises(InputError, match=message):
        tokenizer.encode(texts, count - 1, do_lower_case=True, truncation=False, on_cut=pytest.fail)
    with pytest.raises(InputError, match=message):
        text_batch(tokenizer, texts, count - 1, padding=True, truncation=False, do_lower_case=None, on_cut=pytest.fail)


def test_the_message_shows_which_text_is_too_long(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"expected at most 8\. It begins with 'dog\\ndog dog"):
        tokenizer.encode(["a cat", "dog\n" + "dog " * 50], 8, do_lower_case=True, truncation=False)
