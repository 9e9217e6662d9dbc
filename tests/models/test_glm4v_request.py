"""A prompt in pieces, after a cache, beside others: always what it is in one piece. Rows of the peers' mistakes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from comparing import LONG, sanitized
from glm_models import answer, answer_by_whole_prompts, glm_model, padded, prompt, request_of, worst
from glm_tiny import DENSE, GROUPED, MOE, glm_config, glm_weights
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import (
    BatchKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
    trim_prompt_cache,
)

from mlx_mm.backend import blas
from mlx_mm.errors import InputError
from mlx_mm.models.glm4v import request as room
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.inputs import position_table
from mlx_mm.models.glm4v.language import LanguageModel
from mlx_mm.models.glm4v.model import Model
from mlx_mm.models.glm4v.request import Request

pytestmark = [*LONG]

LOGIT = 2e-5
TEXT = prompt(10, 11, 12, 13, 14, 15, 16)
ONE = prompt(10, 11, (4, 6), 12, 13, 14)
MANY = prompt(10, (8, 4), 11, (4, 6), 12, 13, (2, 4), 14)
BOTH = prompt(10, (4, 6), 11, (3, 4, 4), 12, (8, 4), 13, 14)
KINDS = {"text": TEXT, "image": ONE, "images": MANY, "images and video": BOTH}


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> None:
    """The matrix library that `load` chooses, whichever test runs first."""
    blas.use_fast_blas()


def in_pieces(request: Request, ids: mx.array, cache: Any, step: int) -> mx.array:
    """Logits of all tokens, `step` of them at a time."""
    parts = [request(ids[:, i : i + step], cache, all_logits=True) for i in range(0, ids.shape[1], step)]
    return mx.concatenate(parts, axis=1)


# --- pieces of a prompt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 7, 16])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", [DENSE, MOE])
def test_peers_row_03_prefill_in_chunks(kind: str, name: str, step: int) -> None:
    batch = KINDS[name]
    request = request_of(glm_model(kind), batch)
    right = glm_model(kind)(**batch).logits
    assert worst(in_pieces(request, batch["input_ids"], make_prompt_cache(request), step), right) < LOGIT


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", [DENSE, MOE, GROUPED])
def test_token_loop_of_mlx_lm(kind: str, name: str) -> None:
    """A small prefill step, one in the middle of a picture, all at once: the same answer as without any cache."""
    right = answer_by_whole_prompts(glm_model(kind), KINDS[name], 6)
    for step in (2048, 5):
        assert answer(glm_model(kind), KINDS[name], 6, prefill_step_size=step) == right


def test_positions_of_decoding_in_later_chunks_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's mistake: text positions for what comes after the first chunk."""
    batch = prompt(10, (8, 4), 11, (4, 6), 12)
    count = batch["input_ids"].shape[1]
    monkeypatch.setattr(room, "position_table", lambda _: mx.broadcast_to(mx.arange(count), (3, 1, count)))
    request = request_of(glm_model(), batch)
    got = in_pieces(request, batch["input_ids"], make_prompt_cache(request), 9)
    assert worst(got[:, -1], glm_model()(**batch).logits[:, -1]) > 1e-2


def test_a_piece_beyond_the_prompt() -> None:
    """Tokens of the prompt and tokens after it in one piece, as in speculative decoding."""
    ids = mx.concatenate([ONE["input_ids"], mx.array([[40, 41, 42]])], axis=1)
    longer = prompt(10, 11, (4, 6), 12, 13, 14, 40, 41, 42)
    request = request_of(glm_model(), ONE)
    assert worst(in_pieces(request, ids, make_prompt_cache(request), 7), glm_model()(**longer).logits) < LOGIT


def test_last_logits_alone() -> None:
    request = request_of(glm_model(), ONE)
    last = request(ONE["input_ids"], make_prompt_cache(request))
    assert last.shape == (1, 1, 512)
    assert worst(last[:, 0], request(ONE["input_ids"], all_logits=True)[:, -1]) < LOGIT


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_peers_row_04_many_pictures(count: int) -> None:
    sizes = [(4, 6), (8, 4), (2, 2), (6, 10), (4, 4)][:count]
    batch = prompt(10, *[part for i, size in enumerate(sizes) for part in (size, 30 + i)])
    assert answer(glm_model(), batch, prefill_step_size=8) == answer_by_whole_prompts(glm_model(), batch)


