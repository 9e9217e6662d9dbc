"""What a model gives is finite and has a length, or an error names the item: vectors, scores and tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image
from recipes import RECIPES

from mlx_mm import (
    Conversation,
    PromptCache,
    batches,
    classify,
    encode_audio,
    encode_image,
    encode_text,
    generate,
    load,
    stream_generate,
)
from mlx_mm.errors import InputError, MediaError, MlxMmError, WeightsError
from mlx_mm.processing.vectors import usable

RANDOM = np.random.default_rng(0)
PICTURES = [(RANDOM.random((40, 50, 3)) * 255).astype(np.uint8) for _ in range(3)]
BLACK = np.zeros((40, 50, 3), np.uint8)
SOUNDS = [(np.sin(np.arange(24_000) / (5 + i)).astype(np.float32), 48_000) for i in range(2)]
LONG = np.sin(np.arange(24 * 48_000) / 9).astype(np.float32), 48_000  # three windows
TEXTS = ["a cat", "the dog", "a"]
LABELS = ["cat", "dog"]
ENCODE: dict[str, tuple[Callable[..., Any], Any]] = {
    "text": (encode_text, TEXTS),
    "image": (encode_image, PICTURES),
    "audio": (encode_audio, SOUNDS),
}
NAMES = ["siglip2", "metaclip_2", "jina_clip", "clap", "metaclip_2-text", "metaclip_2-vision", "clap-audio-projection"]
VALUES = {"zero": (0.0, "the length 0"), "nan": (np.nan, "NaN or infinite"), "huge": (3e38, "NaN or infinite|float32")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("results")
    return {
        name: RECIPES[name].write(folder / name) for name in {*NAMES, "siglip2-classifier", "glm46v"} & set(RECIPES)
    }


def spoil(model: Any, value: float) -> None:
    """All weights hold one value; scales of logits stay."""
    arrays = [(name, array) for name, array in tree_flatten(model.parameters()) if "logit" not in name]
    model.load_weights([(name, mx.full(array.shape, value)) for name, array in arrays], strict=False)


@pytest.mark.parametrize("name", NAMES)
def test_spoiled_weights_give_no_vectors(name: str, folders: dict[str, Path]) -> None:
    model, processor = load(folders[name])
    for value, found in VALUES.values():
        found = "NaN" if name == "clap" else found  # which divides by the length itself
        spoil(model, value)
        for modality in model.modalities:
            encode, items = ENCODE[modality]
            word = "sound" if modality == "audio" else modality
            for options in ({}, {"normalize": False}, {"dim": 5}, {"dim": 5, "normalize": False}, {"batch_size": 1}):
                with pytest.raises(
                    WeightsError, match=rf"vector of {word} number \d.* has .*({found}).*dtype='float32'"
                ):
                    encode(model, processor, items, **options)
            with pytest.raises(WeightsError, match=f"{word} number 0"):
                encode(model, processor, items[0])
        if {"text", "image"} <= set(model.modalities):
            with pytest.raises(WeightsError, match=r"text number 0 \('This is a photo of cat\.'\)"):
                classify(model, processor, PICTURES[0], LABELS)


def test_messages_name_the_item(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = load(folders["metaclip_2"])
    picture = tmp_path / "black.png"
    Image.fromarray(BLACK).save(picture)
    blind(model, monkeypatch)
    with pytest.raises(WeightsError, match=r"image number 2 \(.*black\.png\) has NaN or infinite numbers"):
        encode_image(model, processor, [*PICTURES[:2], picture])
    with pytest.raises(WeightsError, match=r"image number 1 has NaN"):
        classify(model, processor, [PICTURES[0], BLACK, PICTURES[1]], LABELS)
    spoil(model, 0.0)
    with pytest.raises(WeightsError, match=r"text number 0 \('xx.*…"):
        encode_text(model, processor, "x" * 500)


def blind(model: Any, monkeypatch: pytest.MonkeyPatch, value: float = np.nan) -> None:
    """Of black pictures the vectors hold that value."""
    usual = model.get_image_features

    def features(pixel_values: mx.array) -> mx.array:
        black = (pixel_values.max(axis=(1, 2, 3)) < -1)[:, None]  # below the mean in every place
        return mx.where(black, value, usual(pixel_values))

    monkeypatch.setattr(model, "get_image_features", features)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 3e38])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_with_on_error_the_item_fails_alone(
    value: float, batch_size: int, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load(folders["metaclip_2"])
    right, scores = encode_image(model, processor, PICTURES), classify(model, processor, PICTURES, LABELS)
    blind(model, monkeypatch, value)
    items = [BLACK, PICTURES[0], b"no picture", *PICTURES[1:], BLACK]
    seen: dict[int, MlxMmError] = {}
    vectors = encode_image(model, processor, items, batch_size=batch_size, on_error=seen.__setitem__)
    assert np.abs(vectors - right).max() < 1e-6
    assert {index: type(error) for index, error in seen.items()} == {0: WeightsError, 2: MediaError, 5: WeightsError}
    seen.clear()
    rows = classify(model, processor, items, LABELS, batch_size=batch_size, on_error=seen.__setitem__)
    assert sorted(seen) == [0, 2, 5]
    for row, want in zip(rows, scores, strict=True):
        assert dict(row) == pytest.approx(dict(want), abs=1e-6)
    with pytest.raises(WeightsError, match="image number 0"):
        encode_image(model, processor, [BLACK, PICTURES[0], BLACK])


def test_numbers_beyond_dim_do_not_matter_and_those_before_it_do(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load(folders["metaclip_2"])
    usual = model.get_text_features
    monkeypatch.setattr(model, "get_text_features", lambda **batch: mx.where(mx.arange(96) < 7, 0, usual(**batch)))
    assert encode_text(model, processor, TEXTS).shape == (3, 96)
    for normalize in (True, False):
        with pytest.raises(WeightsError, match=r"the length 0 in 7 numbers; .*without dim"):
            encode_text(model, processor, TEXTS, dim=7, normalize=normalize)
    assert encode_text(model, processor, TEXTS, dim=8).shape == (3, 8)


def test_sounds_of_which_one_window_is_none(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = load(folders["clap"])
    right = encode_audio(model, processor, SOUNDS)
    usual, calls = model.get_audio_features, []

    def features(**batch: mx.array) -> mx.array:
        calls.append(1)
        return usual(**batch) * (np.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(model, "get_audio_features", features)
    with pytest.raises(WeightsError, match="sound number 0 has NaN"):
        encode_audio(model, processor, LONG, batch_size=1)
    calls.clear()
    seen: list[tuple[int, type]] = []
    vectors = encode_audio(
        model, processor, [LONG, *SOUNDS], batch_size=1, on_error=lambda index, error: seen.append((index, type(error)))
    )
    assert seen == [(0, WeightsError)]
    assert np.array_equal(vectors, right)


def test_windows_that_cancel_out(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = load(folders["clap"])
    signs = [1, -1]
    monkeypatch.setattr(
        model, "get_audio_features", lambda input_features, is_longer: signs.pop(0) * mx.ones((len(input_features), 8))
    )
    with pytest.raises(WeightsError, match="sound number 0 has the length 0 in 8 numbers"):
        encode_audio(model, processor, (np.tile(LONG[0], 2)[: 20 * 48_000], 48_000), batch_size=1)


def test_templates_that_cancel_out(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = load(folders["metaclip_2"])
    rows = mx.array([[1.0, 0], [0, 1], [-1, 0], [0, 1]])
    monkeypatch.setattr(model, "get_text_features", lambda input_ids, attention_mask: rows[: len(input_ids)])
    monkeypatch.setattr(batches, "run_in_parts", lambda function, batch, weights: function(**batch))
    with pytest.raises(WeightsError, match=r"mean over the templates of label number 0 \('cat'\) has the length 0"):
        classify(model, processor, PICTURES[0], LABELS, template=["a {}", "b {}"])


def test_scores_that_are_none(folders: dict[str, Path]) -> None:
    model, processor = load(folders["siglip2"])
    model.logit_scale = mx.full(model.logit_scale.shape, np.nan)
    with pytest.raises(WeightsError, match=r"scores .* NaN"):
        classify(model, processor, PICTURES, LABELS, template="{}")
    model, processor = load(folders["siglip2-classifier"])
    spoil(model, np.nan)
    with pytest.raises(WeightsError, match="scores of image number 0 have NaN"):
        classify(model, processor, PICTURES)
    seen: list[int] = []
    assert classify(model, processor, PICTURES, on_error=lambda index, _: seen.append(index)) == []
    assert seen == [0, 1, 2]
    spoil(model, 0.0)  # equal scores of all labels, which are scores
    assert [score for _, score in classify(model, processor, PICTURES[0])] == pytest.approx([1 / 3] * 3)


def test_what_is_usable() -> None:
    rows = np.array([[1, 0], [0, 0], [np.nan, 1], [np.inf, 1], [3e38, 3e38], [1e-30, 0], [1e-18, 0]], np.float32)
    assert usable(rows).tolist() == [True, False, False, False, False, False, True]
    assert usable(rows, scores=True).tolist() == [True, True, False, False, False, True, True]


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_k": 5, "seed": 1}, {"repetition_penalty": 1.5}])
def test_logits_that_are_none_give_no_token(value: float, options: dict[str, Any], folders: dict[str, Path]) -> None:
    model, processor = load(folders["glm46v"])
    right = generate(model, processor, "q", max_tokens=4, **options).raw
    head = model.language_model.lm_head.weight
    model.language_model.lm_head.weight = mx.full(head.shape, value)
    cache = PromptCache()
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"logits for token number 0 .* not finite; .*dtype='float32'"):
            generate(model, processor, "q", max_tokens=4, cache=cache, **options)
    model.language_model.lm_head.weight = head
    assert generate(model, processor, "q", max_tokens=4, **options).raw == right


def test_logits_that_break_later(folders: dict[str, Path]) -> None:
    """What came before is given, the cache has it, and a conversation keeps it."""
    model, processor = load(folders["glm46v"])
    right = generate(model, processor, "q", max_tokens=6)
    usual, calls = type(model).request, []

    def request(batch: Any) -> Any:
        own = usual(model, batch)

        class Breaking:
            layers, token_keys, prompt_length = own.layers, own.token_keys, own.prompt_length
            broken = True

            def __call__(self, input_ids: mx.array, cache: Any) -> mx.array:
                done = cache[0].offset - self.prompt_length
                return own(input_ids, cache=cache) * (np.nan if done >= 2 and not calls else 1)

        return Breaking()

    model.request = request
    cache, pieces = PromptCache(), []
    with pytest.raises(WeightsError, match="token number 3 of the answer"):
        pieces.extend(stream_generate(model, processor, "q", max_tokens=6, cache=cache))
    assert right.raw.startswith("".join(piece.raw for piece in pieces))
    assert len(pieces) == 3
    chat = Conversation(model, processor)
    with pytest.raises(WeightsError):
        list(chat.ask("q", max_tokens=6))
    calls.append(1)
    assert generate(model, processor, "q", max_tokens=6, cache=cache).raw == right.raw


# --- which errors are an item's ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"max_num_patches": 0}, {"max_num_patches": "8"}, {"dim": 0}, {"dim": 10**6}, {"batch_size": 0}]
)
def test_errors_of_settings_are_raised_at_once(options: dict[str, Any], folders: dict[str, Path]) -> None:
    seen: list[int] = []
    with pytest.raises(InputError, match=next(iter(options))):
        encode_image(*load(folders["siglip2"]), PICTURES, on_error=lambda index, _: seen.append(index), **options)
    assert seen == []


def test_an_option_of_another_family_is_a_setting(folders: dict[str, Path]) -> None:
    for name in ("jina_clip", "metaclip_2"):
        with pytest.raises(InputError, match="max_num_patches"):
            encode_image(*load(folders[name]), [], max_num_patches=4, on_error=lambda *_: None)
    for options in ({"truncation": "fusion"}, {"truncation": "all"}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(options))):
            encode_audio(*load(folders["clap"]), [], on_error=lambda *_: None, **options)


def test_what_only_one_picture_meets_is_its_own(folders: dict[str, Path], tmp_path: Path) -> None:
    """Also where it is an argument that does not fit this picture, and where a file is gone when it is its turn."""
    model, processor = load(folders["siglip2"])
    right = encode_image(model, processor, PICTURES[:1])
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for path in paths:
        Image.fromarray(PICTURES[0]).save(path)
    seen: dict[int, MlxMmError] = {}

    def vanish(index: int, error: MlxMmError) -> None:
        seen[index] = error
        for path in paths[30:]:
            path.unlink(missing_ok=True)

    odd = [5, None, "x" * 300 + ".png", tmp_path, np.zeros((2, 2), complex), {"a": 1}, "data:,", "\0.png"]
    vectors = encode_image(model, processor, [*odd, *paths], batch_size=1, on_error=vanish)
    assert sorted(seen)[: len(odd)] == list(range(len(odd)))
    assert np.abs(vectors - right).max() < 1e-6
    assert len(vectors) + len(seen) == len(odd) + len(paths)
    assert {type(error) for error in seen.values()} == {MediaError}
    fixed = dataclasses.replace(processor.settings, do_resize=False)
    processor.settings = fixed
    fitting = PICTURES[0][:16, :24]  # whole patches, within the budget
    seen.clear()
    vectors = encode_image(model, processor, [PICTURES[0], fitting], on_error=seen.__setitem__)
    assert list(seen) == [0]
    assert len(vectors) == 1
    with pytest.raises(InputError, match="do_resize"):
        encode_image(model, processor, [fitting, PICTURES[0]])
