"""`mlx_mm classify`: the scores of the API, as a table and as JSON, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from command_line import ALL, EQUAL, Run, assert_one_error, damage
from tiny import golden_weights, siglip_shapes, tiny_config, write_checkpoint

from mlx_mm import classify, load
from mlx_mm.cli.classify import scores_json, scores_table


def expected_scores(model: Path, labels: list[str] | None, **options: Any) -> list[dict[str, Any]]:
    rows = classify(*load(model), ALL, labels, **options)
    return [
        {"id": name, "labels": [{"label": label, "score": score} for label, score in row]}
        for name, row in zip(ALL, rows, strict=True)
    ]


def assert_same_scores(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [row["id"] for row in got] == [row["id"] for row in expected]
    for row, want in zip(got, expected, strict=True):
        scores = {item["label"]: item["score"] for item in row["labels"]}
        assert scores == pytest.approx({item["label"]: item["score"] for item in want["labels"]}, abs=EQUAL)
        assert [item["score"] for item in row["labels"]] == sorted(scores.values(), reverse=True)


def test_classify(run: Run, model: Path, photos: Path) -> None:
    result = run("classify", "photos", "-m", model, "-l", "cat, dog", "-l", "hello", "--json")
    assert (result.status, result.err) == (0, "")
    assert_same_scores(result.json, expected_scores(model, ["cat", "dog", "hello"]))


def test_classify_prints_a_table(run: Run, model: Path, photos: Path) -> None:
    lines = run("classify", "photos", "-m", model, "-l", "cat,猫,hello dog", "--top", 2).out.splitlines()
    expected = expected_scores(model, ["cat", "猫", "hello dog"])
    assert len(lines) == 2 * len(ALL)
    for i, row in enumerate(expected):
        first, second = lines[2 * i : 2 * i + 2]
        assert first.startswith(row["id"])
        assert second.startswith(" " * len(max(ALL, key=len)))
        for line, item in zip((first, second), row["labels"], strict=False):
            assert line.endswith(f"{item['score']:.3f}")
            assert item["label"] in line


def test_labels_of_a_file(run: Run, model: Path, photos: Path) -> None:
    """One a line, so a label may hold a comma there."""
    Path("labels.txt").write_text("dog, wet\n\n  猫  \r\n", "utf-8")
    result = run("classify", "photos", "-m", model, "-l", "cat", "--labels-file", "labels.txt", "--json")
    assert_same_scores(result.json, expected_scores(model, ["cat", "dog, wet", "猫"]))


def test_templates_and_top(run: Run, model: Path, photos: Path) -> None:
    more = ["--template", "a {}", "--template", "hello {}", "--top", "1", "--batch-size", "1", "--json"]
    result = run("classify", "photos", "-m", model, "-l", "cat,dog,hello", *more)
    expected = expected_scores(model, ["cat", "dog", "hello"], template=["a {}", "hello {}"])
    assert_same_scores(result.json, [{**row, "labels": row["labels"][:1]} for row in expected])


def test_the_checkpoints_own_head(run: Run, classifier: Path, photos: Path) -> None:
    result = run("classify", "photos", "-m", classifier, "--json")
    assert_same_scores(result.json, expected_scores(classifier, None))
    assert {item["label"] for item in result.json[0]["labels"]} == {"cat", "dog", "owl"}


def test_classify_skips(run: Run, model: Path, photos: Path) -> None:
    bad = damage(photos)
    result = run("classify", "photos", "-m", model, "-l", "cat,dog", "--json")
    assert result.status == 0
    assert [row["id"] for row in result.json] == ALL
    assert len(result.err.splitlines()) == len(bad) + 1
    assert result.err.splitlines()[-1] == "4 inputs skipped, see the warnings above"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "no classification head"),
        (["-l", ","], "no labels"),
        (["-l", ""], "no labels"),
        (["-l", "cat", "--template", "a photo"], "has no {}"),
        (["-l", "cat", "--top", "0"], "--top is 0"),
        (["-l", "cat", "--batch-size", "-1"], "--batch-size is -1"),
        (["--labels-file", "missing.txt"], "missing.txt"),
        (["--labels-file", "photos/b.png"], "photos/b.png"),
        (["--labels-file", "photos"], "photos"),
        (["--labels-file", os.devnull], "no labels"),
    ],
)
def test_classify_errors(run: Run, model: Path, photos: Path, arguments: list[str], part: str) -> None:
    assert_one_error(run("classify", "photos", "-m", model, *arguments), part)


def test_classify_with_long_labels(run: Run, model: Path, photos: Path) -> None:
    result = run("classify", "photos", "-m", model, "-l", "cat," + "hello " * 80, "--json")
    assert result.status == 0
    assert len(result.json) == len(ALL)
    assert result.err.startswith("warning: 1 of 2 texts is longer than 64 tokens")
    assert len(result.err.splitlines()) == 1


def test_a_vision_tower_cannot_read_labels(run: Run, tmp_path: Path, photos: Path) -> None:
    config = tiny_config("siglip2")
    vision = {**config["vision_config"], "architectures": ["Siglip2VisionModel"]}
    shapes = [pair for pair in siglip_shapes(config) if pair[0].startswith("vision_model.")]
    tower = write_checkpoint(tmp_path / "tower", vision, golden_weights(shapes))
    assert_one_error(run("classify", "photos", "-m", tower, "-l", "cat"), "no text encoder; it takes image")
    assert run("embed", "photos", "-m", tower).status == 0


SCORES = [("a.png", [("cat", 0.98765), ("猫", 0.5)]), ("b.png", [("dog", 0.00012)])]


def test_scores_table_names_a_file_once() -> None:
    assert scores_table(SCORES).split("\n") == [
        "a.png  cat  0.988",
        "       猫   0.500",
        "b.png  dog  0.000",
    ]


def test_scores_json() -> None:
    text = scores_json(SCORES)
    assert "猫" in text
    assert json.loads(text) == [
        {"id": "a.png", "labels": [{"label": "cat", "score": 0.98765}, {"label": "猫", "score": 0.5}]},
        {"id": "b.png", "labels": [{"label": "dog", "score": 0.00012}]},
    ]
