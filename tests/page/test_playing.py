"""Videos and sounds in a real browser: the part that fits is shown, and played from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import VIDEO_SIDE, VIDEO_TURN, Opening, av, on_white, until  # type: ignore[attr-defined]

CELL = ".grid .cell"
PLAYED = """async selector => {
  const video = document.querySelector(selector);
  video.muted = true;
  await video.play();
}"""
# What a video shows now, as bytes of RGBA.
SHOWN = """([selector, side]) => {
  const canvas = Object.assign(document.createElement("canvas"), {width: side, height: side});
  const context = canvas.getContext("2d");
  context.drawImage(document.querySelector(selector), 0, 0, side, side);
  return [...context.getImageData(0, 0, side, side).data];
}"""


def difference(page: Any, selector: str, name: str) -> float:
    """Between what a video shows and a picture, in levels of 255 on average."""
    shown = np.array(page.evaluate(SHOWN, [selector, VIDEO_SIDE]), np.float32).reshape(VIDEO_SIDE, VIDEO_SIDE, 4)
    return float(np.abs(shown[..., :3] - np.asarray(on_white(name, VIDEO_SIDE), np.float32)).mean())


@pytest.mark.skipif(av is None, reason="pip install 'mlx_mm[video]'")
def test_a_video_shows_the_frame_that_fits_and_plays_from_it(opened: Opening) -> None:
    page = opened("/?q=a+rainbow&kind=video&all=1")
    there = f"{CELL} video"
    page.wait_for_selector(there)
    until(page, "selector => document.querySelector(selector).readyState >= 2", there)
    assert page.evaluate("selector => document.querySelector(selector).currentTime", there) == VIDEO_TURN
    assert difference(page, there, "rainbow") < 12 < difference(page, there, "house")
    page.locator(CELL).click()
    large = "dialog video.large"
    page.wait_for_selector(large)
    until(page, "selector => document.querySelector(selector).readyState >= 2", large)
    assert difference(page, large, "rainbow") < 12
    page.evaluate(PLAYED, large)
    until(
        page,
        "([selector, start]) => document.querySelector(selector).currentTime > start + 0.2",
        [large, VIDEO_TURN],
    )


@pytest.mark.skipif(av is None, reason="pip install 'mlx_mm[video]'")
def test_a_video_that_fits_from_its_start_shows_its_beginning(opened: Opening) -> None:
    page = opened("/?q=a+house&kind=video&all=1")
    page.wait_for_selector(f"{CELL} .badge")
    assert page.locator(f"{CELL} video").count() == 0
    picture = page.locator(f"{CELL} img")
    assert picture.evaluate("async img => { await img.decode(); return img.naturalWidth; }") == VIDEO_SIDE
    page.locator(CELL).click()
    page.wait_for_selector("dialog video.large")
    assert page.get_attribute("dialog video.large", "src").endswith("#t=0")
    page.get_by_role("button", name="More like this").click()
    page.wait_for_selector("dialog", state="detached")
    until(page, "document.querySelector('.grid .cell')?.title === 'moving.webm'")
    assert "like=" in page.url


def test_sounds_have_a_marked_part_and_play_from_it(opened: Opening) -> None:
    page = opened("/?q=a+dog+barks&kind=audio")
    cell = page.locator(f"{CELL}[title='late_dog.flac']")
    cell.locator("svg path").wait_for()
    part = cell.locator("rect.part")
    part.wait_for()
    width = float(cell.locator("svg").get_attribute("viewBox").split()[2])
    start, length = float(part.get_attribute("x")) / width, float(part.get_attribute("width")) / width
    assert start <= 20 / 30 < start + length
    cell.locator("button.play").click()
    cell.locator("rect.at").wait_for()
    assert float(cell.locator("rect.at").get_attribute("x")) / width >= start - 0.01
    cell.locator("button.play").click()
    cell.locator("rect.at").wait_for(state="detached")
