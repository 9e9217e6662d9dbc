"""Vectors and scores: order, batches, normalisation, the score formulas, and what is refused."""

from __future__ import annotations

import io
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from tiny import (
    classification_shapes,
    golden_weights,
    hashed,
    tiny_config,
    tiny_weights,
    write_checkpoint,
)

from mlx_mm import batches, classify, encode_image, encode_text, load, to_mlx
from mlx_mm.backend import border, device
from mlx_mm.classify import encode_labels
from mlx_mm.errors import InputError, MediaError, MlxMmError, ModalityError
from mlx_mm.processing import chunks

# Heights and widths that give NaFlex batches of very different lengths, the longest first and last.
SIZES = [(60, 60), (8, 90), (33, 40), (200, 21), (12, 12), (90, 8), (30, 64), (64, 30), (48, 48)]
TEXTS = ["a cat", "dog", "hello, dog!", "a", "", "cat cat cat", "Katze", "猫", "a dog a cat a dog a cat a dog a cat"]
EQUAL = 1e-6
LABELS = ["cat", "dog", "hello"]


def picture(height: int, width: int, k: int) -> Image.Image:
    return Image.fromarray((np.abs(hashed((height, width, 3), k)) * 255).astype(np.uint8))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [picture(height, width, k) for k, (height, width) in enumerate(SIZES)]


def joint_model(folder: Path, family: str) -> tuple[Any, Any]:
    """The shared tiny model with room for the template and its label: 64 tokens, as SigLIP has."""
    config = tiny_config(family)
    config["text_config"] |= {"max_position_embeddings": 64}
    return load(write_checkpoint(folder, config, tiny_weights(config)))


