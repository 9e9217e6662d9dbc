"""What another program for these models got wrong, row by row of a list; the other rows are in
`models/test_glm4v_model.py` and `models/test_glm4v_request.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from glm_answers import picture, script

import mlx_mm
from mlx_mm.errors import InputError


@pytest.fixture
def loaded(tiny_checkpoint: Callable[..., Path]) -> Any:
    return mlx_mm.load(tiny_checkpoint("glm4v"))


def test_peers_row_11_pixel_limits_act(loaded: Any) -> None:
    """Limits were ignored: a picture cost the same whatever was asked."""
    photo = picture(height=600, width=800)
    whole = loaded[1].images([photo])["image_grid_thw"].prod() // 4
    assert whole == 21 * 29  # squares of 28 pixels
    full = mlx_mm.generate(*loaded, "q", images=[photo], max_tokens=1).prompt_tokens
    for limit, tokens in ((100_000, 9 * 13), (30_000, 5 * 7)):
        assert loaded[1].images([photo], max_pixels=limit)["image_grid_thw"].prod() // 4 == tokens
        size = {"shortest_edge": 12544, "longest_edge": 2 * limit}
        assert loaded[1].images([photo], size=size)["image_grid_thw"].prod() // 4 == tokens
        cost = mlx_mm.generate(*loaded, "q", images=[photo], max_tokens=1, max_pixels=limit).prompt_tokens
        assert full - cost == whole - tokens


@pytest.mark.parametrize("idle", [{"max_pixels": 50_000}, {"fps": 2.0}])
def test_limits_without_pictures_are_refused(idle: dict[str, Any], loaded: Any) -> None:
    with pytest.raises(InputError, match=f"{next(iter(idle))} is .* leave it out"):
        mlx_mm.generate(*loaded, "q", max_tokens=1, **idle)
    with pytest.raises(InputError, match="there is no video"):
        mlx_mm.generate(*loaded, "q", images=[picture()], max_tokens=1, fps=2.0)
    assert mlx_mm.generate(*loaded, "q", images=picture(), max_tokens=1, max_pixels=50_000).generation_tokens == 1


def test_peers_row_12_markers_do_not_leak(loaded: Any) -> None:
    """Box markers and reasoning came out in the text."""
    said = "<think>Where?</think>\n<answer_>Here: <|begin_of_box|>[[10, 20, 30, 40]]<|end_of_box|>.<|user|>"
    model, processor = script(*loaded, said), loaded[1]
    answer = mlx_mm.generate(model, processor, "q")
    streamed = "".join(piece.text for piece in mlx_mm.stream_generate(model, processor, "q"))
    assert answer.text == streamed == "<answer_>Here: [[10, 20, 30, 40]]."
    assert answer.boxes == [[10, 20, 30, 40]]
    assert "<|begin_of_box|>" in answer.raw
    assert answer.pixel_boxes == []  # of which picture?


def test_boxes_in_pixels(loaded: Any) -> None:
    said = "<|begin_of_box|>[[100, 200, 300, 1000]]<|end_of_box|>"
    model, processor = script(*loaded, said), loaded[1]
    photo = picture(height=300, width=400)
    expected = [[40, 60, 120, 300]]
    assert mlx_mm.generate(model, processor, "q", images=[photo]).pixel_boxes == expected
    parts = [{"type": "image", "image": photo}, {"type": "text", "text": "q"}]
    assert mlx_mm.generate(model, processor, [{"role": "user", "content": parts}]).pixel_boxes == expected
    assert mlx_mm.generate(model, processor, "q", images=[photo], max_pixels=20_000).pixel_boxes == expected
    assert mlx_mm.generate(model, processor, "q", images=[photo, photo]).pixel_boxes == []
