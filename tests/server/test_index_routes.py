"""An index over HTTP: what a client of /api/ is given, and what it is refused."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from asking import Answer, ask, asking
from PIL import Image

from mlx_mm import Index
from mlx_mm.checkpoint import hub
from mlx_mm.cli.demo_run import copied, lay_out
from mlx_mm.server.app import make_app
from mlx_mm.server.engine import Engine
from mlx_mm.server.index_changes import MOST_LISTENERS
from mlx_mm.server.index_routes import IndexRoutes
from mlx_mm.server.media import Media
from mlx_mm.server.security import Access

TOKEN = {"authorization": "Bearer the-token"}
EQUAL = 1e-6
PICTURES = hub.BUNDLED / "pictures"


class Served:
    """An index with its routes in an application. folder: of its files."""

    def __init__(self, index: Index, folder: Path) -> None:
        self.index, self.folder, self.shown = index, folder, IndexRoutes(index)
        media = Media(items=self.shown.file_of)
        self.app = make_app(Engine([]), Access(token="the-token"), media, self.shown.routes())

    def get(self, path: str, **headers: str) -> Answer:
        return ask(self.app, "GET", path, headers={**TOKEN, **headers})

    def post(self, path: str, body: object) -> Answer:
        return ask(self.app, "POST", path, body, headers=TOKEN)

    def hits(self, query: str) -> list[Any]:
        found = self.get(f"/api/search?{query}")
        assert found.status == 200, found.body
        hits: list[Any] = found.json["hits"]
        return hits


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The bundled pictures, two of them twice, and sounds."""
    folder = tmp_path_factory.mktemp("served")
    lay_out(folder / "pictures")
    copied(hub.BUNDLED / "sounds", folder / "sounds")
    settle(folder)
    with Index(folder / "served.mmindex") as index:
        index.refresh([folder / "pictures", folder / "sounds"])
        yield Served(index, folder)


