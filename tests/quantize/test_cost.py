"""What was lost, as numbers, against the same numbers from plain loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mlx_mm.quantize.cost import Cost, LayerCost, TokenCost, VectorCost, divergence, pair_agreement, vector_cost

RANDOM = np.random.default_rng(0)
SOURCE = RANDOM.standard_normal((30, 8))
OTHER = SOURCE + 0.4 * RANDOM.standard_normal((30, 8))
TEXTS = RANDOM.standard_normal((2, 20, 8))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.dist(a, 0 * a) / math.dist(b, 0 * b)


def nearest(item: np.ndarray, among: np.ndarray, without: int | None = None) -> int:
    return max((i for i in range(len(among)) if i != without), key=lambda i: cosine(item, among[i]))


def test_vectors() -> None:
    cost = vector_cost(OTHER * RANDOM.uniform(1, 9, (30, 1)), SOURCE)  # their lengths say nothing
    cosines = [cosine(a, b) for a, b in zip(OTHER, SOURCE, strict=True)]
    assert cost.items == 30
    assert cost.mean == pytest.approx(sum(cosines) / 30, abs=1e-12)
    assert cost.lowest == pytest.approx(min(cosines), abs=1e-12)
    same = [nearest(OTHER[i], OTHER, i) == nearest(SOURCE[i], SOURCE, i) for i in range(30)]
    assert cost.neighbours == sum(same) / 30
    assert 0.2 < cost.neighbours < 1  # of the vectors themselves all would be the same
    assert vector_cost(OTHER[:2], SOURCE[:2]).neighbours is None
    assert vector_cost(SOURCE, SOURCE).neighbours == 1


def test_pairs() -> None:
    share = pair_agreement((TEXTS[0], OTHER), (TEXTS[1] * 0 + TEXTS[0], SOURCE))
    same = [nearest(text, OTHER) == nearest(text, SOURCE) for text in TEXTS[0]]
    assert share == sum(same) / 20
    assert 0.2 < share < 1


def test_divergence() -> None:
    ours, theirs = RANDOM.standard_normal((2, 5, 7)) * 3
    found, same = divergence(ours + 50, theirs - 50)
    p, q = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits in (theirs, ours))
    right, reversed_ = (p * np.log(p / q)).sum(axis=1), (q * np.log(q / p)).sum(axis=1)
    assert np.abs(found - right).max() < 1e-12
    assert np.abs(found - reversed_).max() > 0.1
    assert same.tolist() == (ours.argmax(axis=1) == theirs.argmax(axis=1)).tolist()
    assert divergence(theirs, theirs)[0].max() == 0


def test_what_the_source_rules_out_adds_nothing() -> None:
    theirs, ours = np.array([[0.0, 0.0, -np.inf]]), np.array([[0.0, 0.0, 0.0]])
    assert divergence(ours, theirs)[0] == pytest.approx(math.log(3 / 2))


def test_as_json_and_as_tables() -> None:
    cost = Cost(
        {"text": VectorCost(50, 0.99951, 0.98, 0.9), "audio": VectorCost(2, 0.9, 0.8, None)},
        0.75,
        {},
        None,
        (LayerCost("text_model.head", 4, 0.12, 0.0066), LayerCost("text_model.layers.0.fc1", None, 0.1)),
        {"text": (50, "bundled")},
        1.5,
    )
    values = json.loads(json.dumps(cost.as_dict()))
    assert values["vectors"]["text"] == {"items": 50, "mean": 0.99951, "lowest": 0.98, "neighbours": 0.9}
    assert values["layers"][1] == {"path": "text_model.layers.0.fc1", "bits": None, "error": 0.1, "effect": None}
    text = cost.as_markdown()
    assert "| text | 50 | 0.99951 | 0.98000 | 90.0 % |\n| audio | 2 | 0.90000 | 0.80000 | - |\n" in text
    assert "For 75.0 % of the texts" in text
    assert text.endswith("| text_model.head | 4 | 0.1200 | 0.0066 |\n| text_model.layers.0.fc1 | float | 0.1000 | - |")
    assert "KL" not in text
    answers = Cost({}, None, {"image": TokenCost(9, 0.01, 0.2, 1.0)}, "answers", (), {}, 1.0).as_markdown()
    assert answers.endswith("| image | 9 | 0.01000 | 0.20000 | 100.0 % |")