@pytest.fixture(scope="module")
def naflex(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return joint_model(tmp_path_factory.mktemp("naflex"), "siglip2")


@pytest.fixture(scope="module")
def fixres(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return joint_model(tmp_path_factory.mktemp("fixres"), "siglip")


@pytest.fixture(scope="module", params=["siglip", "siglip2"])
def joint(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return request.getfixturevalue({"siglip": "fixres", "siglip2": "naflex"}[request.param])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load(classifier_folder(tmp_path_factory.mktemp("classifier")))


def classifier_folder(folder: Path, **extra: Any) -> Path:
    config = {**tiny_config("siglip2"), "architectures": ["Siglip2ForImageClassification"]}
    config |= {"id2label": {str(i): label for i, label in enumerate(LABELS)}, **extra}
    return write_checkpoint(folder, config, golden_weights(classification_shapes(config, len(LABELS))))


# --- vectors ----------------------------------------------------------------------------------------------------


def test_pictures_in_any_batch_equal_singles_in_input_order(
    joint: tuple[Any, Any], pictures: list[Image.Image]
) -> None:
    singles = np.stack([encode_image(*joint, item) for item in pictures])
    apart = np.abs(singles[:, None] - singles[None]).max(-1) + np.eye(len(singles))
    assert apart.min() > 100 * EQUAL  # otherwise a wrong order could not be seen
    for batch_size in (1, 2, 8):
        together = encode_image(*joint, pictures, batch_size=batch_size)
        assert np.abs(together - singles).max() <= EQUAL


def test_texts_in_any_batch_equal_singles_in_input_order(joint: tuple[Any, Any]) -> None:
    singles = np.stack([encode_text(*joint, text) for text in TEXTS])
    apart = np.abs(singles[:, None] - singles[None]).max(-1) + np.eye(len(singles))
    assert apart.min() > 100 * EQUAL
    for batch_size in (1, 2, 8):
        assert np.abs(encode_text(*joint, TEXTS, batch_size=batch_size) - singles).max() <= EQUAL


def test_order_holds_over_many_windows(naflex: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    """More pictures than one window of prepared batches, so that the sorting by size starts anew."""
    many = pictures * 3
    assert len(many) > 2 * batches.BATCHES_PER_WINDOW
    expected = np.tile(encode_image(*naflex, pictures), (3, 1))
    assert np.abs(encode_image(*naflex, many, batch_size=1) - expected).max() <= EQUAL


def test_batches_hold_pictures_of_like_size(naflex: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures must not be padded to the length of a large one when another order avoids it."""
    model, processor = naflex
    sizes: list[list[int]] = []
    collate = processor.collate

    def watch(items: list[Any]) -> Any:
        if len(items) > 1:  # the processor also calls it for each picture alone
            sizes.append([item["pixel_values"].shape[1] for item in items])
        return collate(items)

    monkeypatch.setattr(processor, "collate", watch)
    long, short = picture(60, 60, 1), picture(4, 200, 2)  # different numbers of patches within the budget
    encode_image(model, processor, [long, short] * 4, batch_size=4)
    assert [len(set(batch)) for batch in sizes] == [1, 1]
    assert sizes[0] != sizes[1]


def test_iterators_and_tuples_are_lists(joint: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    texts = encode_text(*joint, TEXTS)
    assert np.array_equal(encode_text(*joint, (text for text in TEXTS)), texts)
    assert np.array_equal(encode_text(*joint, tuple(TEXTS)), texts)
    assert np.array_equal(encode_image(*joint, iter(pictures)), encode_image(*joint, pictures))


def test_a_gpu_gives_the_same_vectors_in_the_same_order(
    joint: tuple[Any, Any], pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = encode_text(*joint, TEXTS), encode_image(*joint, pictures)
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    for batch_size in (1, 2, 8):
        assert np.abs(encode_text(*joint, TEXTS, batch_size=batch_size) - right[0]).max() <= EQUAL
        assert np.abs(encode_image(*joint, pictures, batch_size=batch_size) - right[1]).max() <= EQUAL


def test_a_gpu_has_the_next_batch_before_numbers_are_copied(
    joint: tuple[Any, Any], pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a batch is prepared, joined and brought over without waiting for another."""
    events: list[str] = []
    submit, copy = mx.async_eval, np.array
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: events.append("submit") or submit(*arrays))
    numpy = SimpleNamespace(**vars(np))
    numpy.array = lambda values: events.append("copy") or copy(values)
    monkeypatch.setattr(border, "np", numpy)
    encode_image(*joint, pictures, batch_size=3)
    assert events == ["submit", "submit", "copy", "submit", "copy", "copy"]


def test_half_precision_is_turned_before_it_is_submitted(
    joint: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[mx.Dtype] = []
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    monkeypatch.setattr(mx, "async_eval", lambda array: submitted.append(array.dtype))
    model, processor = joint
    features = model.get_text_features
    monkeypatch.setattr(model, "get_text_features", lambda **batch: features(**batch).astype(mx.bfloat16))
    encode_text(model, processor, TEXTS, batch_size=3)
    assert submitted == [mx.float32] * 3


def test_a_processor_of_another_kind_is_refused(joint: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    other = SimpleNamespace(kind="encoder", modalities=("audio",), collate=None)
    for verb, item in ((encode_text, "a cat"), (encode_image, pictures[0])):
        with pytest.raises(InputError, match=r"does not prepare \w+\. Use the one that `load` gives"):
            verb(joint[0], other, item)


def test_every_kind_of_picture_gives_the_same_vector(joint: tuple[Any, Any], tmp_path: Path) -> None:
    image = picture(30, 50, 3)
    path = tmp_path / "picture.png"
    image.save(path)
    kinds: list[Any] = [image, np.asarray(image), path, str(path), path.read_bytes()]
    vectors = encode_image(*joint, kinds)
    assert np.abs(vectors - vectors[0]).max() <= EQUAL


@pytest.mark.parametrize("dim", [1, 7, 127, 128])
def test_dim_cuts_first_and_normalises_then(joint: tuple[Any, Any], dim: int) -> None:
    raw = encode_text(*joint, TEXTS, normalize=False)[:, :dim]
    cut = encode_text(*joint, TEXTS, dim=dim)
    assert cut.shape == (len(TEXTS), dim)
    assert np.abs(cut - raw / np.linalg.norm(raw, axis=-1, keepdims=True)).max() <= EQUAL
    assert np.array_equal(encode_text(*joint, TEXTS, dim=dim, normalize=False), raw)
    assert encode_text(*joint, "a cat", dim=dim).shape == (dim,)


@pytest.mark.parametrize("dim", [129, 10**9])
def test_a_dim_above_the_vectors_is_found_at_the_first_batch(
    joint: tuple[Any, Any], pictures: list[Image.Image], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    run = batches.run_in_parts
    monkeypatch.setattr(batches, "run_in_parts", lambda *args: calls.append(1) or run(*args))
    with pytest.raises(InputError, match=rf"dim is {dim}; the vectors have 128 numbers, so expected 1 to 128"):
        encode_text(*joint, TEXTS, dim=dim, batch_size=1)
    with pytest.raises(InputError, match=rf"dim is {dim}; .*128"):
        encode_image(*joint, pictures, dim=dim, batch_size=1)
    assert len(calls) == 2


@pytest.mark.parametrize("dim", [0, -1, True, 2.0, "3"])
def test_a_dim_that_is_no_count_is_found_before_anything_runs(joint: tuple[Any, Any], dim: Any) -> None:
    model, processor = joint
    for encode in (encode_text, encode_image):
        with pytest.raises(InputError, match=rf"dim is {dim!r}; expected a whole number of 1 or more"):
            encode(model, None, [object()], dim=dim)
    assert encode_text(model, processor, "a cat", dim=np.int64(3)).shape == (3,)


def test_vectors_are_cut_per_batch(joint: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut off is not kept until the end."""
    whole: list[weakref.ref[np.ndarray]] = []
    copy = batches.to_numpy

    def watch(results: Any) -> Any:
        for key, vectors in copy(results):
            assert [ref() for ref in whole[:-1]] == [None] * len(whole[:-1])
            whole.append(weakref.ref(vectors))
            yield key, vectors

    monkeypatch.setattr(batches, "to_numpy", watch)
    assert encode_text(*joint, TEXTS, batch_size=2, dim=3).flags.c_contiguous
    assert len(whole) == 5


@pytest.mark.parametrize("batch_size", [0, -3, True, 2.5])
def test_batch_size_out_of_range(joint: tuple[Any, Any], pictures: list[Image.Image], batch_size: Any) -> None:
    with pytest.raises(InputError, match=f"batch_size is {batch_size}; expected a whole number of 1 or more"):
        encode_text(*joint, TEXTS, batch_size=batch_size)
    with pytest.raises(InputError, match=f"batch_size is {batch_size}"):
        encode_image(*joint, pictures, batch_size=batch_size)
    with pytest.raises(InputError, match=f"batch_size is {batch_size}"):
        classify(*joint, pictures, LABELS, batch_size=batch_size)


def test_nothing_in_nothing_out(joint: tuple[Any, Any]) -> None:
    assert len(encode_text(*joint, [])) == 0
    assert len(encode_image(*joint, [])) == 0
    assert classify(*joint, [], LABELS) == []


def test_a_text_of_100_000_characters(joint: tuple[Any, Any]) -> None:
    """Cut to the model's length, so what follows the cut changes nothing."""
    long = "cat " * 25_000
    with pytest.warns(UserWarning, match="1 of 1 texts is longer than 64 tokens"):
        vector = encode_text(*joint, long)
    with pytest.warns(UserWarning, match="longer than 64"):
        assert np.array_equal(vector, encode_text(*joint, long + "dog"))


# --- texts that are too long ------------------------------------------------------------------------------------

LONG = [*TEXTS, "hello " * 70, "hello " * 63, "hello " * 900]


@pytest.mark.parametrize("batch_size", [1, 32])
def test_texts_that_are_cut_are_told_of_once(joint: tuple[Any, Any], batch_size: int) -> None:
    ids = joint[1].tokenizer.encode(LONG, 5000, do_lower_case=True)
    counts = (ids != joint[1].tokenizer.pad_id).sum(axis=1).tolist()
    assert counts[-1] == max(counts)
    assert sum(count > 64 for count in counts) == 3
    with pytest.warns(UserWarning, match="longer") as caught:
        vectors = encode_text(*joint, LONG, batch_size=batch_size)
    assert [str(warning.message) for warning in caught] == [
        f"3 of 12 texts are longer than 64 tokens (the longest has {counts[-1]}) and were cut there. "
        "Where the model allows it, a higher max_length keeps more; truncate=False refuses such texts."
    ]
    assert caught[0].filename == __file__
    assert np.abs(vectors[: len(TEXTS)] - encode_text(*joint, TEXTS)).max() <= EQUAL


def test_max_length_and_truncate(joint: tuple[Any, Any]) -> None:
    with pytest.warns(UserWarning, match=r"1 of 2 texts is longer than 3 tokens \(it has \d+\)"):
        vectors = encode_text(*joint, ["a", "hello hello hello hello hello"], max_length=3)
    assert np.abs(vectors[0] - encode_text(*joint, "a", max_length=3)).max() <= EQUAL
    assert np.abs(vectors[0] - encode_text(*joint, "a")).max() > 100 * EQUAL
    assert np.array_equal(encode_text(*joint, TEXTS, truncate=False), encode_text(*joint, TEXTS))
    with pytest.raises(InputError, match=r"A text has \d+ tokens and truncation is False; expected at most 64\."):
        encode_text(*joint, LONG, truncate=False)
    with pytest.raises(InputError, match="max_length is 65; expected a whole number from 1 to 64"):
        encode_text(*joint, TEXTS, max_length=65)


def test_long_labels_are_told_of_once(joint: tuple[Any, Any]) -> None:
    with pytest.warns(UserWarning, match="2 of 4 texts are longer than 64") as caught:
        classify(*joint, picture(9, 9, 0), ["cat", "hello " * 80], template=["a {}", "{}"])
    assert len(caught) == 1


# --- batches by size --------------------------------------------------------------------------------------------


class Long:
    """Stands for a model and its processor: a text is a number of tokens, and its vector is that number."""

    kind, modalities = "encoder", ("text",)

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def text(self, texts: list[str], **_: Any) -> dict[str, np.ndarray]:
        return {"input_ids": np.ones((1, int(texts[0])), np.int32)}

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        rows = [item["input_ids"][0] for item in items]
        batch = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for target, row in zip(batch, rows, strict=True):
            target[: len(row)] = row
        self.shapes.append(batch.shape)
        return {"input_ids": batch}

    def modules_for(self, _modality: str) -> tuple[()]:
        return ()

    def get_text_features(self, input_ids: mx.array) -> mx.array:
        return mx.repeat(input_ids.sum(axis=1, keepdims=True), 3, axis=1)


@pytest.mark.parametrize(
    ("lengths", "batch_size", "expected"),
    [
        ([512] * 40, 32, [(32, 512), (8, 512)]),
        ([513] * 40, 32, [(31, 513), (9, 513)]),
        ([2048, 7, 2048, 9, *[2048] * 9], 32, [(8, 2048), (5, 2048)]),
        ([8194, 8192, 8192, 8192, 3], 32, [(2, 8192), (2, 8192), (1, 8194)]),
        ([20_000, 20_000], 32, [(1, 20_000), (1, 20_000)]),
        ([64] * 5, 2, [(2, 64), (2, 64), (1, 64)]),
    ],
)
def test_long_texts_run_in_smaller_batches(
    lengths: list[int], batch_size: int, expected: list[tuple[int, int]]
) -> None:
    model = Long()
    vectors = encode_text(model, model, list(map(str, lengths)), normalize=False, batch_size=batch_size)
    assert model.shapes == expected
    assert vectors.tolist() == [[length] * 3 for length in lengths]


def test_smaller_batches_give_the_same_vectors(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load(tiny_checkpoint("metaclip_2"))
    texts = ["a cat", "the dog", "a", "a cat the dog", "dog"]
    whole = encode_text(model, processor, texts)
    monkeypatch.setattr(chunks, "MAX_TOKENS_PER_BATCH", 8)
    assert np.abs(encode_text(model, processor, texts) - whole).max() <= EQUAL


def test_pictures_have_no_budget_of_tokens(
    naflex: tuple[Any, Any], pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = naflex
    monkeypatch.setattr(chunks, "MAX_TOKENS_PER_BATCH", 1)
    rows = []
    run = batches.run_in_parts
    monkeypatch.setattr(
        batches, "run_in_parts", lambda f, batch, m: rows.append(len(batch["pixel_values"])) or run(f, batch, m)
    )
    encode_image(model, processor, pictures)
    assert rows == [8, 1]


def test_a_text_that_is_none_is_named_by_its_place(joint: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"number 2 is int"):
        encode_text(*joint, ["a", "b", 3], batch_size=2)


def test_task_is_refused_where_the_family_has_none(joint: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="task"):
        encode_text(*joint, "a cat", task="retrieval.query")


def test_max_num_patches(naflex: tuple[Any, Any], fixres: tuple[Any, Any]) -> None:
    model, processor = naflex
    image = picture(100, 100, 4)
    for budget in (4, 64):
        batch = processor.images([image], max_num_patches=budget)
        assert batch["pixel_attention_mask"].sum() <= budget
        raw = np.array(model.get_image_features(**to_mlx(batch)))[0]
        got = encode_image(model, processor, image, max_num_patches=budget, normalize=False)
        assert np.abs(got - raw).max() <= 1e-5
    assert np.abs(got - encode_image(model, processor, image, normalize=False)).max() > 1e-3
    with pytest.raises(InputError, match="max_num_patches"):
        encode_image(*fixres, image, max_num_patches=16)
    with pytest.raises(InputError, match="max_num_patches"):
        encode_image(model, processor, image, max_num_patches=0)


def test_progress_is_off_by_default(
    naflex: tuple[Any, Any],
    pictures: list[Image.Image],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode_image(*naflex, pictures)
    assert capsys.readouterr() == ("", "")
    encode_image(*naflex, pictures, progress=True)
    assert capsys.readouterr() == ("", "")  # no terminal, and not yet ten seconds
    monkeypatch.setattr("mlx_mm.progress.SECONDS_BETWEEN_LINES", 0.0)
    encode_image(*naflex, pictures, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"embedding: {len(pictures)} of {len(pictures)} items\n" in err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    encode_image(*naflex, pictures, progress=True)
    assert f"0/{len(pictures)}" in capsys.readouterr().err
    seen: list[tuple[int, int | None]] = []
    encode_image(*naflex, pictures, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(pictures), len(pictures))


# --- pictures that cannot be read -------------------------------------------------------------------------------


def test_a_bad_picture_raises(naflex: tuple[Any, Any], pictures: list[Image.Image], tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for bad in (tmp_path / "empty.png", tmp_path / "missing.png", b"no picture", np.zeros((3, 0, 3), np.uint8)):
        with pytest.raises(MediaError):
            encode_image(*naflex, [pictures[0], bad, pictures[1]])
        with pytest.raises(MediaError):
            classify(*naflex, [pictures[0], bad], LABELS)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_on_error_skips_and_names_the_right_ones(
    naflex: tuple[Any, Any], pictures: list[Image.Image], batch_size: int
) -> None:
    items: list[Any] = list(pictures)
    for index in (0, 4, 10):  # at both ends and inside
        items.insert(index, b"no picture")
    seen: list[tuple[int, type[Exception]]] = []
    vectors = encode_image(
        *naflex, items, batch_size=batch_size, on_error=lambda index, error: seen.append((index, type(error)))
    )
    assert seen == [(0, MediaError), (4, MediaError), (10, MediaError)]
    assert np.abs(vectors - encode_image(*naflex, pictures)).max() <= EQUAL


def test_classify_skips_too(naflex: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    seen: list[int] = []
    items = [b"", pictures[0], b"no picture", pictures[1]]
    rows = classify(*naflex, items, LABELS, on_error=lambda index, _: seen.append(index))
    assert seen == [0, 2]
    assert_scores(rows, classify(*naflex, pictures[:2], LABELS))


def test_nothing_readable(naflex: tuple[Any, Any], classifier: tuple[Any, Any]) -> None:
    seen: list[int] = []
    assert len(encode_image(*naflex, [b"x", b"y"], on_error=lambda index, _: seen.append(index))) == 0
    assert classify(*naflex, [b"x", b"y"], LABELS, on_error=lambda index, _: seen.append(index)) == []
    assert classify(*classifier, [b"x", b"y"], on_error=lambda index, _: seen.append(index)) == []
    assert seen == [0, 1] * 3


def test_on_error_with_a_single_picture(naflex: tuple[Any, Any]) -> None:
    """There is no row to leave out of one vector, so the error is raised or nothing comes back: no IndexError."""
    try:
        result = encode_image(*naflex, b"no picture", on_error=lambda *_: None)
    except MlxMmError:
        return
    assert np.size(result) == 0


def test_errors_of_the_caller_are_not_swallowed(naflex: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_image(*naflex, [pictures[0], b"no picture"], on_error=stop)


# --- scores -----------------------------------------------------------------------------------------------------


def assert_scores(rows: list[Any], expected: list[Any], tolerance: float = 1e-6) -> None:
    assert len(rows) == len(expected)
    for row, want in zip(rows, expected, strict=True):
        assert dict(row) == pytest.approx(dict(want), abs=tolerance)
        assert [score for _, score in row] == sorted(dict(row).values(), reverse=True)


def best_first(labels: list[str], scores: np.ndarray) -> list[tuple[str, float]]:
    return [(labels[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]


def by_hand(joint: tuple[Any, Any], images: list[Image.Image], labels: list[str], template: str) -> list[Any]:
    """σ(e^scale · cosine + bias), in float64 from the vectors."""
    vectors = encode_image(*joint, images).astype(np.float64)
    targets = encode_text(*joint, [template.replace("{}", label) for label in labels]).astype(np.float64)
    scale, bias = float(joint[0].logit_scale.item()), float(joint[0].logit_bias.item())
    assert (scale, bias) == (2.5, -3.0)
    logits = vectors @ targets.T * np.exp(scale) + bias
    return [best_first(labels, row) for row in 1 / (1 + np.exp(-logits))]


def test_scores_are_sigmoids_of_scaled_cosines(joint: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    rows = classify(*joint, pictures, LABELS)
    assert_scores(rows, by_hand(joint, pictures, LABELS, "This is a photo of {}."))
    assert all(isinstance(score, float) and 0 < score < 1 for row in rows for _, score in row)
    assert max(abs(sum(score for _, score in row) - 1) for row in rows) > 0.01  # no softmax


def test_best_label_comes_first(joint: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    labels = ["a", "cat", "dog", "hello", "猫", "hello dog", "cat cat cat cat"]
    rows = classify(*joint, pictures, labels, template="{}")
    for row in rows:
        scores = [score for _, score in row]
        assert scores == sorted(scores, reverse=True)
        assert sorted(name for name, _ in row) == sorted(labels)
    assert len({row[0][0] for row in rows} | {row[-1][0] for row in rows}) > 1


def test_one_picture_gives_one_list_of_pairs(joint: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    single = classify(*joint, pictures[0], LABELS)
    assert isinstance(single[0], tuple)
    assert_scores([single], classify(*joint, [pictures[0]], LABELS))
    assert_scores([single], classify(*joint, pictures, LABELS)[:1])


def test_one_label(joint: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    assert_scores(
        [classify(*joint, pictures[0], ["cat"])], by_hand(joint, pictures[:1], ["cat"], "This is a photo of {}.")
    )


def test_template(joint: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    rows = classify(*joint, pictures, LABELS, template="hello {}, a {}!")
    assert_scores(rows, by_hand(joint, pictures, LABELS, "hello {}, a {}!"))
    default = classify(*joint, pictures, LABELS, template=joint[0].prompt_template)
    assert_scores(default, classify(*joint, pictures, LABELS))


def test_labels_with_braces_are_plain_text(joint: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    labels = ["{}", "{0}", "{cat}", "%s"]
    rows = classify(*joint, pictures[:2], labels, template="a {}")
    assert {name for name, _ in rows[0]} == set(labels)
    assert_scores(rows, by_hand(joint, pictures[:2], labels, "a {}"))


def test_several_templates_are_averaged(joint: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    templates = ["a {}", "hello {}, cat", "{}"]
    parts = [encode_text(*joint, [template.replace("{}", label) for label in LABELS]) for template in templates]
    mean = np.mean(np.stack(parts).astype(np.float64), axis=0)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    targets = encode_labels(*joint, LABELS, templates)
    assert np.abs(targets - mean).max() <= EQUAL
    assert np.abs(targets - parts[0]).max() > 100 * EQUAL
    logits = encode_image(*joint, pictures).astype(np.float64) @ mean.T * np.exp(2.5) - 3.0
    expected = [best_first(LABELS, row) for row in 1 / (1 + np.exp(-logits))]
    assert_scores(classify(*joint, pictures, LABELS, template=templates), expected)


@pytest.mark.parametrize("template", ["a photo", "", "{ }", "{0}", ["a {}", "no place"]])
def test_a_template_without_a_place_for_the_label(joint: tuple[Any, Any], template: Any) -> None:
    with pytest.raises(InputError, match=r"has no \{\}"):
        classify(*joint, picture(9, 9, 0), LABELS, template=template)


def test_no_templates(joint: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="templates is empty"):
        classify(*joint, picture(9, 9, 0), LABELS, template=[])


@pytest.mark.parametrize("labels", [[], (), "cat"])
def test_no_labels_or_a_word_in_place_of_a_list(joint: tuple[Any, Any], labels: Any) -> None:
    """A word would be taken for the list of its letters."""
    with pytest.raises(InputError, match="labels"):
        classify(*joint, picture(9, 9, 0), labels)


def test_no_labels_and_no_head(joint: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="no classification head"):
        classify(*joint, picture(9, 9, 0))


# --- classification heads ---------------------------------------------------------------------------------------


def test_head_scores_are_a_softmax(classifier: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    model, processor = classifier
    logits = np.concatenate(
        [np.array(model(**to_mlx(processor.images([item]))).logits, dtype=np.float64) for item in pictures]
    )
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    expected = [best_first(LABELS, row) for row in powers / powers.sum(axis=-1, keepdims=True)]
    for batch_size in (1, 4):
        rows = classify(model, processor, pictures, batch_size=batch_size)
        assert_scores(rows, expected)
        assert [sum(score for _, score in row) for row in rows] == pytest.approx([1] * len(rows), abs=1e-6)
    assert_scores([classify(model, processor, pictures[3])], expected[3:4])


def test_head_of_independent_labels_is_a_sigmoid(tmp_path: Path, pictures: list[Image.Image]) -> None:
    model, processor = load(classifier_folder(tmp_path, problem_type="multi_label_classification"))
    logits = np.array(model(**to_mlx(processor.images([pictures[0]]))).logits, dtype=np.float64)[0]
    assert_scores([classify(model, processor, pictures[0])], [best_first(LABELS, 1 / (1 + np.exp(-logits)))])


def test_a_head_takes_neither_labels_nor_a_template(classifier: tuple[Any, Any]) -> None:
    with pytest.raises(ModalityError, match="labels of its own"):
        classify(*classifier, picture(9, 9, 0), LABELS)
    with pytest.raises(InputError, match="takes no template"):
        classify(*classifier, picture(9, 9, 0), template="a {}")


# --- more -------------------------------------------------------------------------------------------------------


def test_encoded_bytes_need_no_file(naflex: tuple[Any, Any]) -> None:
    file = io.BytesIO()
    picture(20, 30, 5).save(file, "PNG")
    assert np.abs(encode_image(*naflex, file.getvalue()) - encode_image(*naflex, picture(20, 30, 5))).max() <= EQUAL


def test_softmax_families_share_one_between_the_labels(tiny_checkpoint: Callable[..., Path]) -> None:
    """And several templates count as one label whose vector is their mean."""
    model, processor = load(tiny_checkpoint("metaclip_2"))
    picture = Image.fromarray((np.arange(40 * 50 * 3) % 251).astype(np.uint8).reshape(40, 50, 3))
    labels, templates = ["a cat", "the dog", "zebra"], ["a photo of {}", "{}"]
    scores = dict(classify(model, processor, picture, labels, template=templates))
    assert sum(scores.values()) == pytest.approx(1, abs=1e-6)
    texts = [[template.format(label) for label in labels] for template in templates]
    mean = np.mean([encode_text(model, processor, row) for row in texts], axis=0)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    logits = mean @ encode_image(model, processor, picture) * np.exp(np.array(model.logit_scale))
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [scores[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-5)
    plain = dict(classify(model, processor, picture, labels, template="{}"))
    assert plain["a cat"] != pytest.approx(scores["a cat"], abs=1e-4)
