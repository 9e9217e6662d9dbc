"""The demo's page: all in one file, without scripts or a network, and what models say is text in it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from command_line import Run

from mlx_mm.checkpoint import hub
from mlx_mm.cli import demo, demo_page, viewer
from mlx_mm.cli.demo_run import Answer, Demo, Hit, Search

HOSTILE = "<script>alert(1)</script>\"' onerror=x \x1b[2J\u202e&amp;"
MARK = re.compile(r'<rect x="([\d.]+)" y="0" width="([\d.]+)"')


class Parsed(HTMLParser):
    """Elements with their attributes, and the texts between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def hit(name: str, start: float | None = None, stop: float | None = None, strong: bool = True) -> Hit:
    return {"name": name, "score": 0.5, "strong": strong, "start": start, "stop": stop}


def search(query: str, *hits: Hit, language: str = "en") -> Search:
    fitting = [hit["name"] for hit in hits if hit["strong"]]
    return {"query": query, "language": language, "expected": "", "hits": list(hits), "fitting": fitting}


@pytest.fixture
def sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundled folder whose sounds are 30 s and 2 s of a tone that begins at 10 s and at once."""
    bundled = tmp_path / "bundled"
    (bundled / "sounds").mkdir(parents=True)
    (bundled / "pictures").symlink_to(hub.BUNDLED / "pictures")
    tone = np.sin(np.arange(8000 * 30) / 3).astype(np.float32) / 2
    soundfile.write(bundled / "sounds" / "short.ogg", tone[:16000], 8000)
    tone[:80000] = 0
    tone[160000:] = 0
    soundfile.write(bundled / "sounds" / "long.flac", tone, 8000)
    monkeypatch.setattr(hub, "BUNDLED", bundled)
    return bundled / "sounds"


@pytest.fixture
def result(sounds: Path, tmp_path: Path) -> Demo:
    answer: Answer = {
        "picture": "cat.png",
        "question": "Was ist das?",
        "language": "de",
        "expected": "",
        "answer": "eine Katze\nund mehr",
        "seconds": 0.5,
    }
    return {
        "models": [
            {
                "model": "emoji-siglip2",
                "knows": "drawings",
                "folder": "",
                "bits": 4,
                "source_bytes": 5_500_000,
                "bytes": 1_600_000,
                "seconds": 0.1,
            }
        ],
        "index": str(tmp_path / "demo.mmindex"),
        "pictures": {"files": 44, "new": 44},
        "searches": [search("بومة", hit("owl"), language="ar"), search("piano", hit("cat", strong=False))],
        "duplicates": {"identical": [["frog.png", "frog-copy.png"]]},
        "tags": {"cat": 1},
        "sounds": {"files": 46, "new": 2},
        "heard": [search("a tone", hit("long", 10.0, 20.0)), search("short one", hit("short", 0.0, 2.0))],
        "answers": [answer],
        "seconds": 9.0,
    }


def test_all_is_in_the_page(result: Demo, sounds: Path) -> None:
    page = Parsed(demo_page.page(result))
    sources = [str(one["src"]) for tag in ("img", "audio") for one in page.all(tag)]
    assert [source.split(";")[0] for source in sources] == [
        *["data:image/png"] * 2,
        "data:audio/flac",
        "data:audio/ogg",
    ]
    assert [source.partition("#")[2] for source in sources[2:]] == ["t=10", ""]
    data = sources[3].partition("base64,")[2]
    assert base64.b64decode(data) == (sounds / "short.ogg").read_bytes()
    said = " ".join(page.texts)
    for text in ("بومة", "Arabic, 0.50", "nothing fits", "0:10 to 0:20 of 0:30", "eine Katze\nund mehr", "0.50 s"):
        assert text in said
    assert "5.5 MB" in said
    assert "0:00 to" not in said  # of a sound that fits as a whole


def test_nothing_runs_and_nothing_is_fetched(result: Demo) -> None:
    """The policy allows this page's own style by its digest, and what data: addresses hold."""
    text = demo_page.page(result)
    page = Parsed(text)
    assert not {"script", "iframe", "object", "embed", "link", "form"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not [one for _, one in page.elements if "href" in one or "style" in one]
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    [policy] = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).split("; ")[:4] == [
        "default-src 'none'",
        "img-src data:",
        "media-src data:",
        f"style-src 'sha256-{digest}'",
    ]
    assert "url(" not in style
    assert "prefers-color-scheme: dark" in style


def test_it_can_be_read_aloud(result: Demo) -> None:
    page = Parsed(demo_page.page(result))
    assert page.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.elements if tag in ("h1", "h2")] == ["h1", *["h2"] * 5]
    assert all(image["alt"] for image in page.all("img"))
    assert all(sound["aria-label"] and "controls" in sound for sound in page.all("audio"))
    spoken = {one["lang"] for one in page.all("span") if "lang" in one}
    assert {"ar", "de", "en"} <= spoken
    assert {one["dir"] for one in page.all("span") if "lang" in one} == {"auto"}
    assert all("aria-hidden" in drawing for drawing in page.all("svg"))


def test_the_part_that_fits_is_marked(result: Demo) -> None:
    """Of 30 s those from 10 to 20, where the outline is high; a sound that fits as a whole has no mark."""
    text = demo_page.page(result)
    [(left, width)] = MARK.findall(text)
    assert float(left) == pytest.approx(demo_page.BARS / 3, abs=0.1)
    assert float(width) == pytest.approx(demo_page.BARS / 3, abs=0.1)
    outline = re.findall(r'<path d="([^"]+)"', text)[0]
    bars = np.array([float(high) for high in re.findall(r"v([\d.]+)", outline)])
    assert len(bars) == demo_page.BARS
    third = demo_page.BARS // 3
    assert bars[third + 2 : 2 * third - 2].min() > 10 * bars[: third - 2].max()


@pytest.mark.parametrize("where", ["answer", "question", "query", "name", "tag", "index"])
def test_what_models_and_files_say_is_text(result: Demo, where: str) -> None:
    if where in ("answer", "question"):
        result["answers"][0].update({where: HOSTILE})  # type: ignore[misc]
    elif where == "query":
        result["searches"].append(search(HOSTILE, hit("owl")))
    elif where == "name":
        result["duplicates"]["same"] = [[HOSTILE, "b.png"]]
    elif where == "tag":
        result["tags"][HOSTILE] = 1
    else:
        result["index"] = HOSTILE
    text = demo_page.page(result)
    page = Parsed(text)
    assert not page.all("script")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert r"""<script>alert(1)</script>"' onerror=x \x1b[2J\u202e&amp;""" in "".join(page.texts)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)


def test_it_is_opened_where_there_is_a_desktop(
    result: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(demo, "run_demo", lambda *_: result)
    monkeypatch.setattr(viewer, "show_file", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled" / "fonts").symlink_to(Path(demo.__file__).parents[1] / "bundled" / "fonts")
    assert run("demo", "--open", "--page", "a.html").err == ""
    assert opened == ["a.html"]
    assert run("demo", "--page", "b.html").status == 0
    assert (
        (tmp_path / "b.html").read_text("utf-8") == (tmp_path / "a.html").read_text("utf-8") == demo_page.page(result)
    )
    assert run("demo", "--json").json["page"] is None
    assert opened == ["a.html"]