@pytest.mark.parametrize("size", [(2, 2), (8, 10), (14, 4), (2, 16)])
def test_peers_row_01_other_sizes(size: tuple[int, int]) -> None:
    """No picture has the size of the position table, 6×6; the tower's own numbers are in test_glm4v_vision."""
    batch = prompt(10, size, 11)
    assert answer(glm_model(), batch, prefill_step_size=4) == answer_by_whole_prompts(glm_model(), batch)


def test_peers_row_02_theta_under_rope_parameters() -> None:
    config = glm_config()
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    old = {"rope_theta": rope["rope_theta"], "partial_rotary_factor": rope["partial_rotary_factor"]}
    old["rope_scaling"] = {"type": "default", "mrope_section": rope["mrope_section"]}
    right = glm_model()(**TEXT).logits
    for other, fits in ((text | old, True), (text | old | {"rope_theta": 10000.0}, False)):
        model = Model(ModelConfig.from_dict(config | {"text_config": other}))
        model.load_weights(list(sanitized(model, glm_weights(glm_config())).items()))
        assert (worst(model(**TEXT).logits, right) < 1e-6) == fits


def test_peers_row_10_glm46v_is_known() -> None:
    assert glm_config()["model_type"] == "glm46v"
    assert type(glm_model(DENSE, "Glm46VForConditionalGeneration")) is Model


# --- caches -------------------------------------------------------------------------------------------------------


class Counting:
    """A model whose vision tower counts its patches."""

    def __init__(self, model: Any):
        self.model, self.patches, tower = model, [], model.vision_tower

        def counted(pixels: mx.array, grids: Any) -> Any:
            self.patches.append(pixels.shape[0])
            return tower(pixels, grids)

        self.vision_tower = counted

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


SECOND = ((4, 4), 40, 41)


@pytest.mark.parametrize("kind", [DENSE, MOE])
@pytest.mark.parametrize("more", [(30, 31), SECOND, (30, (2, 2, 4), 31)], ids=["text", "image", "video"])
def test_peers_row_08_second_turn(kind: str, more: tuple[Any, ...]) -> None:
    """The cache of the first turn, answer included, and the rest of the conversation."""
    first = request_of(glm_model(kind), ONE)
    cache = make_prompt_cache(first)
    tokens = [t for t, _ in generate_step(ONE["input_ids"][0], first, max_tokens=4, prompt_cache=cache)]
    kept = cache[0].offset
    both = prompt(10, 11, (4, 6), 12, 13, 14, *tokens, *more)
    model = Counting(glm_model(kind))
    second = request_of(model, both)
    assert model.patches == []
    rest = both["input_ids"][0, kept:]
    got = [t for t, _ in generate_step(rest, second, max_tokens=8, prompt_cache=cache, prefill_step_size=3)]
    assert got == answer_by_whole_prompts(glm_model(kind), both)
    new = sum(np.prod(part) for part in more if isinstance(part, tuple))
    assert sum(model.patches) == new  # the first turn's picture is in the cache


def test_old_delta_for_new_pictures_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's and older transformers' way: all of the second turn at count + the first turn's delta."""
    first = request_of(glm_model(), ONE)
    cache = make_prompt_cache(first)
    first(ONE["input_ids"], cache)
    both = prompt(10, 11, (4, 6), 12, 13, 14, *SECOND)
    kept, right = first.prompt_length, glm_model()(**both).logits[:, -1]
    delta = int(glm_model()(**ONE).rope_deltas[0])

    def old(layout: Any) -> mx.array:
        table = np.array(position_table(layout))
        table[:, :, kept:] = np.arange(kept, table.shape[-1]) + delta
        return mx.array(table)

    monkeypatch.setattr(room, "position_table", old)
    second = request_of(glm_model(), both)
    assert worst(second(both["input_ids"][:, kept:], cache)[:, 0], right) > 1e-2


