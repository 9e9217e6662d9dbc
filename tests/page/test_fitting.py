"""Small windows, large letters, fingers, and what a person's system asks for, in a real browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import Opening, until  # type: ignore[attr-defined]

CELL = ".grid .cell"
VIEWS = ["", "?q=dog&all=1", "?view=duplicates", "?view=index", "?item=1"]
# Buttons and fields of which a part is beyond the window; the views at the top can be scrolled.
CUT = """() => [...document.querySelectorAll("button, input, select, textarea")]
  .filter(one => one.checkVisibility() && !one.disabled && !one.closest("nav, .cell"))
  .map(one => [one.outerHTML.slice(0, 120), one.getBoundingClientRect()])
  .filter(([, box]) => box.width && (box.left < -1 || box.right > innerWidth + 1))
  .map(([html]) => html)"""


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_the_window(opened: Opening, view: str) -> None:
    page = opened(f"/{view}")
    for width in (320, 768, 1440):
        page.set_viewport_size({"width": width, "height": 700})
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


@pytest.mark.parametrize("letters", [100, 200])
def test_all_fits_at_twice_the_size(opened: Opening, letters: int) -> None:
    """A window of 1280 pixels in a browser that shows all twice as large, and letters twice as large again."""
    page = opened(viewport={"width": 640, "height": 450}, device_scale_factor=2)
    for view in (*VIEWS, "filters", "chat"):
        if view in ("filters", "chat"):
            page.goto(page.url.split("/?")[0])
            page.wait_for_selector(CELL)
            page.get_by_role("button", name="Filters" if view == "filters" else "Ask", exact=True).click()
        else:
            page.goto(page.url.split("/?")[0].rstrip("/") + f"/{view}")
        page.wait_for_selector(".grid .cell, section .card, section .group, dialog dl")
        page.evaluate("percent => document.documentElement.style.fontSize = `${percent}%`", letters)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        assert page.evaluate(CUT) == [], view


def test_fingers_open_go_on_and_select(opened: Opening) -> None:
    page = opened(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    names = page.locator(CELL).evaluate_all("cells => cells.map(cell => cell.title)")
    page.locator(CELL).first.tap()
    page.wait_for_selector(f"dialog h2:has-text('{names[0]}')")
    page.locator("dialog .step.on").tap()
    page.wait_for_selector(f"dialog h2:has-text('{names[1]}')")
    page.locator("dialog .close").tap()
    page.wait_for_selector("dialog", state="detached")
    check = page.locator(f"{CELL} .check").nth(2)
    assert float(check.evaluate("one => getComputedStyle(one).opacity")) > 0.5  # nothing hovers here
    check.tap()
    page.wait_for_selector(".selection")
    page.locator(".selection").get_by_role("button", name="Ask about it").tap()
    page.wait_for_selector(".ask .attached :is(img, .note)")
    small = page.locator("button:visible:not(.link)").evaluate_all(
        "all => all.map(one => [one.className, one.getBoundingClientRect()])"
        ".filter(([, box]) => Math.min(box.width, box.height) < 24).map(([name]) => name)"
    )
    assert small == []


def luminance(colour: str) -> float:
    """Relative, as WCAG has it, of a computed colour."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(page: Any, selector: str, name: str) -> float:
    """Between a colour of an element and what is behind the page."""
    found = page.eval_on_selector(selector, "(one, name) => getComputedStyle(one)[name]", name)
    both = sorted((luminance(found), luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))))
    return (both[1] + 0.05) / (both[0] + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_more_contrast_where_it_is_asked_for(opened: Opening, theme: str) -> None:
    found = {}
    for wanted in ("no-preference", "more"):
        page = opened("/?view=duplicates", color_scheme=theme, contrast=wanted)
        page.wait_for_selector(".copy")
        found[wanted] = [
            contrast(page, "dd.faint", "color"),
            contrast(page, ".copy:not(.kept)", "borderTopColor"),
        ]
    assert found["more"][0] > 14 > found["no-preference"][0] >= 4.5
    assert found["more"][1] >= 3 > found["no-preference"][1]


@pytest.mark.parametrize(("wanted", "seconds"), [("no-preference", 0.2), ("reduce", 0)])
def test_nothing_moves_where_that_is_asked_for(opened: Opening, wanted: str, seconds: float) -> None:
    page = opened("/?q=dog", reduced_motion=wanted)
    page.wait_for_selector(CELL)
    page.eval_on_selector(".with-scale", "one => one.classList.add('stale')")
    longest = page.evaluate(
        "Math.max(...[...document.querySelectorAll('*')].map(one => getComputedStyle(one))"
        ".flatMap(style => [style.transitionDuration, style.animationDuration]).map(parseFloat))"
    )
    assert longest == seconds


def test_what_is_selected_shows_in_forced_colours(opened: Opening) -> None:
    page = opened(forced_colors="active")
    page.focus(f"{CELL}[tabindex='0']")
    page.keyboard.press("Space")
    until(page, "document.querySelector('[aria-selected=true]') !== null")
    page.keyboard.press("ArrowRight")
    until(page, "getComputedStyle(document.querySelector('[aria-selected=true]')).outlineWidth === '4px'")
