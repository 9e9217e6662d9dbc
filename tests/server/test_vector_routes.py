"""Vectors and scores over HTTP in every dialect: those of `encode_*` and `classify`."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from asking import Answer, ask
from shown import picture, sound, uri

from mlx_mm import classify, encode_audio, encode_image, encode_text, load

SEES, HEARS = "emoji-siglip2", "sounds-clap"
OPENAI, VOYAGE, COHERE = "/v1/embeddings", "/v1/multimodalembeddings", "/v2/embed"
NAMES = ("cat", "pizza")
PICTURES = [uri("image/png", picture(name)) for name in NAMES]
SOUND = uri("audio/flac", sound("bell"))
NEAR = 1e-6


@pytest.fixture(scope="module")
def sees() -> Any:
    return load(SEES)


@pytest.fixture(scope="module")
def hears() -> Any:
    return load(HEARS)


@pytest.fixture(scope="module")
def wanted(sees: Any) -> dict[str, Any]:
    return {
        "text": encode_text(*sees, ["a cat", "Hund"]),
        "image": encode_image(*sees, [picture(name) for name in NAMES]),
    }


def found(answer: Answer) -> np.ndarray:
    """The vectors of an answer in OpenAI's shape, in base64 or as numbers."""
    assert answer.status == 200, answer.body[:300]
    rows = answer.json["data"]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert {row["object"] for row in rows} == {"embedding"}
    return np.stack([decoded(row["embedding"]) for row in rows])


def decoded(row: Any) -> np.ndarray:
    return np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else np.array(row, np.float32)


def near(vectors: np.ndarray, want: np.ndarray) -> bool:
    return vectors.shape == want.shape and float(np.abs(vectors - want).max()) <= NEAR


def part(kind: str, source: str) -> dict[str, Any]:
    return {"type": kind, kind: source if kind == "image_base64" else {"url": source}}


@pytest.mark.parametrize(
    ("path", "fields", "kinds"),
    [
        (OPENAI, {"input": ["a cat", "Hund"]}, ["text"]),
        (OPENAI, {"input": ["a cat", "Hund"], "encoding_format": "base64", "user": "me"}, ["text"]),
        (
            OPENAI,
            {"input": [{"text": "a cat"}, {"text": "Hund"}, *({"image": one} for one in PICTURES)]},
            ["text", "image"],
        ),
        (OPENAI, {"input": [*({"image": one} for one in PICTURES), "a cat", "Hund"]}, ["image", "text"]),
        (OPENAI, {"input": [part("image_url", one) for one in PICTURES], "encoding_format": "base64"}, ["image"]),
        (OPENAI, {"input": [{"type": "image", "image": one} for one in PICTURES]}, ["image"]),
        (OPENAI, {"input": [{"content": [part("image_url", one)]} for one in PICTURES]}, ["image"]),
        (OPENAI, {"input": PICTURES, "modality": "image"}, ["image"]),
        (OPENAI, {"input": ["a cat", "Hund"], "modality": "text"}, ["text"]),
        (VOYAGE, {"inputs": [{"content": [part("image_base64", one)]} for one in PICTURES]}, ["image"]),
        (
            VOYAGE,
            {
                "inputs": [{"content": [{"type": "text", "text": one}]} for one in ("a cat", "Hund")],
                "input_type": "query",
            },
            ["text"],
        ),
        (
            VOYAGE,
            {"inputs": [{"content": [part("image_url", one)]} for one in PICTURES], "output_encoding": "base64"},
            ["image"],
        ),
    ],
)
def test_each_shape_gives_the_same_vectors(
    app: Any, wanted: dict[str, Any], path: str, fields: dict[str, Any], kinds: list[str]
) -> None:
    answer = ask(app, "POST", path, {"model": SEES, **fields})
    assert near(found(answer), np.concatenate([wanted[kind] for kind in kinds]))
    assert answer.json["model"] == SEES
    usage = answer.json["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"]
    assert (usage["total_tokens"] > 0) == ("text" in kinds)
    in_text = fields.get("encoding_format", fields.get("output_encoding")) == "base64"
    assert isinstance(answer.json["data"][0]["embedding"], str) == in_text


