"""Duplicates, questions, the index, languages and what happens to the page from outside, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Opening, Seen, Server, until  # type: ignore[attr-defined]

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
CELL = ".grid .cell"


def answering(page: Any, *deltas: dict[str, object], **last: object) -> None:
    """Answers of the server in the place of a model's: what it might say."""
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **last})
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))


def ask(page: Any, question: str, name: str = "cat.png") -> None:
    page.focus(f"{CELL}[title='{name}']")
    page.keyboard.press("c")
    page.wait_for_selector(".compose .attached img")
    page.wait_for_selector(".compose textarea:focus")
    page.keyboard.type(question)
    page.keyboard.press("Enter")


def test_an_answer_comes_with_boxes_calls_and_folded_reasoning(opened: Opening) -> None:
    page = opened()
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "zoom", "arguments": '{"by": 2}'}}
    answering(
        page,
        {"reasoning_content": "It has whiskers."},
        {"content": "A **cat**:\n- orange\n- round"},
        {"tool_calls": [call]},
        mlx_mm={"boxes": [[100, 200, 600, 900]], "pixel_boxes": []},
    )
    ask(page, "Where is it?")
    page.wait_for_selector(".boxed rect")
    box = page.locator(".boxed rect").evaluate(
        "r => ['x', 'y', 'width', 'height'].map(name => Number(r.getAttribute(name)))"
    )
    assert box == [100, 200, 500, 700]
    frame, picture = (page.locator(f".boxed {part}").bounding_box() for part in ("svg", "img"))
    assert frame == picture
    assert page.locator(".said .answer li").all_inner_texts() == ["orange", "round"]
    assert page.inner_text(".answer b") == "cat"
    assert not page.locator(".reasoning p").is_visible()
    assert page.inner_text(".call") == 'zoom {"by": 2}'
    page.reload()  # the tab keeps it
    page.wait_for_selector(CELL)
    page.click(".ask-toggle")
    page.wait_for_selector(".boxed rect")


def test_an_answer_that_attacks_is_shown_as_text(opened: Opening) -> None:
    page = opened()
    said = "<script>alert(1)</script> <img src=x onerror=alert(2)> \u202eabc\x1b[31m"
    answering(page, {"content": said})
    ask(page, "<b>bold?</b>")
    page.wait_for_selector(".answer p")
    assert page.inner_text(".answer p") == "<script>alert(1)</script> <img src=x onerror=alert(2)> ⟨U+202E⟩abc␛[31m"
    assert page.inner_text(".said.user p") == "<b>bold?</b>"


