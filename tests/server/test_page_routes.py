"""The page over HTTP: its files and their policy, the way in, and what it asks of an index beside other clients."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import Answer, ask

from mlx_mm import Index
from mlx_mm.checkpoint import hub
from mlx_mm.server.app import make_app
from mlx_mm.server.engine import Engine
from mlx_mm.server.index_routes import IndexRoutes
from mlx_mm.server.media import Media
from mlx_mm.server.page_data import PageData
from mlx_mm.server.page_routes import Page, files
from mlx_mm.server.security import Access

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
from indexed import Item, random_vectors, write_index

TOKEN = {"authorization": "Bearer the-token"}
SOUNDS = hub.BUNDLED / "sounds"


class Served:
    """An index of rows, and of one sound that is a file. revealed: what the desktop was asked to show."""

    def __init__(self, index: Index, key: str | None = None) -> None:
        access = Access(token="the-token", key=key)
        self.revealed: list[Path] = []
        self.page, shown = Page(access, reveals=True), IndexRoutes(index)
        data = PageData(index, shown, self.revealed.append)
        routes = [*shown.routes(), *self.page.routes(), *data.routes()]
        self.app = make_app(Engine([]), access, Media(), routes)

    def get(self, path: str, **headers: str | None) -> Answer:
        return ask(self.app, "GET", path, headers={**TOKEN, **headers})

    def post(self, path: str, body: object) -> Answer:
        return ask(self.app, "POST", path, body, headers=TOKEN)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """A picture with two copies, one that is gone, and one that could not be read; a sound."""
    root = tmp_path / "files"
    root.mkdir()
    [sound] = SOUNDS.glob("dog.*")
    shutil.copy(sound, root / sound.name)
    vectors = random_vectors(3)
    os.utime(root / sound.name, (1_700_000_000, 1_700_000_000))
    items = [
        Item(("2020/a.jpg", "a copy.jpg"), vectors[:1], taken_at=1_600_000_000, camera="X100", tags=("cat", "red")),
        Item(("2021/b.jpg",), vectors[1:2], pixels=(300, 100), taken_at=1_630_000_000, place=(48.1, 11.5)),
        Item(("gone.jpg",), vectors[2:], state="missing"),
        Item((sound.name,), kind="audio", size=sound.stat().st_size, pixels=None, changed=1.7e9),
    ]
    write_index(tmp_path / "x.mmindex", str(root), items)
    with Index(tmp_path / "x.mmindex") as made:
        yield made


@pytest.fixture
def served(index: Index) -> Served:
    return Served(index)


def test_every_file_has_a_strict_policy_and_an_etag(served: Served) -> None:
    assert {"/", "/page/index.html", "/page/app/main.js", "/page/i18n/ar.json", "/page/style/base.css"} <= set(files())
    for address in files():
        answer = served.get(address, authorization=None)
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        again = served.get(address, **{"if-none-match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/app", "/page/"])
def test_nothing_else_of_the_disk_is_served(served: Served, path: str) -> None:
    assert served.get(path).status == 404


def test_no_file_has_what_the_policy_forbids() -> None:
    for address, file in files().items():
        text = file.data.decode()
        if "vendor" not in address:
            for word in ("innerHTML", "dangerouslySetInnerHTML", "eval(", "new Function", "document.write", "//cdn"):
                assert word not in text, address
            assert len(text.splitlines()) <= 400, address
            assert "https://" not in text.replace("http://www.w3.org/2000/svg", ""), address


def test_languages_say_the_same(served: Served) -> None:
    words = {name: served.get(name).json for name in files() if name.startswith("/page/i18n/")}
    english = words["/page/i18n/en.json"]
    assert len(words) == 7
    for name, found in words.items():
        assert found.keys() == english.keys(), name
        for key, text in found.items():
            assert sorted(_parts(text)) == sorted(_parts(english[key])), (name, key)


def _parts(text: str) -> list[str]:
    return [piece.split("}")[0] for piece in text.split("{")[1:]]


def test_a_ticket_opens_once_and_the_token_always(served: Served) -> None:
    ticket = served.page.ticket()
    for path, opens in (
        (f"/open?ticket={ticket}", True),
        (f"/open?ticket={ticket}", False),
        ("/open?ticket=", False),
        ("/open?token=the-token", True),
        ("/open?token=another", False),
        ("/open", False),
    ):
        answer = served.get(path, authorization=None)
        assert (answer.status, answer.headers["location"]) == (303, "/")
        cookie = answer.headers.get("set-cookie", "")
        assert ("mlx_mm_session_8765=the-token" in cookie) == opens, path
        assert not opens or ("HttpOnly" in cookie and "SameSite=strict" in cookie)


def test_two_servers_of_one_machine_leave_each_other_alone(served: Served) -> None:
    for host, name in (("localhost:9000", "9000"), ("[::1]:9001", "9001"), ("localhost", "80")):
        opened = served.get("/open?token=the-token", authorization=None, host=host)
        cookie = opened.headers["set-cookie"].split(";")[0]
        assert cookie == f"mlx_mm_session_{name}=the-token"
        both = f"mlx_mm_session_1=another; {cookie}"
        assert served.get("/api/facets", authorization=None, host=host, cookie=both).status == 200


def test_a_link_of_another_site_leads_to_the_page(served: Served) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert served.get("/?q=owl", authorization=None, **link).status == 200
    assert served.get("/open?token=the-token", authorization=None, **link).status == 403
    assert served.get("/api/facets", **link).status == 403


def test_a_key_opens_the_page_too(index: Index) -> None:
    served = Served(index, key="a-long-key")
    assert served.get("/", authorization=None).status == 200
    assert served.get("/api/facets", authorization=None).status == 401
    for given, status in (("a-long-key", 200), (" the-token ", 200), ("nonsense", 401), ("", 401)):
        answer = ask(served.app, "POST", "/open", {"key": given})
        assert (answer.status, "set-cookie" in answer.headers) == (status, status == 200)
    cookie = {"cookie": "mlx_mm_session_8765=the-token"}
    assert served.get("/api/facets", authorization=None, **cookie).status == 200


def test_an_outline_has_what_passes_in_columns(served: Served) -> None:
    found = served.get("/api/outline").json
    assert found["kinds"] == "aii"
    assert found["names"][1:] == ["b.jpg", "a copy.jpg"] or found["names"][1:] == ["b.jpg", "a.jpg"]
    assert found["ratios"] == [0.0, 3.0, 1.25]
    assert found["moments"][1:] == [1_630_000_000, 1_600_000_000]
    assert len(found["contents"]) == 3 * 32
    assert served.get("/api/outline?top=2").json["ids"] == found["ids"][:2]
    assert served.get("/api/outline?camera=x100").json["ids"] == found["ids"][2:]
    assert served.get("/api/outline?near=48.1,11.5,100").json["ids"] == found["ids"][1:2]
    assert served.get("/api/outline?nonsense=1").status == 400


def test_facets_count_what_is_there(served: Served) -> None:
    found = served.get("/api/facets").json
    assert found["kinds"] == {"image": 2, "audio": 1}
    assert found["cameras"] == {"X100": 1}
    assert found["tags"] == {"cat": 1, "red": 1}
    assert found["years"].items() >= {"2020": 1, "2021": 1}.items()
    assert found["places"] == 1
    assert [folder.rpartition("/")[2] for folder in found["folders"]] == ["files", "2020", "2021"]


def test_a_wave_shows_how_loud_a_sound_is(served: Served) -> None:
    sound, picture = (served.get("/api/outline").json["ids"][place] for place in (0, 1))
    wave = served.get(f"/api/wave/{sound}").json
    assert 200 <= len(wave["bars"]) <= 240
    assert (min(wave["bars"]) < 10, max(wave["bars"])) == (True, 100)
    assert 1 < wave["seconds"] < 5
    assert served.get(f"/api/wave/{picture}").status == 400
    assert served.get("/api/wave/999").status == 404


def test_labels_of_one_item_are_replaced(served: Served) -> None:
    [item] = served.get("/api/outline?tag=cat").json["ids"]
    answer = served.post(f"/api/items/{item}/tags", {"labels": [" red ", "<b>", "red"]})
    assert answer.json == {"tags": ["<b>", "red"]}
    assert served.get("/api/outline?tag=cat").json["ids"] == []
    assert served.get("/api/search?q=%3Cb%3E").status == 200
    assert served.post(f"/api/items/{item}/tags", {"labels": ["a\nb"]}).status == 400
    assert served.post(f"/api/items/{item}/tags", {"labels": []}).json == {"tags": []}
    assert served.post("/api/items/999/tags", {"labels": []}).status == 404


def test_a_file_is_shown_by_its_item_and_a_folder_by_a_whole_path(served: Served) -> None:
    sound, gone = (served.get("/api/outline").json["ids"][place] for place in (0, 1))
    assert served.post(f"/api/items/{sound}/reveal", {}).status == 200
    assert [path.name.split(".")[0] for path in served.revealed] == ["dog"]
    assert served.post(f"/api/items/{gone}/reveal", {}).status == 404
    assert served.post("/api/refresh", {"folders": ["Pictures"]}).error["param"] == "folders"
