"""Searching by words, by example and by keys, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import COUNT, HOSTILE, PACKAGE, Opening, Server, until  # type: ignore[attr-defined]

CELL = ".grid .cell"
SHOWN = "count => document.querySelectorAll('.grid .cell').length === count"


def names(page: Any) -> list[str]:
    return [cell.get_attribute("title") for cell in page.query_selector_all(CELL)]


def wait_for_first(page: Any, name: str) -> None:
    until(page, "name => document.querySelector('.grid .cell')?.title === name", name)


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.title || document.activeElement.id"))


def search(page: Any, words: str) -> None:
    page.keyboard.press("/")
    page.keyboard.type(words)


def test_words_are_found_while_they_are_typed_and_stay_in_the_address(opened: Opening) -> None:
    page = opened()
    assert len(names(page)) == COUNT
    search(page, "owl")
    wait_for_first(page, "owl.png")
    assert page.url.endswith("/?q=owl")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("a penguin")
    wait_for_first(page, "penguin.png")
    page.reload()
    wait_for_first(page, "penguin.png")
    assert page.input_value("#words") == "a penguin"
    weaker = page.get_by_role("button", name="Show weaker matches")
    weaker.click()
    until(page, SHOWN, COUNT)
    page.go_back()
    until(page, "!location.search")
    until(page, SHOWN, COUNT)
    page.go_forward()
    wait_for_first(page, "penguin.png")


def test_from_the_field_to_an_answer_by_keys_alone(opened: Opening) -> None:
    page = opened()
    search(page, "dog")
    until(page, "[...document.querySelectorAll('.grid .cell')].some(cell => cell.title === 'dog.png')")
    until(page, "location.search === '?q=dog' && document.querySelectorAll('.grid .cell').length < 10")
    until(page, "!document.querySelector('.stale')")
    page.keyboard.press("ArrowDown")
    until(page, "document.activeElement.getAttribute('role') === 'gridcell'")
    while focused(page) != "dog.png":
        before = focused(page)
        page.keyboard.press("ArrowRight")
        until(page, "before => document.activeElement.title !== before", before)
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] img.large")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    until(page, "document.activeElement.title === 'dog.png'")
    page.keyboard.press("c")
    page.wait_for_selector(".ask .attached img")
    page.wait_for_selector(".compose textarea:focus")
    page.keyboard.type("What is this?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".said .answer p")
    page.wait_for_selector(".compose button:has-text('Send')")
    assert "dog" in page.inner_text(".said .answer").lower()


def test_keys_move_select_and_open_alike(opened: Opening) -> None:
    page = opened()
    page.focus(f"{CELL}[tabindex='0']")
    order = names(page)
    page.keyboard.press("ArrowRight")
    until(page, "name => document.activeElement.title === name", order[1])
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector(f"{CELL}[aria-selected='true'] >> nth=1")
    assert page.locator(f"{CELL}[aria-selected='true']").count() == 2
    page.keyboard.press("Escape")
    assert page.locator(f"{CELL}[aria-selected='true']").count() == 0
    page.keyboard.press("ControlOrMeta+End")
    until(page, "name => document.activeElement.title === name", order[-1])
    page.keyboard.press("ControlOrMeta+Home")
    until(page, "name => document.activeElement.title === name", order[0])
    page.keyboard.press("s")
    page.wait_for_selector(".chip .example img")
    assert "like=" in page.url
    wait_for_first(page, order[0])


def test_a_dropped_picture_is_an_example(opened: Opening) -> None:
    page = opened()
    data = list((PACKAGE / "bundled" / "pictures" / "frog.png").read_bytes())
    transfer = page.evaluate_handle(
        "data => { const t = new DataTransfer();"
        " t.items.add(new File([new Uint8Array(data)], 'x.png', {type: 'image/png'})); return t; }",
        data,
    )
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    wait_for_first(page, "frog.png")
    page.reload()
    wait_for_first(page, "frog.png")


def test_a_file_that_is_nothing_is_refused_in_words(opened: Opening) -> None:
    page = opened()
    transfer = page.evaluate_handle(
        "() => { const t = new DataTransfer(); t.items.add(new File(['x'], 'x.txt')); return t; }"
    )
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("[role=alert]:has-text('no picture or sound')")


def test_ten_thousand_cells_in_few_nodes(opened: Opening, server: Server) -> None:
    page = opened()
    columns = page.evaluate("fetch('/api/outline').then(answer => answer.json())")
    place = columns["kinds"].index("i")
    picture = columns["contents"][32 * place : 32 * (place + 1)]
    count = 10_000
    many = {
        "ids": list(range(1, count + 1)),
        "names": [f"{n:05}.png" for n in range(count)],
        "contents": picture * count,
        "kinds": "i" * count,
        "ratios": [(0.75, 1.5, 1.0, 1.33)[n % 4] for n in range(count)],
        "moments": [1_700_000_000 - 3600 * n for n in range(count)],
    }
    page.route("**/api/outline?*", lambda route: route.fulfill(body=json.dumps(many), content_type="application/json"))
    page.reload()
    page.wait_for_selector(f"{CELL}[title='00000.png']")
    page.focus(f"{CELL}[tabindex='0']")
    most, place = 0, 0
    for key, steps in (
        ("ArrowRight", 40),
        ("ArrowDown", 60),
        ("PageDown", 40),
        ("ControlOrMeta+End", 1),
        ("PageUp", 20),
    ):
        for _ in range(steps):
            page.keyboard.press(key)
            until(page, "document.activeElement.getAttribute('role') === 'gridcell'")
            most = max(most, page.evaluate("document.querySelectorAll('*').length"))
        until(
            page,
            "(() => { const b = document.activeElement.getBoundingClientRect();"
            " return b.top >= 0 && b.bottom <= innerHeight; })()",
        )
        place = int(focused(page)[:5])
    assert place > 9000
    assert most < 400
    grid = page.locator(".grid")
    rows = int(grid.get_attribute("aria-rowcount"))
    last = max(int(row.get_attribute("aria-rowindex")) for row in page.query_selector_all(".grid .row"))
    assert count / 12 < rows < count / 2
    assert last <= rows
    # Far from the view the focused cell stays, so that the next key goes on from it.
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_selector(f"{CELL}[title='00000.png']")
    assert int(focused(page)[:5]) == place


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_names_that_attack_are_shown_as_text(opened: Opening, theme: str) -> None:
    page = opened(color_scheme=theme)
    shown = HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\x07", "␇")
    assert shown in names(page)
    page.locator(f"{CELL}[title^='<img']").click()
    page.wait_for_selector("dialog h2 bdi")
    assert page.inner_text("dialog h2") == shown
    page.fill("dialog .pill input", "<b>tag</b>")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog .chip bdi")
    assert page.inner_text("dialog .chip bdi") == "<b>tag</b>"
    page.click("dialog .chip button[aria-label^=Remove]")
    page.wait_for_selector("dialog .chip bdi", state="detached")


def test_filters_narrow_and_can_be_taken_away(opened: Opening) -> None:
    page = opened()
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Kind").select_option("audio")
    until(page, SHOWN, 3)
    assert page.url.endswith("?kind=audio")
    page.get_by_role("button", name="Remove Kind").click()
    until(page, SHOWN, COUNT)


def test_nothing_that_fits_teaches_what_does(opened: Opening, tmp_path: Path) -> None:
    page = opened("/?q=zzzz&name=x&kind=video")
    page.wait_for_selector(".empty .tries button >> nth=2")
    page.click(".empty .tries button")
    until(page, "[...document.querySelectorAll('.grid .cell')].some(cell => cell.title === 'dog.png')")
