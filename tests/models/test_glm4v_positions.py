"""Positions of tokens against the golden cases, and prompts that pictures do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from glm_tiny import MODELS, glm_cases
from tiny import golden

from mlx_mm.errors import InputError
from mlx_mm.models.glm4v.positions import Layout, Span, frame_sizes, rope_index, types_by_id

CASES = {case["name"]: case for case in golden("glm46v_examples")["mrope"]}
IMAGE = [0, *[1] * 6, 0]  # one of 4×6 patches between its markers


def unpacked(row: dict[str, Any], name: str) -> list[int]:
    """A list of the golden file: as it is, as runs of equal numbers, or as runs [start, step, count]."""
    if name in row:
        values = row[name]
        if row.get("encoding"):
            return [start + step * i for start, step, count in values for i in range(count)]
        return list(values)
    return [value for value, count in row[f"{name}_rle"] for _ in range(count)]


def batch(case: dict[str, Any]) -> dict[str, Any]:
    names = ["mm_token_type_ids"]
    names += ["attention_mask"] if "attention_mask_rle" in case["rows"][0] else []
    values = {name: [unpacked(row, name) for row in case["rows"]] for name in names}
    return {**values, "image_grid_thw": case["image_grid_thw"], "video_grid_thw": case["video_grid_thw"]}


def table(layout: Layout) -> np.ndarray:
    """(3, B, L)."""
    return np.array(layout.positions).transpose(2, 0, 1)


def check(layout: Layout, case: dict[str, Any], mask: list[list[int]]) -> None:
    expected = np.array([[unpacked(row, axis) for row in case["rows"]] for axis in "thw"])
    assert table(layout).tolist() == expected.tolist()
    assert [[delta] for delta in layout.deltas] == np.array(case["rope_delta"]).reshape(-1, 1).tolist()
    following = [sum(row) + delta for row, delta in zip(mask, layout.deltas, strict=True)]
    assert following == [row["next_token_position"] for row in case["rows"]]


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    case = CASES[name]
    values = batch(case)
    mask = values.get("attention_mask") or [[1] * len(row) for row in values["mm_token_type_ids"]]
    check(rope_index(**values), case, mask)


@pytest.mark.parametrize("name", [name for name in CASES if "padded" not in name])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name: str, side: str) -> None:
    values = batch(CASES[name])
    plain = rope_index(**values)
    types = values["mm_token_type_ids"][0]
    before, after = ([0] * 5, []) if side == "left" else ([], [0] * 5)
    values["mm_token_type_ids"] = [[*before, *types, *after]]
    values["attention_mask"] = [[*before, *[1] * len(types), *after]]
    padded = rope_index(**values)
    real = slice(len(before), len(before) + len(types))
    assert table(padded)[:, :, real].tolist() == table(plain).tolist()
    assert table(padded).sum() == table(plain).sum()  # the rest is 0
    assert padded.deltas == plain.deltas
    moved = [replace(span, first_token=span.first_token + len(before)) for span in plain.spans]
    assert padded.spans == moved


@pytest.mark.parametrize("model", MODELS)
def test_golden_prompts(model: str) -> None:
    """The prompts of the tiny models: every run has its grid."""
    for spec in glm_cases(model).values():
        types = [spec["mm_token_type_ids"]]
        layout = rope_index(types, spec["image_grid_thw"], spec["video_grid_thw"])
        assert table(layout).shape == (3, 1, len(types[0]))
        assert [table(layout).max() + 1 - len(types[0])] == layout.deltas


def test_rows_share_grids() -> None:
    """Grids are taken in the order of the rows, and a row's positions begin at 0 whatever came before."""
    first, second = [*IMAGE, 0], [0, 1, 1, 0, 1, 1, 1, 1, 0]
    grids = [[1, 4, 6], [1, 4, 2], [1, 4, 4]]
    both = rope_index([first, second], grids)
    for row, own in ((0, grids[:1]), (1, grids[1:])):
        alone = rope_index([[first, second][row]], own)
        assert both.positions[row] == alone.positions[0]
        assert both.deltas[row] == alone.deltas[0]
    assert both.spans == [
        Span(kind=1, first_patch=0, size=(4, 6), row=0, first_token=1, tokens=6),
        Span(kind=1, first_patch=24, size=(4, 2), row=1, first_token=1, tokens=2),
        Span(kind=1, first_patch=32, size=(4, 4), row=1, first_token=4, tokens=4),
    ]


