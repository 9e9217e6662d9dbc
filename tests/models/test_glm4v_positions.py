"""Positions of tokens against the golden cases, and prompts that pictures do not fit."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from glm_tiny import MODELS, glm_cases
from tiny import golden

from mlx_mm.errors import InputError
from mlx_mm.models.glm4v.positions import feature_rows, frame_sizes, rope_index

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
    names = ["input_ids", "mm_token_type_ids"]
    names += ["attention_mask"] if "attention_mask_rle" in case["rows"][0] else []
    values = {name: [unpacked(row, name) for row in case["rows"]] for name in names}
    return {**values, "image_grid_thw": case["image_grid_thw"], "video_grid_thw": case["video_grid_thw"]}


def check(positions: mx.array, deltas: mx.array, case: dict[str, Any], mask: list[list[int]]) -> None:
    expected = np.array([[unpacked(row, axis) for row in case["rows"]] for axis in "thw"])
    assert positions.dtype == deltas.dtype == mx.int32
    assert np.array(positions).tolist() == expected.tolist()
    assert np.array(deltas).tolist() == case["rope_delta"]
    following = [sum(row) + delta for row, delta in zip(mask, np.array(deltas).tolist(), strict=True)]
    assert following == [row["next_token_position"] for row in case["rows"]]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("as_arrays", [False, True])
def test_golden(name: str, as_arrays: bool) -> None:
    case = CASES[name]
    values = batch(case)
    mask = values.get("attention_mask") or [[1] * len(row) for row in values["input_ids"]]
    if as_arrays:
        values = {name: None if value is None else mx.array(value) for name, value in values.items()}
    check(*rope_index(**values), case, mask)


@pytest.mark.parametrize("name", [name for name in CASES if "padded" not in name])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name: str, side: str) -> None:
    values = batch(CASES[name])
    plain, deltas = rope_index(**values)
    length = len(values["input_ids"][0])
    mask = [[1] * length]
    for key, padded in (("input_ids", 151329), ("mm_token_type_ids", 0)):
        values[key] = [[padded] * 5 + values[key][0] if side == "left" else values[key][0] + [padded] * 5]
    values["attention_mask"] = [[0] * 5 + mask[0] if side == "left" else mask[0] + [0] * 5]
    positions, same = rope_index(**values)
    real = slice(5, None) if side == "left" else slice(length)
    assert np.array(positions[:, :, real]).tolist() == np.array(plain).tolist()
    assert np.array(positions).sum() == np.array(plain).sum()  # the rest is 0
    assert same.tolist() == deltas.tolist()


@pytest.mark.parametrize("model", MODELS)
def test_golden_prompts(model: str) -> None:
    """The prompts of the tiny models: every run has its grid."""
    for spec in glm_cases(model).values():
        ids, types = [spec["input_ids"]], [spec["mm_token_type_ids"]]
        positions, deltas = rope_index(ids, types, spec["image_grid_thw"], spec["video_grid_thw"])
        assert positions.shape == (3, 1, len(ids[0]))
        assert positions.max().item() + 1 - len(ids[0]) == deltas.item()


def test_rows_share_grids() -> None:
    """Grids are taken in the order of the rows, and a row's positions begin at 0 whatever came before."""
    first, second = [*IMAGE, 0], [0, 1, 1, 0, 1, 1, 1, 1, 0]
    grids = [[1, 4, 6], [1, 4, 2], [1, 4, 4]]
    both, deltas = rope_index([first, second], [first, second], grids)
    for row, own in ((0, grids[:1]), (1, grids[1:])):
        alone, delta = rope_index([[first, second][row]], [[first, second][row]], own)
        assert np.array(both[:, row]).tolist() == np.array(alone[:, 0]).tolist()
        assert deltas[row].item() == delta.item()


def test_text_alone() -> None:
    """Without types every token is text; a row that is all padding has no positions."""
    positions, deltas = rope_index([[5, 6, 7], [8, 8, 8]], attention_mask=[[0, 1, 1], [0, 0, 0]])
    assert positions.tolist() == [[[0, 0, 1], [0, 0, 0]]] * 3
    assert deltas.tolist() == [0, 0]


def test_wider_blocks() -> None:
    positions, _ = rope_index([[0, 0, 0]], [[1, 1, 0]], [[1, 3, 6]], merge=3)
    assert positions.tolist() == [[[0, 0, 2]], [[0, 0, 2]], [[0, 1, 2]]]


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
        rope_index([types], [types], images, videos)


def test_grids_without_types() -> None:
    with pytest.raises(InputError, match="1 of 1 image grids have no tokens"):
        rope_index([IMAGE], image_grid_thw=[[1, 4, 6]])


def test_shapes_differ() -> None:
    with pytest.raises(InputError, match="differ in shape"):
        rope_index([[1, 2, 3]], [[0, 0]])
    with pytest.raises(InputError, match="differ in shape"):
        rope_index([[1, 2, 3]], attention_mask=[[1, 1, 1]] * 2)


def test_feature_rows() -> None:
    types = mx.array([[0, 1, 1, 0, 2, 2], [1, 0, 2, 1, 0, 0]])
    assert feature_rows(types).tolist() == [[-1, 0, 1, -1, 0, 1], [2, -1, 2, 3, -1, -1]]
    assert feature_rows(mx.zeros((1, 3), mx.int32)).tolist() == [[-1] * 3]


def test_frame_sizes() -> None:
    assert frame_sizes([[2, 4, 6], [1, 2, 2]], 2) == [(4, 6), (4, 6), (2, 2)]
    assert frame_sizes(np.array([[1, 4, 6]]), 2) == [(4, 6)]
    assert frame_sizes(None, 2) == []