def test_a_message_gives_one_vector(app: Any, wanted: dict[str, Any]) -> None:
    for content, want in (
        ([part("image_url", PICTURES[0])], wanted["image"][:1]),
        ([{"type": "text", "text": "a cat"}], wanted["text"][:1]),
        ("a cat", wanted["text"][:1]),
    ):
        body = {"model": SEES, "messages": [{"role": "user", "content": content}]}
        assert near(found(ask(app, "POST", OPENAI, body)), want)


def test_cohere(app: Any, wanted: dict[str, Any]) -> None:
    body = {
        "model": SEES,
        "texts": ["a cat", "Hund"],
        "input_type": "search_query",
        "embedding_types": ["float", "base64"],
    }
    answer = ask(app, "POST", COHERE, body).json
    for name in ("float", "base64"):
        assert near(np.stack([decoded(row) for row in answer["embeddings"][name]]), wanted["text"])
    assert answer["texts"] == ["a cat", "Hund"]
    answer = ask(app, "POST", COHERE, {"model": SEES, "images": PICTURES, "input_type": "image"}).json
    assert near(np.array(answer["embeddings"]["float"], np.float32), wanted["image"])
    mixed = {"inputs": [{"content": [part("image_url", PICTURES[0])]}, {"content": [{"type": "text", "text": "Hund"}]}]}
    answer = ask(app, "POST", COHERE, {"model": SEES, **mixed}).json
    both = np.stack([wanted["image"][0], wanted["text"][1]])
    assert near(np.array(answer["embeddings"]["float"], np.float32), both)


def test_sounds(app: Any, hears: Any) -> None:
    want = encode_audio(*hears, [sound("bell")])
    data = SOUND.partition(",")[2]
    for fields in (
        {"input": [{"audio": SOUND}]},
        {"input": SOUND, "modality": "audio"},
        {"input": [{"type": "audio_url", "audio_url": {"url": SOUND}}]},
        {"input": [{"type": "input_audio", "input_audio": {"data": data, "format": "flac"}}]},
    ):
        assert near(found(ask(app, "POST", OPENAI, {"model": HEARS, **fields})), want)


def test_dimensions_and_lengths(app: Any, sees: Any, wanted: dict[str, Any]) -> None:
    both = {"model": SEES, "input": ["a cat", {"image": PICTURES[0]}]}
    short = found(ask(app, "POST", OPENAI, {**both, "dimensions": 8}))
    want = [encode_text(*sees, "a cat", dim=8), encode_image(*sees, picture("cat"), dim=8)]
    assert near(short, np.stack(want))
    assert np.linalg.norm(short, axis=1) == pytest.approx(1, abs=1e-5)
    raw = ask(app, "POST", OPENAI, {**both, "normalized": False})
    assert near(
        found(raw),
        np.stack([encode_text(*sees, "a cat", normalize=False), encode_image(*sees, picture("cat"), normalize=False)]),
    )
    assert raw.json["mlx_mm"]["normalized"] is False
    for path, fields in (
        (VOYAGE, {"inputs": [{"content": [{"type": "text", "text": "a cat"}]}]}),
        (COHERE, {"texts": ["a cat"]}),
    ):
        answer = ask(app, "POST", path, {"model": SEES, **fields, "output_dimension": 8}).json
        row = answer["data"][0]["embedding"] if path == VOYAGE else answer["embeddings"]["float"][0]
        assert near(np.array([row], np.float32), short[:1])