@pytest.mark.parametrize("left", [3, 6, 9])
def test_trimmed_cache(left: int) -> None:
    """Back before a picture, into it, or behind it."""
    request = request_of(glm_model(), MANY)
    cache, ids = make_prompt_cache(request), MANY["input_ids"]
    request(ids, cache)
    for token in (40, 41):
        request(mx.array([[token]]), cache)
    trim_prompt_cache(cache, ids.shape[1] + 2 - left)
    assert worst(request(ids[:, left:], cache, all_logits=True), glm_model()(**MANY).logits[:, left:]) < LOGIT


@pytest.mark.parametrize("step", [2048, 5])
def test_quantised_cache(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Close to the cache of floats; with wrong positions it is far."""
    request = request_of(glm_model(), BOTH)
    quantised = [QuantizedKVCache(group_size=32, bits=8) for _ in request.layers]
    right = glm_model()(**BOTH).logits
    assert worst(in_pieces(request, BOTH["input_ids"], quantised, step), right) < 0.1
    monkeypatch.setattr(room, "position_table", lambda layout: position_table(layout) * 0)
    request = request_of(glm_model(), BOTH)
    quantised = [QuantizedKVCache(group_size=32, bits=8) for _ in request.layers]
    assert worst(in_pieces(request, BOTH["input_ids"], quantised, step), right) > 0.3
    monkeypatch.undo()
    options = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0, "prefill_step_size": step}
    assert len(answer(glm_model(), BOTH, **options)) == 8


def test_rotating_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to a full cache while all fits; beyond that it runs, and positions keep counting."""
    right = answer_by_whole_prompts(glm_model(), MANY)
    assert answer(glm_model(), MANY, max_kv_size=64) == right
    assert len(answer(glm_model(), MANY, 40, max_kv_size=32, prefill_step_size=8)) == 40
    request = request_of(glm_model(), ONE)
    cache = make_prompt_cache(request, max_kv_size=16)
    assert isinstance(cache[0], RotatingKVCache)
    request(ONE["input_ids"], cache)
    places, usual = [], LanguageModel.rotation_from

    def recorded(self: Any, place: Any) -> Any:
        places.append(place)
        return usual(self, place)

    monkeypatch.setattr(LanguageModel, "rotation_from", recorded)
    for token in range(30, 40):
        request(mx.array([[token]]), cache)
    assert cache[0].offset == request.prompt_length + 10
    delta = int(glm_model()(**ONE).rope_deltas[0])
    assert places == [request.prompt_length + delta + i for i in range(10)]


def test_requests_may_share_one_cache_file(tmp_path: Any) -> None:
    """A cache written to a file and read again serves another request of the same prompt."""
    from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

    request = request_of(glm_model(), ONE)
    cache = make_prompt_cache(request)
    request(ONE["input_ids"][:, :8], cache)
    save_prompt_cache(str(tmp_path / "cache.safetensors"), cache)
    again = load_prompt_cache(str(tmp_path / "cache.safetensors"))
    got = request_of(glm_model(), ONE)(ONE["input_ids"][:, 8:], again, all_logits=True)
    assert worst(got, glm_model()(**ONE).logits[:, 8:]) < LOGIT


# --- several at once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [2048, 6])
@pytest.mark.parametrize("kind", [DENSE, MOE, GROUPED])
def test_peers_rows_05_and_06_left_padded_batch(kind: str, step: int) -> None:
    """Prompts of unequal length, with and without pictures, on a fresh model: each answers as alone."""
    singles = [TEXT, ONE, MANY, BOTH, prompt(10, 11)]
    batch, model = padded(singles), glm_model(kind)
    request = request_of(model, batch)
    assert request.left_padding == [int(n) for n in (1 - batch["attention_mask"]).sum(axis=1).tolist()]
    cache = [BatchKVCache(request.left_padding) for _ in request.layers]
    in_pieces(request, batch["input_ids"][:, :-1], cache, step)
    rows: list[list[int]] = [[] for _ in singles]
    logits = request(batch["input_ids"][:, -1:], cache)
    for _ in range(8):
        tokens = logits[:, -1].argmax(axis=-1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.append(token)
        logits = request(tokens[:, None], cache)
    assert rows == [answer(model, single) for single in singles]


def test_batch_without_a_cache() -> None:
    singles = [TEXT, ONE, MANY]
    batch = padded(singles)
    got = request_of(glm_model(), batch)(batch["input_ids"])
    for row, single in enumerate(singles):
        assert worst(got[row, 0], glm_model()(**single).logits[0, -1]) < LOGIT


def test_batch_of_equal_lengths_needs_no_padding() -> None:
    batch = {name: mx.concatenate([value, value]) for name, value in ONE.items()}
    request = request_of(glm_model(), batch)
    got = in_pieces(request, batch["input_ids"], make_prompt_cache(request), 5)
    right = glm_model()(**ONE).logits[0]
    assert worst(got[0], right) < LOGIT
    assert worst(got[1], right) < LOGIT


def test_peers_row_07_two_requests_in_turns() -> None:
    model = glm_model()
    batches = [ONE, MANY, TEXT]
    loops = [generate_step(b["input_ids"][0], request_of(model, b), max_tokens=8, prefill_step_size=4) for b in batches]
    rows = [[token for token, _ in steps] for steps in zip(*loops, strict=True)]
    assert [list(row) for row in zip(*rows, strict=True)] == [answer_by_whole_prompts(model, b) for b in batches]


# --- pictures -----------------------------------------------------------------------------------------------------


def test_peers_row_13_pictures_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each patch goes through the tower once, in parts that grow with a picture and not with their number."""
    batch = prompt(10, (4, 6), 11, (4, 4, 4), 12, (8, 4), 13, (2, 2), 14)
    right = answer(glm_model(), batch)
    for limit, parts in ((8192, [24, 64, 36]), (32, [24, 32, 32, 32, 4]), (1, [24, 16, 16, 16, 16, 32, 4])):
        monkeypatch.setattr(room, "MAX_PATCHES_AT_ONCE", limit)
        model = Counting(glm_model())
        assert answer(model, batch) == right
        assert model.patches == parts


def test_pictures_are_encoded_when_their_tokens_come() -> None:
    model = Counting(glm_model())
    request = request_of(model, MANY)
    cache, ids = make_prompt_cache(request), MANY["input_ids"]
    request(ids[:, :2], cache)
    assert model.patches == []
    request(ids[:, 2:4], cache)
    assert model.patches == [32]
    request(ids[:, 4:], cache)
    assert model.patches == [32, 32]


# --- errors -------------------------------------------------------------------------------------------------------


def test_padding_needs_a_cache_that_knows_it() -> None:
    batch = padded([TEXT, ONE])
    request = request_of(glm_model(), batch)
    with pytest.raises(InputError, match="BatchKVCache"):
        request(batch["input_ids"], [KVCache() for _ in request.layers])
    with pytest.raises(InputError, match="other padding"):
        request(batch["input_ids"], [BatchKVCache([0, 0]) for _ in request.layers])


@pytest.mark.parametrize("mask", [[[1, 1, 1, 1, 1, 1, 0]], [[1, 0, 1, 1, 1, 1, 1]], [[0] * 7]])
def test_padding_is_at_the_left(mask: list[list[int]]) -> None:
    with pytest.raises(InputError, match="expected padding at the left"):
        request_of(glm_model(), TEXT | {"attention_mask": mx.array(mask)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": None}, "There are 0 patches of pixels; the grids have 24"),
        ({"pixel_values": mx.zeros((20, 1176))}, "There are 20 patches of pixels; the grids have 24"),
        ({"image_grid_thw": None}, "more runs of image tokens"),
        ({"image_grid_thw": mx.array([[1, 4, 4]])}, "6 image tokens stand in a row"),
        ({"image_grid_thw": mx.array([[1, 4, 6], [1, 2, 2]])}, "1 of 2 image grids have no tokens"),
    ],
)
def test_pictures_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        request_of(glm_model(), {k: v for k, v in (ONE | change).items() if v is not None})
