"""A server with an index of its own, and Debian's or another Chromium that looks at its page."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

PACKAGE = Path(__file__).parents[2] / "mlx_mm"
VIDEO_SIDE, VIDEO_TURN = 128, 3  # pixels; seconds after which a video shows its second picture
PICTURES = ("cat", "dog", "pizza", "owl", "red_apple", "car", "frog", "penguin", "whale", "mushroom")
HOSTILE = "<img src=x onerror=alert(1)>\u202egpj.\x07.png"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

try:
    import av
except ImportError:
    av = None  # type: ignore[assignment]
try:
    from playwright.sync_api import Browser, Error, Page, sync_playwright
except ImportError:
    sync_playwright = None  # type: ignore[assignment]
COUNT = 15 if av is None else 16  # of what is in the index


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip where there is nothing to look with; the reason says what to install."""
    reason = "pip install playwright" if sync_playwright is None else "apt-get install chromium"
    if sync_playwright is None or CHROMIUM is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"the page's tests need a browser: {reason}"))


class Server:
    """`mlx_mm serve` in a process of its own, which can end and come back on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.told = folder, 0, dict[str, Any]()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        code = "from mlx_mm.cli import main; raise SystemExit(main())"
        command = [sys.executable, "-c", code, "serve", "--ready-json", "--port", str(self.port)]
        command += [argument for name in ("emoji-siglip2", "sounds-clap", "emoji-glm4v") for argument in ("-m", name)]
        command += ["--index", str(self.folder / "page.mmindex")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        self.told = json.loads(self._process.stdout.readline())
        self.port = self.told["port"]

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            assert self._process.stdout is not None
            self._process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def way_in(self) -> str:
        return f"{self.url}/open?token={self.told['token']}"


def make_files(folder: Path) -> None:
    """Pictures, a copy of one in another size, one whose name is an attack, sounds, and a file that is none."""
    folder.mkdir()
    for number, name in enumerate(PICTURES):
        path = folder / f"{name}.png"
        shutil.copy(PACKAGE / "bundled" / "pictures" / path.name, path)
        os.utime(path, (1_600_000_000 + number * 10**7,) * 2)
    on_white("mushroom", 96).save(folder / "mushroom_small.jpg", quality=90)
    shutil.copy(PACKAGE / "bundled" / "pictures" / "guitar.png", folder / HOSTILE)
    for name in ("dog", "thunder"):
        [sound] = (PACKAGE / "bundled" / "sounds").glob(f"{name}.*")
        shutil.copy(sound, folder / sound.name)
    barking, rate = soundfile.read(folder / "dog.flac", dtype="float32")
    quiet = np.zeros(rate * 30, np.float32)
    quiet[rate * 20 : rate * 20 + len(barking)] = barking
    soundfile.write(folder / "late_dog.flac", quiet, rate)
    (folder / "broken.png").write_bytes(b"no picture")
    if av is not None:
        make_video(folder / "moving.webm", "house", "rainbow")
        os.utime(folder / "moving.webm", (1_500_000_000,) * 2)


def on_white(name: str, side: int) -> Image.Image:
    """A bundled picture without its transparency."""
    with Image.open(PACKAGE / "bundled" / "pictures" / f"{name}.png") as picture:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
    return white.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def make_video(path: Path, *names: str) -> None:
    """Each of these pictures for VIDEO_TURN seconds, in what every browser plays."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=2)
        stream.width = stream.height = VIDEO_SIDE
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", 2
        for name in names:
            for _ in range(2 * VIDEO_TURN):
                container.mux(stream.encode(av.VideoFrame.from_image(on_white(name, VIDEO_SIDE))))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    import mlx_mm

    folder = tmp_path_factory.mktemp("page")
    make_files(folder / "files")
    with mlx_mm.Index(folder / "page.mmindex") as index:
        index.refresh(folder / "files", videos=av is not None)
    one = Server(folder)
    one.start()
    yield one
    one.stop()


@pytest.fixture
def added(server: Server) -> Iterator[Path]:
    """A folder that a test may add to the index, which then has it no more."""
    import mlx_mm

    folder = server.folder / "more"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)
    with mlx_mm.Index(server.folder / "page.mmindex") as index:
        index.forget(folders=[folder], wait=20)


@pytest.fixture
def deciding(server: Server) -> Iterator[None]:
    """What is decided about duplicates is forgotten afterwards."""
    from mlx_mm.search.store import Store

    yield
    store = Store(server.folder / "page.mmindex")
    with store.writing() as rows:
        rows.execute("DELETE FROM kept_apart")
    store.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def until(page: Page, expression: str, given: object = None) -> None:
    """Wait for what is true in the page. Playwright's own waiting makes code from text, which the policy forbids."""
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(Error):  # the page is just loaded anew
            if page.evaluate(expression, given):
                return
        assert time.monotonic() < end, f"not in time: {expression}"
        page.wait_for_timeout(25)


class Seen:
    """What went wrong in a page, which no test may leave: errors, violations of the policy, foreign requests."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.allowed: tuple[str, ...] = ()

    def watch(self, page: Page, url: str) -> None:
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda asked: self._check(asked.url, url))

    def _check(self, asked: str, url: str) -> None:
        if not asked.startswith((f"{url}/", "data:", "blob:")):
            self.errors.append(f"a request to {asked}")

    def left(self) -> list[str]:
        return [line for line in self.errors if not any(part in line for part in self.allowed)]


@pytest.fixture
def seen() -> Iterator[Seen]:
    one = Seen()
    yield one
    assert one.left() == []


Opening = Callable[..., "Page"]


@pytest.fixture
def opened(browser: Browser, server: Server, seen: Seen) -> Iterator[Opening]:
    """Opens the page in a browser without a past; options are those of a context."""
    contexts = []

    def open_page(address: str = "", **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, "locale": "en-US", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        seen.watch(page, server.url)
        page.goto(server.way_in)
        if address:
            page.goto(server.url + address)
        page.wait_for_selector(".grid .cell, section, .locked, .empty")
        return page

    yield open_page
    for context in contexts:
        context.close()