@pytest.fixture
def few(tmp_path: Path) -> Iterator[Served]:
    """Three pictures, which a test may change."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("frog", "cat", "mushroom"):
        shutil.copy(PICTURES / f"{name}.png", photos)
    settle(photos)
    with Index(tmp_path / "few.mmindex") as index:
        index.refresh(photos)
        yield Served(index, photos)


def settle(folder: Path) -> None:
    """Files that were written just now are waited for."""
    for path in folder.rglob("*"):
        os.utime(path, (1.6e9, 1.6e9))


def uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


# --- search -----------------------------------------------------------------------------------------------------


def test_a_search_gives_what_the_index_does(served: Served) -> None:
    own = served.index.search("frog", top=3, strong_only=False)
    found = served.get("/api/search?q=frog&top=3&all=true").json
    assert [hit["path"] for hit in found["hits"]] == [hit.path for hit in own]
    for hit, expected in zip(found["hits"], own, strict=True):
        assert hit["score"] == pytest.approx(expected.score, abs=EQUAL)
        assert (hit["content"], hit["strong"], hit["width"]) == (expected.content, expected.strong, expected.width)
        assert hit["name"] == os.path.basename(expected.path)
        assert hit["original"] == f"/api/original/{hit['id']}"
    assert (found["strong"], found["weaker"]) == (own.strong, own.weaker)
    assert found == served.post("/api/search", {"q": ["frog"], "top": 3, "all": True}).json


def test_by_a_picture_a_sound_or_an_item(served: Served) -> None:
    frog = served.hits("q=frog&top=1&kind=image")[0]
    by_picture = {"like": [uri(PICTURES / "frog.png", "image/png")], "top": 1}
    for like in (by_picture["like"][0], frog["id"], str(frog["id"]), f"mm://item/{frog['id']}"):
        assert served.post("/api/search", {"like": [like], "top": 1}).json["hits"][0]["id"] == frog["id"], like
    assert served.hits(f"like={frog['id']}&top=1")[0]["id"] == frog["id"]
    sound = sorted((hub.BUNDLED / "sounds").glob("*.flac"))[0]
    heard = served.post("/api/search", {"like": [uri(sound, "audio/flac")], "top": 1}).json["hits"][0]
    assert (heard["name"], heard["kind"], heard["thumbnail"]) == (sound.name, "audio", None)
    assert heard["stop"] > heard["start"]
    own = served.index.search("animal", unlike=frog["path"], top=5, strong_only=False)
    without = served.post("/api/search", {"q": ["animal"], "unlike": [frog["id"]], "all": True, "top": 5}).json
    assert [hit["content"] for hit in without["hits"]] == [hit.content for hit in own]


def test_pages_together_are_the_whole(served: Served) -> None:
    for query in ("q=animal&all=true", "kind=image&sort=name", "kind=audio"):
        whole = [hit["id"] for hit in served.hits(f"{query}&top=100")]
        pages: list[int] = []
        more = True
        while more:
            page = served.get(f"/api/search?{query}&top=7&offset={len(pages)}").json
            assert page["offset"] == len(pages)
            pages += [hit["id"] for hit in page["hits"]]
            more = page["more"]
        assert pages == whole
        assert len(set(whole)) == len(whole) > 7


def test_filters(served: Served) -> None:
    pictures, sounds = (len(served.hits(f"kind={kind}&top=100")) for kind in ("image", "audio"))
    assert (pictures, sounds) == (43, 13)  # one is there twice, byte for byte
    folder = quote(str(served.folder / "sounds"))
    assert len(served.hits(f"folder={folder}&top=100")) == sounds
    assert {hit["name"] for hit in served.hits("name=mushroom")} == {"mushroom.png", "mushroom-small.jpg"}
    assert served.hits("since=2999") == served.hits("near=0,0,1000") == []
    assert len(served.hits("until=2999&top=100")) == pictures + sounds


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", None),
        ("nonsense=1", "nonsense"),
        ("q=a&top=0", "top"),
        ("q=a&top=ten", "top"),
        ("q=a&top=10001", "top"),
        ("q=a&top=1&top=2", "top"),
        ("q=a&offset=-1", "offset"),
        ("q=a&all=true&sort=date&offset=1", "offset"),
        ("q=a&kind=smell", "kind"),
        ("q=a&sort=smell", "sort"),
        ("q=a&all=perhaps", "all"),
        ("near=1,2", "near"),
        ("near=1,2,x", "near[2]"),
        ("q=" + "a" * 10_001, None),
        ("like=/etc/passwd", "like[0]"),
        ("like=file:///etc/passwd", "like[0]"),
        ("like=../../etc/passwd", "like[0]"),
        ("like=http://127.0.0.1/", "like[0]"),
        ("like=data:image/png;base64,AAAA", None),
        ("since=yesterday", None),
    ],
)
def test_what_cannot_be_asked_is_400(served: Served, query: str, param: str | None) -> None:
    found = served.get(f"/api/search?{query}")
    assert (found.status, found.error["param"]) == (400, param)


def test_no_more_than_so_many_examples(served: Served) -> None:
    assert served.post("/api/search", {"like": [1] * 33}).error["param"] == "like"
    found = served.post("/api/search", {"like": [1] * 17, "unlike": [1] * 16})
    assert (found.status, found.error["code"]) == (400, "too_many_media")


# --- items, thumbnails, originals -------------------------------------------------------------------------------


def test_an_item(served: Served) -> None:
    hit = served.hits("name=frog")[0]
    item = served.get(f"/api/items/{hit['id']}").json
    assert sorted(os.path.basename(path) for path in item["paths"]) == ["frog-copy.png", "frog.png"]
    assert (item["size"], item["width"], item["kind"]) == ((PICTURES / "frog.png").stat().st_size, 144, "image")
    assert (item["id"], item["content"]) == (hit["id"], hit["content"])
    sound = served.hits("kind=audio&top=1")[0]
    assert served.get(f"/api/items/{sound['id']}").json["seconds"] > 0


def test_a_thumbnail_is_kept_by_its_content(served: Served) -> None:
    hit = served.hits("name=mushroom.png")[0]
    found = served.get(hit["thumbnail"])
    assert (found.status, found.headers["content-type"]) == (200, "image/jpeg")
    assert found.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert found.headers["etag"] == f'"{hit["content"]}"'
    with Image.open(io.BytesIO(found.body)) as image:
        assert image.size == (144, 144)
    for tag in (found.headers["etag"], f'"other", W/{found.headers["etag"]}', "*"):
        again = served.get(hit["thumbnail"], **{"if-none-match": tag})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", found.headers["etag"])
    assert served.get(hit["thumbnail"], **{"if-none-match": '"other"'}).status == 200


def test_an_original_and_its_parts(served: Served) -> None:
    hit = served.hits("name=mushroom.png")[0]
    data = (PICTURES / "mushroom.png").read_bytes()
    whole = served.get(hit["original"])
    assert (whole.status, whole.body, whole.headers["content-type"]) == (200, data, "image/png")
    assert whole.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert (whole.headers["x-content-type-options"], whole.headers["accept-ranges"]) == ("nosniff", "bytes")
    part = served.get(hit["original"], range="bytes=10-19")
    assert (part.status, part.body, part.headers["content-range"]) == (206, data[10:20], f"bytes 10-19/{len(data)}")
    assert served.get(hit["original"], range="bytes=-5").body == data[-5:]
    assert served.get(hit["original"], range="bytes=99999999-").status == 416
    same = served.get(hit["original"], range="bytes=0-0", **{"if-range": whole.headers["etag"]})
    assert (same.status, same.body) == (206, data[:1])
    assert served.get(hit["original"], **{"if-none-match": whole.headers["etag"]}).status == 304
    assert ask(served.app, "HEAD", hit["original"], headers=TOKEN).headers["content-length"] == str(len(data))


def test_an_original_that_has_changed_is_no_longer_there(few: Served) -> None:
    hit = few.hits("name=frog")[0]
    with Path(hit["path"]).open("ab") as file:
        file.write(b"more")
    assert few.get(hit["original"]).status == 404
    assert few.post("/api/search", {"like": [hit["id"]]}).error["code"] == "item_not_found"
    Path(hit["path"]).unlink()
    assert few.get(hit["original"]).status == 404
    few.index.refresh()
    assert few.get(f"/api/items/{hit['id']}").status == few.get(hit["thumbnail"]).status == 404


@pytest.mark.parametrize(
    "name",
    [*"0~٣", "-1", "1.0", "1e3", "0x1", "1 OR 1=1", "%00", "9" * 19, "9" * 30, "9" * 5000, "..", "../items/1", "//etc"],
)
def test_items_have_numbers_and_nothing_else(served: Served, name: str) -> None:
    for route in ("items", "original", "thumb"):
        path = f"/api/{route}/{name}" + (".jpg" if route == "thumb" else "")
        found = served.get(path)
        assert (found.status, found.headers["content-type"]) == (404, "application/json"), path


def test_everything_takes_the_token(served: Served) -> None:
    for route in served.shown.routes():
        path = route.path.replace("{id}", "1").replace("{content}", "00")
        method = min((route.methods or {"GET"}) - {"HEAD"})
        for headers in ({}, {"authorization": "Bearer other"}, {"cookie": "mlx_mm_session_8765=other"}):
            assert ask(served.app, method, path, {}, headers=headers).status == 401, path
    cookie = {"cookie": "mlx_mm_session_8765=the-token"}
    assert ask(served.app, "GET", "/api/index", headers=cookie).json["contents"] == {"audio": 13, "image": 43}


def test_openapi_describes_what_there_is(served: Served) -> None:
    document = served.get("/openapi.json").json
    for route in served.shown.routes():
        assert {name.lower() for name in route.methods or ()} - {"head"} <= set(document["paths"][route.path]), route
    schemas = document["components"]["schemas"]
    for shown, path in (("Hits", "/api/search?q=frog"), ("Groups", "/api/duplicates"), ("Item", "/api/items/1")):
        found = served.get(path).json
        assert set(found) == set(schemas[shown]["required"]), shown
        for name, schema in schemas[shown]["properties"].items():
            if "required" in schema.get("items", {}):
                assert set(found[name][0]) == set(schema["items"]["required"]), name
    plain = ask(make_app(Engine([]), Access()), "GET", "/openapi.json").json
    assert not [path for path in plain["paths"] if path.startswith("/api/")]


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_names_of_any_bytes_are_shown(few: Served) -> None:
    strange = os.path.join(os.fsencode(few.folder), b"\xff<b>\n.png")
    with open(strange, "wb") as file:
        file.write((PICTURES / "red_apple.png").read_bytes())
    settle(few.folder)
    few.index.refresh()
    hit = few.hits("q=red apple&top=1")[0]
    assert hit["name"] == "\N{REPLACEMENT CHARACTER}<b>\n.png"
    assert few.get(hit["original"]).status == 200


# --- duplicates, labels -----------------------------------------------------------------------------------------


def test_duplicates_are_kept_apart(few: Served) -> None:
    folder = few.folder
    shutil.copy(folder / "cat.png", folder / "cat2.png")
    with Image.open(folder / "mushroom.png") as image:
        image.resize((120, 120)).save(folder / "small.png")
    settle(folder)
    few.index.refresh()
    identical = few.get("/api/duplicates?kind=identical").json["groups"]
    assert [[file["name"] for file in group["files"]] for group in identical] == [["cat.png", "cat2.png"]]
    group = few.get("/api/duplicates").json["groups"][0]
    assert ([file["name"] for file in group["files"]], group["kind"]) == (["mushroom.png", "small.png"], "same")
    first, second = group["files"]
    assert few.get(second["thumbnail"]).status == few.get(second["original"]).status == 200
    assert (second["width"], second["size"]) == (120, (folder / "small.png").stat().st_size)
    contents = {"first": first["content"], "second": second["content"]}
    assert few.post("/api/duplicates/keep", contents).status == 200
    assert few.get("/api/duplicates").json["groups"] == []
    for wrong in ({"first": "x", "second": "y"}, {"first": first["content"]}, {**contents, "second": "0" * 32}):
        assert few.post("/api/duplicates/keep", wrong).status == 400
    assert few.get("/api/duplicates?kind=smell").error["param"] == "kind"
    assert few.get("/api/duplicates?kind=similar&threshold=2").error["param"] == "threshold"


def test_labels(few: Served) -> None:
    assert few.post("/api/tags", {"labels": ["frog", "cat", "mushroom"]}).json == {
        "tags": {"frog": 1, "cat": 1, "mushroom": 1}
    }
    assert few.get("/api/tags").json == {"tags": {"cat": 1, "frog": 1, "mushroom": 1}}
    hit = few.hits("tag=frog")[0]
    assert (hit["name"], hit["tags"]) == ("frog.png", ["frog"])
    assert few.post("/api/tags", {"labels": []}).error["param"] == "labels"
    assert few.post("/api/tags", {"labels": ["a"], "least": 2}).error["param"] == "least"


# --- refresh and events -----------------------------------------------------------------------------------------


def events_of_a_refresh(served: Served, **asked: object) -> list[Any]:
    """What a listener is told, up to the end of the refresh."""

    async def listen() -> Answer:
        listening = asyncio.create_task(asking(served.app, "GET", "/api/events", headers=TOKEN))
        await asyncio.sleep(0.05)
        begun = await asking(served.app, "POST", "/api/refresh", asked, headers=TOKEN)
        assert (begun.status, begun.json) == (202, {"state": "refreshing"})
        await served.shown.changes.ended()
        served.shown.changes.end()
        return await listening

    found = asyncio.run(listen())
    assert found.headers["content-type"].startswith("text/event-stream")
    return found.events


def test_a_refresh_is_told_of(few: Served) -> None:
    folder = few.folder
    shutil.copy(PICTURES / "red_apple.png", folder)
    (folder / "bad.png").write_bytes(b"no picture")
    settle(folder)
    idle, begun, *between, ended = events_of_a_refresh(few)
    assert (idle, begun) == ({"state": "idle"}, {"state": "refreshing"})
    assert between[-1] == {"state": "refreshing", "done": 2, "total": 2}
    report = ended["report"]
    assert (ended["state"], report["new"], report["encoded"], report["failed"]) == ("idle", 1, 1, 1)
    assert [failure["path"] for failure in report["failures"]] == [str(folder / "bad.png")]
    assert len(few.hits("kind=image")) == 4


def test_one_refresh_at_a_time(few: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, usual = threading.Event(), few.index.refresh
    monkeypatch.setattr(few.index, "refresh", lambda **options: goes_on.wait(60) and usual(**options))

    async def twice() -> list[Answer]:
        both = [await asking(few.app, "POST", "/api/refresh", {}, headers=TOKEN) for _ in range(2)]
        goes_on.set()
        await few.shown.changes.ended()
        return [*both, await asking(few.app, "POST", "/api/refresh", {}, headers=TOKEN)]

    first, second, third = asyncio.run(twice())
    assert (first.status, second.status, third.status) == (202, 409, 202)
    assert second.error["code"] == "busy"


def test_a_refresh_that_is_refused_says_why(few: Served) -> None:
    few.folder.rename(few.folder.with_name("away"))
    *_, ended = events_of_a_refresh(few)
    assert ended["state"] == "idle"
    assert "3 of its 3 files are gone" in ended["error"]
    assert len(few.hits("kind=image")) == 3


def test_a_refresh_that_breaks_off_is_told_of(
    few: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(few.index, "refresh", lambda **options: 1 // 0)
    *_, ended = events_of_a_refresh(few)
    assert (ended["state"], "a mistake of mlx_mm" in ended["error"]) == ("idle", True)
    assert "ZeroDivisionError" in caplog.text


def test_only_so_many_listen(few: Served) -> None:
    async def listen() -> tuple[Answer, list[Answer]]:
        tasks = [
            asyncio.create_task(asking(few.app, "GET", "/api/events", headers=TOKEN)) for _ in range(MOST_LISTENERS)
        ]
        leaving = asyncio.create_task(asking(few.app, "GET", "/api/events", headers=TOKEN, leave_after=0.2))
        del leaving
        await asyncio.sleep(0.05)
        refused = await asking(few.app, "GET", "/api/events", headers=TOKEN)
        few.shown.changes.end()
        return refused, await asyncio.gather(*tasks)

    refused, others = asyncio.run(listen())
    assert (refused.status, refused.headers["retry-after"]) == (429, "5")
    assert [other.status for other in others] == [200] * MOST_LISTENERS
