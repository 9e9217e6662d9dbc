"""What the page costs with so many items: first paint, from a key to results, scrolling, memory, nodes and bytes.

    python benchmarks/page.py 100000 [--minutes 10] [--queries 60]

An index is made with rows as a refresh writes them, of random vectors around those of the bundled pictures, and their
thumbnails; `mlx_mm serve` serves it, and Chromium (playwright, and /usr/bin/chromium or another one) looks at it
without a GPU. From key to results: from the last key of a query until its hits are in the page, the page's pause of
140 ms among it. Frames: while the grid is scrolled by wheel, those that the compositor reports to a trace as
dropped, and those of the page that came more than 33 ms after the one before. Memory: of the
tab without its garbage, with the same hits on it, at the start and at each quarter of some minutes of searching,
scrolling, opening and closing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

import mlx_mm
from mlx_mm.search.store import Store
from mlx_mm.search.thumbnail_files import thumbnail_path

PACKAGE = Path(mlx_mm.__file__).parent
PAGE = PACKAGE / "server" / "page"
WORDS = ("dog", "owl", "a red apple", "pizza", "house", "rain", "guitar", "car", "a cat", "tree")


def fill(index: Path, folder: Path, count: int) -> None:
    """Rows of `count` pictures, of which the first few are real."""
    shutil.copytree(PACKAGE / "bundled" / "pictures", folder, ignore=shutil.ignore_patterns("*.txt"))
    with mlx_mm.Index(index) as made:
        made.refresh(folder)
    random = np.random.default_rng(0)
    store = Store(index)
    with store.writer(), store.writing() as rows:
        known = rows.execute(
            "SELECT c.id, c.digest, v.space, v.vector FROM contents c JOIN vectors v ON v.content = c.id"
        ).fetchall()
        real = np.stack([np.frombuffer(row[3], "<f2").astype(np.float32) for row in known])
        root = rows.execute("SELECT id FROM roots").fetchone()[0]
        first = max(row[0] for row in known) + 1
        shapes = ((400, 300), (300, 400), (400, 400), (480, 270))
        numbers = range(first, first + count - len(known))
        digests = [number.to_bytes(16, "big") for number in numbers]
        contents, files, vectors = [], [], []
        for number, digest in zip(numbers, digests, strict=True):
            width, height = shapes[number % 4]
            moment = 1_750_000_000 - number * 3000
            contents.append((number, digest, "image", 50_000, width, height, moment))
            name = f"{number // 1000:03}/IMG_{number:06}.jpg"
            files.append((number, root, name.encode(), name, 50_000, moment * 10**9, number, number))
            vector = real[number % len(real)] + random.standard_normal(real.shape[1], dtype=np.float32) * 0.12
            vectors.append((number, known[0][2], (vector / np.linalg.norm(vector)).astype("<f2").tobytes()))
        rows.executemany(
            "INSERT INTO contents(id, digest, kind, size, width, height, taken_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            contents,
        )
        rows.executemany(
            "INSERT INTO files(id, root, path, name, size, mtime_ns, inode, content, state, device) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'here', 1)",
            files,
        )
        rows.executemany("INSERT INTO vectors(content, space, part, vector) VALUES (?, ?, 0, ?)", vectors)
    for place, digest in enumerate(digests):  # a file has 65,000 names at most
        source = thumbnail_path(index, known[place % len(known)][1])
        path = thumbnail_path(index, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, path)


# The time from the next key until the grid no longer waits for an answer, in window.took.
TOOK = """() => {
window.took = 0;
let start = 0, asked = false;
addEventListener("keydown", () => start = performance.now(), {once: true});
const watch = new MutationObserver(() => {
  if (!start) return;
  const waits = document.querySelector(".stale") !== null;
  asked ||= waits;
  if (asked && !waits) { window.took = performance.now() - start; watch.disconnect(); }
});
watch.observe(document.body, {subtree: true, childList: true, attributes: true});
}"""
FRAMES = """async () => {
const times = []; let on = true;
const tick = t => { times.push(t); if (on) requestAnimationFrame(tick); };
requestAnimationFrame(tick);
await new Promise(done => setTimeout(done, 8000));
on = false;
return times.slice(1).map((t, n) => t - times[n]); }"""
CATEGORIES = ["cc", "benchmark", "disabled-by-default-devtools.timeline.frame"]


def wait(page: Any, expression: str, given: object = None) -> None:
    """For a minute at most. The page looks by itself, every 5 ms: to be asked so often would be work of its own."""
    page.evaluate(
        f"""async given => {{
          const end = performance.now() + 60000;
          while (!({expression})) {{
            if (performance.now() > end) throw new Error("not in a minute: " + {json.dumps(expression)});
            await new Promise(done => setTimeout(done, 5));
          }}
        }}""",
        given,
    )


def search(page: Any, words: str) -> float:
    """Milliseconds from the last key until the hits of these words are there."""
    page.focus("#words")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(words[:-1])
    wait(page, "new URLSearchParams(location.search).get('q') === given", words[:-1])
    wait(page, "!document.querySelector('.stale')")
    page.evaluate(TOOK)
    page.keyboard.type(words[-1])
    wait(page, "window.took > 0")
    return float(page.evaluate("window.took"))


def memory(page: Any) -> dict[str, float]:
    """Of the tab without its garbage, while it shows the hits of the same words."""
    search(page, WORDS[0])
    page.evaluate("scrollTo(0, 0)")
    time.sleep(1)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    told = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {
        "heap_mb": told["JSHeapUsedSize"] / 1e6,
        "nodes": told["Nodes"],
        "listeners": told["JSEventListeners"],
        "resident_mb": resident(),
    }


def resident() -> float:
    """Of the renderer that is largest, MB."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"--type=renderer" in status.read_bytes():
                lines = (status.parent / "status").read_text().splitlines()
                found += [int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS")]
        except OSError:
            continue
    return max(found, default=0.0)


def first_pictures(page: Any, url: str) -> dict[str, float]:
    """Milliseconds from asking for the page: the first paint, the first cell, the first picture, and all the rows."""
    rows = []
    for _ in range(5):
        page.goto(url, wait_until="commit")
        times = []
        for what in (
            "performance.getEntriesByName('first-contentful-paint').length",
            "document.querySelector('.grid .cell')",
            "[...document.querySelectorAll('.grid img')].some(img => img.complete && img.naturalWidth)",
            "document.querySelector('.grid').ariaRowCount > 100",
        ):
            wait(page, what)
            times.append(page.evaluate("performance.now()"))
        times[0] = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        rows.append(times)
    return dict(zip(("paint", "cell", "picture", "all"), map(statistics.median, zip(*rows, strict=True)), strict=True))


def scroll(browser: Any, page: Any) -> dict[str, object]:
    """Frames while the grid is scrolled by wheel for six seconds, by the compositor's own reports and by the page."""
    page.mouse.move(700, 500)
    page.evaluate(f"window.frames_told = ({FRAMES})(); 0")
    browser.start_tracing(page=page, categories=CATEGORIES)
    for _ in range(110):
        page.mouse.wheel(0, 240)
        time.sleep(0.05)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    gaps = page.evaluate("window.frames_told")
    reports: dict[int, Counter[str]] = {}
    for event in events:
        told = event["args"].get("frame_reporter") or event["args"].get("chrome_frame_reporter")
        if event["name"] == "PipelineReporter" and told:
            reports.setdefault(event["pid"], Counter())[told["state"]] += 1
    renderers = {event["pid"] for event in events if event["args"].get("name") == "Renderer"}
    return {
        "compositor": max((reports[pid] for pid in renderers & set(reports)), key=Counter.total, default={}),
        "frames": len(gaps),
        "over_33_ms": sum(gap > 33.4 for gap in gaps),
        "longest_ms": max(gaps),
        "nodes": page.evaluate("document.querySelectorAll('*').length"),
    }


def use(page: Any, rounds: int) -> None:
    """Search, open and close an item, and scroll."""
    search(page, WORDS[rounds % len(WORDS)])
    if page.locator(".grid .cell").count():  # a handle would keep the cell from being given back
        page.focus(".grid [tabindex='0']")
        page.keyboard.press("Enter")
        page.locator("dialog dl").wait_for()
        page.keyboard.press("Escape")
        page.locator("dialog").wait_for(state="detached")
        wait(page, "document.activeElement.closest('.grid')")  # which gets the focus a frame later
    for _ in range(10):
        page.mouse.wheel(0, 900)
        time.sleep(0.03)


def measure(url: str, options: argparse.Namespace) -> dict[str, object]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    found: dict[str, object] = {}
    plain = url.split("/open")[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(url)
        page.wait_for_selector(".grid .cell img")
        found["first_ms"] = first_pictures(page, plain)
        found["nodes"] = page.evaluate("document.querySelectorAll('*').length")
        took = sorted(search(page, WORDS[n % len(WORDS)]) for n in range(options.queries))
        found["key_to_results_ms"] = {"p50": took[len(took) // 2], "p95": took[int(len(took) * 0.95)], "n": len(took)}
        page.goto(plain)
        page.wait_for_selector(".grid .cell img")
        wait(page, "document.querySelector('.grid').ariaRowCount > 100")
        found["scroll"] = scroll(browser, page)
        print(json.dumps(found), file=sys.stderr, flush=True)
        start = time.monotonic()
        rounds, points = 0, [{"minute": 0.0, "rounds": 0, **memory(page)}]
        for part in range(1, 5):
            while time.monotonic() < start + 15 * options.minutes * part:
                use(page, rounds)
                rounds += 1
            points.append({"minute": options.minutes * part / 4, "rounds": rounds, **memory(page)})
            print(json.dumps(points[-1]), file=sys.stderr, flush=True)
        found["memory"] = points
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--queries", type=int, default=60)
    options = parser.parse_args()
    files = [path for path in PAGE.rglob("*") if path.is_file()]
    own = [path for path in files if "vendor" not in path.parts]
    sizes = {
        "own": sum(path.stat().st_size for path in own),
        "without_languages": sum(path.stat().st_size for path in own if path.suffix != ".json"),
        "languages": {path.stem: path.stat().st_size for path in own if path.suffix == ".json"},
        "vendored": sum(path.stat().st_size for path in files if path not in own and path.suffix == ".js"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        index = Path(temporary) / "page.mmindex"
        fill(index, Path(temporary) / "pictures", options.count)
        command = [sys.executable, "-m", "mlx_mm", "serve", "--port", "0", "--ready-json", "-m", "emoji-siglip2"]
        with subprocess.Popen([*command, "--index", str(index)], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            try:
                found = measure(f"{told['url']}/open?token={told['token']}", options)
            finally:
                server.terminate()
    print(json.dumps({"items": options.count, "bytes": sizes, **found}, indent=1))


if __name__ == "__main__":
    main()