def test_long_texts_are_cut_and_told_or_refused(app: Any, sees: Any) -> None:
    long = "a cat " * 100
    answer = ask(app, "POST", OPENAI, {"model": SEES, "input": ["a cat", long]})
    assert answer.json["mlx_mm"]["cut"] == [1]
    with pytest.warns(UserWarning, match="is longer than"):
        assert near(found(answer)[1:], encode_text(*sees, [long]))
    assert ask(app, "POST", OPENAI, {"model": SEES, "input": ["a cat"]}).json["mlx_mm"]["cut"] == []
    for path, fields in (
        (OPENAI, {"input": ["a cat", long], "truncate": False}),
        (VOYAGE, {"inputs": [{"content": [{"type": "text", "text": long}]}], "truncation": False}),
        (COHERE, {"texts": [long], "truncate": "NONE"}),
    ):
        refused(ask(app, "POST", path, {"model": SEES, **fields}))


def refused(answer: Answer, status: int = 400) -> Any:
    assert answer.status == status, answer.body[:300]
    assert answer.error["message"].endswith(".")
    return answer.error


PART = {"type": "text", "text": "a"}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (OPENAI, {}, "input"),
        (OPENAI, {"input": []}, "input"),
        (OPENAI, {"input": ["a"], "messages": [{"role": "user", "content": "a"}]}, "input"),
        (OPENAI, {"input": [[1, 2]]}, "input[0]"),
        (OPENAI, {"input": [1, 2]}, "input[0]"),
        (OPENAI, {"input": 5}, "input"),
        (OPENAI, {"input": ["a", None]}, "input[1]"),
        (OPENAI, {"input": ["a"] * 2049}, "input"),
        (OPENAI, {"input": [{}]}, "input[0]"),
        (OPENAI, {"input": [{"text": "a", "image": PICTURES[0]}]}, "input[0]"),
        (OPENAI, {"input": [{"text": "a", "weight": 2}]}, "input[0]"),
        (OPENAI, {"input": [{"type": "video", "video": "a"}]}, "input[0].type"),
        (OPENAI, {"input": [{"content": [PART, PART]}]}, "input[0].content"),
        (OPENAI, {"input": [{"content": [PART], "text": "b"}]}, "input[0].text"),
        (OPENAI, {"input": [{"image": 5}]}, "input[0].image"),
        (OPENAI, {"input": [{"image": "data:image/png;base64,????"}]}, "input[0].image"),
        (OPENAI, {"input": [{"image": {"url": PICTURES[0], "detail": "high"}}]}, "input[0].image.detail"),
        (OPENAI, {"input": [{"image": PICTURES[0]}], "modality": "image"}, "input[0]"),
        (OPENAI, {"input": "a", "modality": "video"}, "modality"),
        (
            OPENAI,
            {"messages": [{"role": "user", "content": [PART, part("image_url", PICTURES[0])]}]},
            "messages[0].content",
        ),
        (OPENAI, {"messages": [{"role": "user", "content": "a"}] * 2}, "messages"),
        (OPENAI, {"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages[0].x"),
        (OPENAI, {"messages": [{"role": "user", "content": "a"}], "modality": "text"}, "modality"),
        (OPENAI, {"input": "a", "dimensions": 0}, "dimensions"),
        (OPENAI, {"input": "a", "dimensions": 10**9}, "dimensions"),
        (OPENAI, {"input": "a", "dimensions": 10**400}, "dimensions"),
        (OPENAI, {"input": "a", "dimensions": 8.5}, "dimensions"),
        (OPENAI, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        (OPENAI, {"input": "a", "task": "no such task"}, "task"),
        (OPENAI, {"input": [{"image": PICTURES[0]}], "task": "a"}, "task"),
        (OPENAI, {"input": [{"audio": SOUND}]}, "model"),
        (OPENAI, {"input": "a", "pooling": "mean"}, "pooling"),
        (VOYAGE, {"inputs": []}, "inputs"),
        (VOYAGE, {"inputs": [{"content": []}]}, "inputs[0].content"),
        (VOYAGE, {"inputs": [["a"]]}, "inputs[0]"),
        (VOYAGE, {"inputs": [{"content": [PART, PART]}]}, "inputs[0].content"),
        (VOYAGE, {"inputs": [{"content": [PART]}], "output_dtype": "int8"}, "output_dtype"),
        (COHERE, {}, "texts"),
        (COHERE, {"texts": ["a"], "embedding_types": ["int8"]}, "embedding_types[0]"),
        (COHERE, {"texts": ["a"], "truncate": "START"}, "truncate"),
        (COHERE, {"texts": ["a"], "input_type": "x"}, "input_type"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(app: Any, path: str, fields: Any, param: str) -> None:
    assert refused(ask(app, "POST", path, {"model": SEES, **fields}))["param"] == param


def test_what_is_no_picture_or_sound(app: Any) -> None:
    for model, body, param in (
        (SEES, {"image": uri("image/png", b"no picture")}, "input[1].image"),
        (SEES, {"image": uri("image/png", picture("cat")[:200])}, "input[1].image"),
        (HEARS, {"audio": uri("audio/wav", b"RIFF")}, "input[1].audio"),
    ):
        error = refused(ask(app, "POST", OPENAI, {"model": model, "input": ["a", body]}))
        assert error["code"] == "invalid_media"
        assert error["param"] == param


def test_models_that_would_do_are_named(app: Any) -> None:
    for body, other in (
        ({"model": SEES, "input": [{"audio": SOUND}]}, HEARS),
        ({"model": HEARS, "input": [{"image": PICTURES[0]}]}, SEES),
    ):
        error = refused(ask(app, "POST", OPENAI, body))
        assert error["code"] == "unsupported_modality"
        assert error["message"].endswith(f": {other}.")
    assert refused(ask(app, "POST", OPENAI, {"model": "emoji-glm4v", "input": "a"}))["param"] == "model"
    assert refused(ask(app, "POST", OPENAI, {"model": "nothing", "input": "a"}), 404)["code"] == "model_not_found"


def test_scores(app: Any, sees: Any, hears: Any) -> None:
    labels = ["a cat", "a pizza", "a dog"]
    given = {"input": [{"image": one} for one in PICTURES], "labels": labels}
    for model, body, want in (
        (SEES, given, classify(*sees, [picture(name) for name in NAMES], labels)),
        (
            SEES,
            {**given, "input": PICTURES, "modality": "image"},
            classify(*sees, [picture(name) for name in NAMES], labels),
        ),
        (
            SEES,
            {**given, "template": "one {}"},
            classify(*sees, [picture(name) for name in NAMES], labels, template="one {}"),
        ),
        (
            HEARS,
            {"input": [{"audio": SOUND}], "labels": ["bell", "dog"]},
            classify(*hears, [sound("bell")], ["bell", "dog"]),
        ),
    ):
        rows = ask(app, "POST", "/v1/classify", {"model": model, **body}).json["data"]
        assert [row["index"] for row in rows] == list(range(len(want)))
        for row, scores in zip(rows, want, strict=True):
            assert [one["label"] for one in row["scores"]] == [label for label, _ in scores]
            assert [one["score"] for one in row["scores"]] == pytest.approx([score for _, score in scores], abs=NEAR)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"labels": None}, "labels"),
        ({"labels": []}, "labels"),
        ({"labels": [1]}, "labels[0]"),
        ({"input": ["a cat"]}, "input[0]"),
        ({"input": [{"image": PICTURES[0]}, {"audio": SOUND}]}, "input"),
        ({"input": [{"audio": SOUND}]}, "model"),
        ({"template": "no place"}, "template"),
        ({"input": []}, "input"),
        ({"dimensions": 5}, "dimensions"),
    ],
)
def test_scores_that_cannot_be_had(app: Any, fields: Any, param: str) -> None:
    body = {"model": SEES, "input": [{"image": PICTURES[0]}], "labels": ["a", "b"], **fields}
    assert refused(ask(app, "POST", "/v1/classify", body))["param"] == param