def test_text_alone() -> None:
    """A row that is all padding has no positions."""
    layout = rope_index([[0, 0, 0], [0, 0, 0]], attention_mask=[[0, 1, 1], [0, 0, 0]])
    assert table(layout).tolist() == [[[0, 0, 1], [0, 0, 0]]] * 3
    assert layout.deltas == [0, 0]


def test_padding_between_texts_is_not_counted() -> None:
    layout = rope_index([[0, 0, 0, 0]], attention_mask=[[1, 0, 1, 1]])
    assert table(layout).tolist() == [[[0, 0, 1, 2]]] * 3
    with pytest.raises(InputError, match="1 image tokens"):
        rope_index([[0, 1, 1, 1]], [[1, 2, 4]], attention_mask=[[1, 1, 0, 1]])


def test_wider_blocks() -> None:
    layout = rope_index([[1, 1, 0]], [[1, 3, 6]], merge=3)
    assert table(layout).tolist() == [[[0, 0, 2]], [[0, 0, 2]], [[0, 1, 2]]]


@pytest.mark.parametrize(
    ("types", "images", "videos", "message"),
    [
        ([*IMAGE[:-1], *IMAGE[1:]], [[1, 4, 6]] * 2, None, "12 image tokens.*has 6.*another token between"),
        (IMAGE, [[1, 4, 4]], None, "6 image tokens.*4×4 patches, has 4"),
        (IMAGE, None, None, "more runs of image tokens than image grids"),
        (IMAGE, None, [[1, 4, 6]], "more runs of image tokens"),
        (IMAGE, [[1, 4, 6]] * 3, None, "2 of 3 image grids have no tokens"),
        (IMAGE, [[1, 4, 6]], [[2, 4, 4]], "2 of 2 video grids have no tokens"),
        ([0, 2, 2, 2, 2, 0], None, [[2, 4, 4]], "1 of 2 video grids have no tokens"),
        ([0, 0, 0], [[1, 4, 6]], None, "1 of 1 image grids have no tokens"),
        ([0, 3, 0], None, None, "mm_token_type_ids has 3"),
        (IMAGE, [[1, 3, 8]], None, "2 divides"),
        (IMAGE, [[0, 4, 6]], None, "at least one frame"),
        ([*IMAGE, *IMAGE], [[2, 4, 6]], None, "more than one frame.*video_grid_thw"),
    ],
)
def test_what_does_not_fit(types: list[int], images: Any, videos: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rope_index([types], images, videos)


def test_grids_without_types() -> None:
    with pytest.raises(InputError, match="1 of 1 image grids have no tokens"):
        rope_index([[0] * len(IMAGE)], [[1, 4, 6]])


def test_shapes_differ() -> None:
    with pytest.raises(InputError, match="differ in shape"):
        rope_index([[0, 0, 0]], attention_mask=[[1, 1]])
    with pytest.raises(InputError, match="differ in shape"):
        rope_index([[0, 0, 0]], attention_mask=[[1, 1, 1]] * 2)


def test_types_by_id() -> None:
    assert types_by_id([[5, 9, 9], [9, 5, 5]], 9, videos=False) == [[0, 1, 1], [1, 0, 0]]
    assert types_by_id([[5, 9]], 9, videos=True) == [[0, 2]]


def test_frame_sizes() -> None:
    assert frame_sizes([[2, 4, 6], [1, 2, 2]], 2) == [(4, 6), (4, 6), (2, 2)]
    assert frame_sizes(None, 2) == []
