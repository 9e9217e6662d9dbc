"""Pictures that are read here, and get their vectors from servers: which are one model, alive, and shared fairly."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import Library, Spy, pictures, sound

from mlx_mm import encode_image, load
from mlx_mm.errors import DamagedError, InputError, OtherModelError, StoreError
from mlx_mm.search import servers

GONE = 0  # the connection ends


class Stub(http.server.ThreadingHTTPServer):
    """Answers as `mlx_mm serve` does, with the vectors of a model. taken: pictures of each request. fails: statuses of
    the next requests for vectors. turned: it gives wrong ones."""

    daemon_threads = True

    def __init__(self, model: Path, fingerprint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.loaded = load(model)
        self.fingerprint = fingerprint
        self.known = False
        self.taken: list[int] = []
        self.fails: list[int] = []
        self.turned = False
        self.running = threading.Lock()  # one at a time computes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Stub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        about = {"embeddings": True, "input": ["text", "image"]}
        fingerprint = self.server.fingerprint if self.server.known else None
        self._say(200, {"data": [{"id": "a-model", "fingerprint": fingerprint, "capabilities": about}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["model"] == "a-model"
        with self.server.running:
            if self.server.known and self.server.fails:
                status = self.server.fails.pop(0)
                if status == GONE:
                    self.close_connection = True
                    return
                self._say(status, {"error": {"message": "not now"}})
                return
            vectors = encode_image(*self.server.loaded, [item["image"] for item in body["input"]], fast_decode=True)
            self.server.known = True
            self.server.taken.append(len(vectors))
        vectors = vectors[:, ::-1] if self.server.turned else vectors
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
        self._say(200, {"data": [{"embedding": row} for row in rows]})

    def _say(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


Started = Callable[[], Stub]


@pytest.fixture
def started(library: Library, tiny_model: Path) -> Iterator[Started]:
    """`started()` is one with the model of the library, whose index is made."""
    running = []
    library.refresh()
    [(fingerprint,)] = library.query("SELECT fingerprint FROM spaces")

    def start() -> Stub:
        server = Stub(tiny_model, fingerprint)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def test_several_servers_make_the_vectors(
    library: Library, started: Started, spy: Spy, tiny_model: Path, tmp_path: Path
) -> None:
    stubs = [started(), started()]
    pictures(library.photos, 70)
    spy.taken()
    report = library.refresh(library.photos, servers=tuple(stub.url for stub in stubs))
    assert report == {"new": 70, "encoded": 70}
    assert spy.taken() == 0  # no model runs here
    assert sum(sum(stub.taken) for stub in stubs) == 70 + 4  # and what they are known by, when they begin
    (tmp_path / "here").mkdir()
    here = Library(tmp_path / "here", tiny_model)
    here.refresh(library.photos)
    found, expected = library.vectors(), here.vectors()
    assert found.keys() == expected.keys()
    differences = [np.frombuffer(found[key][0], "<f2") - np.frombuffer(expected[key][0], "<f2") for key in found]
    assert np.abs(differences).max() <= 2**-11
    assert library.refresh() == {}


def test_sounds_are_heard_here(library: Library, started: Started, hearing_model: Path, tmp_path: Path) -> None:
    stub = started()
    sound(tmp_path / "sounds" / "a.wav", 3.0)
    assert library.refresh(tmp_path / "sounds", model=hearing_model, servers=(stub.url,))["encoded"] == 1
    assert stub.taken == []


def test_a_busy_server_is_asked_again(library: Library, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    stub = started()
    pictures(library.photos, 3)
    stub.taken = _Calling(lambda number: stub.fails.extend([429, 503]))
    assert library.refresh(library.photos, servers=(stub.url,)) == {"new": 3, "encoded": 3}
    assert stub.fails == []


def test_another_takes_the_place_of_one_that_ends(library: Library, started: Started) -> None:
    good, bad = started(), started()
    pictures(library.photos, 40)
    bad.taken = _Calling(lambda number: bad.fails.extend([GONE] * 100))
    assert library.refresh(library.photos, servers=(good.url, bad.url))["encoded"] == 40
    assert sum(good.taken) >= 40
    assert len(bad.fails) >= 98  # it is asked no more
    pictures(library.photos, 4, first=40)
    good.taken = _Calling(lambda number: good.fails.extend([GONE] * 2), at=1)
    with pytest.raises(StoreError, match="No server gave vectors"):
        library.refresh(library.photos, servers=(good.url,))
    assert len(library.vectors()) == 40


class _Calling(list[int]):
    """A list that calls a function at an item: at the second one, a new server is known, and begins to work."""

    def __init__(self, call: Callable[[int], None], at: int = 2) -> None:
        super().__init__()
        self.at = at
        self.call = call
        self.count = 0

    def append(self, number: int, /) -> None:
        self.count += 1
        if self.count == self.at:
            self.call(number)


def test_servers_that_cannot_be_used(library: Library, started: Started) -> None:
    pictures(library.photos, 2)
    other, turned, gone = started(), started(), started()
    other.fingerprint = "0" * 32
    turned.turned = True
    gone.shutdown()
    gone.server_close()
    cases: list[tuple[str, type[Exception], str]] = [
        ("localhost:8000", InputError, "expected an address such as"),
        (other.url, OtherModelError, "none with the fingerprint"),
        (turned.url, DamagedError, "gives another vector of the image"),
        (gone.url, StoreError, "did not answer"),
    ]
    for url, kind, said in cases:
        with pytest.raises(kind, match=said):
            library.refresh(library.photos, servers=(url,))
    assert library.query("SELECT count(*) FROM vectors") == [(0,)]


def test_a_server_that_refuses(library: Library, started: Started) -> None:
    stub = started()
    pictures(library.photos, 2)
    stub.taken = _Calling(lambda number: stub.fails.append(413))
    with pytest.raises(StoreError, match=r"refused pictures \(.*413, not now\)"):
        library.refresh(library.photos, servers=(stub.url,))


def test_the_key_is_sent(library: Library, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setenv(servers.KEY, "secret")
    monkeypatch.setattr(_Answer, "log_message", lambda self, *_: seen.append(self.headers["Authorization"]))
    pictures(library.photos, 1)
    library.refresh(library.photos, servers=(started().url,))
    assert set(seen) == {"Bearer secret"}