def test_an_answer_can_be_stopped_and_a_question_follows(opened: Opening, server: Server, seen: Seen) -> None:
    page = opened()
    waiting = []
    page.route("**/v1/chat/completions", lambda route: waiting.append(route))
    ask(page, "What is this?")
    page.click(".compose .stop")
    page.wait_for_selector(".said small:has-text('Stopped.')")
    page.unroute("**/v1/chat/completions")
    asked = []
    page.on("request", lambda request: asked.append(request) if "chat" in request.url else None)
    page.keyboard.type("Is it a cat?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".compose .main:not(.stop)")
    until(page, "document.querySelectorAll('.said .answer p').length === 1")
    messages = asked[-1].post_data_json["messages"]
    assert [part.get("type") for part in messages[0]["content"]] == ["image_url", "text"]
    assert messages[-1]["content"] == "Is it a cat?"
    assert page.evaluate("fetch('/health').then(answer => answer.json())")["running"] == 0
    assert "demonstration model" in page.inner_text(".ask")


def test_an_answer_that_is_stopped_ends_in_the_server_too(opened: Opening) -> None:
    page = opened()

    def told(name: str) -> int:
        text = page.evaluate("fetch('/metrics').then(answer => answer.text())")
        [line] = [line for line in text.splitlines() if line.startswith(f"mlx_mm_{name} ")]
        return int(line.split()[1])

    before = told("cancelled_total")
    # A thousand tokens of nonsense, for which it needs seconds.
    endless = {"max_tokens": 1500, "temperature": 2, "repetition_penalty": 100, "seed": 2}
    page.route(
        "**/v1/chat/completions",
        lambda route: route.continue_(post_data=json.dumps({**route.request.post_data_json, **endless})),
    )
    ask(page, "What is this?")
    page.wait_for_selector(".said .answer p")
    assert told("running") == 1
    page.focus(".compose textarea")
    page.keyboard.press("Escape")
    page.wait_for_selector(".said small:has-text('Stopped.')")
    until(page, "fetch('/health').then(answer => answer.json()).then(now => now.running === 0)")
    assert told("cancelled_total") == before + 1
    said = page.inner_text(".said .answer")
    page.wait_for_timeout(200)
    assert page.inner_text(".said .answer") == said


def test_what_is_kept_apart_stays_so(opened: Opening, deciding: None) -> None:
    page = opened("/?view=duplicates")
    page.wait_for_selector(".group")
    kept = page.locator(".copy.kept")
    assert kept.locator(".name").inner_text() == "mushroom.png"
    assert page.locator(".copy .differs").all_inner_texts()[0] == "96 × 96"
    page.get_by_label("Keep this one").check()
    assert page.locator(".copy.kept .name").inner_text() == "mushroom_small.jpg"
    with page.expect_download() as started:
        page.get_by_role("button", name="Save the list of copies").click()
    assert Path(started.value.path()).read_text("utf-8").split("/")[-1] == "mushroom.png\n"
    page.get_by_role("button", name="keep apart").click()
    page.wait_for_selector("text=There are no duplicates of this kind.")
    page.reload()
    page.wait_for_selector("text=There are no duplicates of this kind.")


def test_a_refresh_tells_how_far_it_is_in_every_tab(opened: Opening, server: Server, seen: Seen, added: Path) -> None:
    seen.allowed = ("400",)
    page = opened("/?view=index")
    other = page.context.new_page()
    other.goto(f"{server.url}/?view=index")
    page.wait_for_selector("text=Could not be read: 1")
    (added / "sun.png").write_bytes((server.folder / "files" / "dog.png").read_bytes() + b"\0")
    page.bring_to_front()
    page.fill("#folder", "more")
    page.get_by_role("button", name="Add the folder").click()
    page.wait_for_selector("[role=alert]:has-text('a whole path')")
    page.fill("#folder", str(added))
    page.get_by_role("button", name="Add the folder").click()
    page.wait_for_selector("text=new: 1")
    page.wait_for_selector(f"bdi:has-text('{added}')")
    other.bring_to_front()
    other.wait_for_selector("text=new: 1")


@pytest.mark.parametrize("language", ["de", "fr", "es", "zh", "ja"])
def test_other_languages(opened: Opening, language: str) -> None:
    page = opened(locale=language)
    words = json.loads((Path(__file__).parents[2] / f"mlx_mm/server/page/i18n/{language}.json").read_text("utf-8"))
    assert page.get_attribute("#words", "placeholder") == words["searchFor"]
    assert page.get_attribute("html", "lang") == language
    loaded = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    assert [name.split("/")[-1] for name in loaded if "/i18n/" in name] == [f"{language}.json"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_arabic_is_mirrored(opened: Opening) -> None:
    page = opened(locale="ar")
    assert page.get_attribute("html", "dir") == "rtl"
    first, second = (cell.bounding_box() for cell in page.query_selector_all(CELL)[:2])
    assert first["x"] > second["x"]
    page.focus(f"{CELL}[tabindex='0']")
    before = page.evaluate("document.activeElement.title")
    page.keyboard.press("ArrowLeft")
    until(page, "before => document.activeElement.title !== before", before)
    assert page.evaluate("document.activeElement.getAttribute('aria-colindex')") == "2"


@pytest.mark.skipif(not AXE.is_file(), reason="npm install --prefix tests/page axe-core")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened: Opening, theme: str) -> None:
    page = opened(color_scheme=theme)
    answering(page, {"reasoning_content": "So."}, {"content": "A cat."})
    for view in ("/", "/?q=dog&all=1", "/?kind=audio", "/?view=duplicates", "/?view=index", "/?item=1", "chat"):
        if view == "chat":
            page.goto(page.url.split("/?")[0])
            page.wait_for_selector(CELL)
            ask(page, "What?")
            page.wait_for_selector(".answer p")
        else:
            page.goto(page.url.split("/?")[0].rstrip("/") + view)
            page.wait_for_selector(".grid .cell, section .card, section .status, dialog dl")
        page.wait_for_timeout(500)
        page.evaluate(AXE.read_text("utf-8"))
        found = page.evaluate("axe.run()")["violations"]
        bad = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
        assert bad == [], view


def test_without_the_way_in_nothing_is_shown(opened: Opening, server: Server, seen: Seen) -> None:
    seen.allowed = ("401",)
    page = opened()
    page.context.clear_cookies()
    page.reload()
    page.wait_for_selector(".locked input")
    page.fill(".locked input", "nonsense")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    page.fill(".locked input", server.way_in)
    page.keyboard.press("Enter")
    page.wait_for_selector(CELL)
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


def test_the_server_goes_and_comes_back(opened: Opening, server: Server, seen: Seen) -> None:
    seen.allowed = ("ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET", "ERR_INCOMPLETE", "401")
    page = opened()
    server.stop()
    page.keyboard.press("/")
    page.keyboard.type("owl")
    page.wait_for_selector("[role=alert]:has-text('does not answer')")
    server.start()
    page.wait_for_selector(".locked input")  # it is another session, which the page says
    page.fill(".locked input", server.told["token"])
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.grid .cell')?.title === 'owl.png'")
