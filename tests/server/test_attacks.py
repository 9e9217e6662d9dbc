"""What a web page, another user or a hostile client may try, each with the status it gets."""

from __future__ import annotations

import json
import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import HEADERS, KEY, TOKEN, Answer, ask
from shown import picture, uri

from mlx_mm.processing import downloading
from mlx_mm.server.app import make_app
from mlx_mm.server.media import Media
from mlx_mm.server.security import Access

EMBED, CHAT = "/v1/embeddings", "/v1/chat/completions"
MODEL = {"model": "emoji-siglip2"}
TEXT = {**MODEL, "input": "a cat"}
COOKIE = "mlx_mm_session_8765"  # with the port: cookies of a host are sent to all its servers
WITH_KEY = {"authorization": f"Bearer {KEY}"}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG of side × side pixels in a few bytes."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def pictured(source: object, count: int = 1) -> dict[str, Any]:
    return {**MODEL, "input": [{"image": source}] * count}


def refused(answer: Answer, status: int, code: str | None = None) -> Any:
    """The error, whose shape is OpenAI's."""
    assert answer.status == status, answer.body[:300]
    error = answer.error
    assert set(answer.json) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert ("; expected " in error["message"]) or ": " in error["message"]
    if code is not None:
        assert error["code"] == code
    return error


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("localhost:8765", 200),
        ("LOCALHOST:8765", 200),
        ("[::1]:8765", 200),
        ("localhost", 200),  # without a port, as through a socket's file
        ("", 403),
        (None, 403),
        (":8765", 403),
        ("evil.example:8765", 403),
        ("localhost.evil.example:8765", 403),
        ("localhost.evil:8765", 403),
        ("127.0.0.1.nip.io:8765", 403),
        ("localhost@evil.example", 403),
        ("localhost:8765, evil.example", 403),
        ("localhost:80:80", 403),
        ("127.1:8765", 403),
        ("2130706433:8765", 403),
        ("0.0.0.0:8765", 403),
        ("mac.local:8765", 403),
    ],
)
def test_hosts(app: Any, host: str | None, status: int) -> None:
    for path in ("/health", "/v1/models"):
        answer = ask(app, "GET", path, headers={"host": host})
        assert answer.status == status
        if status == 403:
            refused(answer, 403, "unknown_host")


def test_another_name_where_it_is_allowed(locked: Any) -> None:
    assert ask(locked, "GET", "/health", headers={"host": "mac.local:8765"}).status == 200
    refused(ask(locked, "GET", "/health", headers={"host": "mac.local.evil"}), 403, "unknown_host")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://127.0.0.1:8765"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),  # another server of this machine
        ({"origin": "http://127.0.0.1"}, 403),
        ({"origin": "http://127.0.0.1:8765.evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"content-type": "text/plain"}, 415),  # what a form sends without asking first
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": None}, 415),
        ({"content-type": "text/plain; application/json"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "br"}, 415),
    ],
)
def test_pages_and_forms(app: Any, headers: dict[str, str | None], status: int) -> None:
    answer = ask(app, "POST", EMBED, TEXT, headers=headers)
    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers
    if status != 200:
        refused(answer, status)


@pytest.mark.parametrize(
    ("method", "path", "mode", "kind", "passes"),
    [
        ("GET", "/", "navigate", "document", True),  # which is 404 where there is no page
        ("GET", "/?q=owl", "navigate", "document", True),
        ("GET", "/", "navigate", "iframe", False),
        ("GET", "/", "navigate", None, False),
        ("GET", "/", "no-cors", "image", False),
        ("GET", "/", "cors", "empty", False),
        ("POST", "/", "navigate", "document", False),  # as a form does
        ("HEAD", "/", "navigate", "document", False),
        ("GET", "/open?token=x", "navigate", "document", False),
        ("GET", "/page/app/main.js", "navigate", "document", False),
        ("GET", "/health", "navigate", "document", False),
        ("GET", "/api/items/1", "navigate", "document", False),
        ("GET", "/v1/models", "navigate", "document", False),
        ("POST", "/open", "navigate", "document", False),
    ],
)
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_links_of_other_sites(
    app: Any, method: str, path: str, mode: str, kind: str | None, passes: bool, site: str
) -> None:
    sent = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": kind}
    answer = ask(app, method, path, headers=sent)
    assert answer.status == (404 if passes else 403)
    if passes:
        refused(ask(app, method, path, headers={**sent, "origin": "https://evil.example"}), 403, "foreign_origin")


def test_a_page_that_may_ask_and_its_question_before(locked: Any) -> None:
    page = {"origin": "http://localhost:3000", "sec-fetch-site": "cross-site"}
    before = ask(locked, "OPTIONS", EMBED, headers={**page, "access-control-request-method": "POST"})
    assert before.status == 204
    assert before.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "access-control-allow-credentials" not in before.headers
    assert ask(locked, "POST", EMBED, TEXT, headers={**page, **WITH_KEY}).status == 200
    refused(ask(locked, "POST", EMBED, TEXT, headers=page), 401)
    refused(ask(locked, "OPTIONS", EMBED, headers={"origin": "http://localhost:3001"}), 403)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer another"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": KEY}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({"authorization": "Bearer \xe9\xff"}, 401),
        ({"cookie": f"{COOKIE}={KEY}"}, 401),  # a key is no token of a session
        ({"cookie": f"{COOKIE}="}, 401),
        ({"cookie": f"mlx_mm_session_8766={TOKEN}"}, 401),  # another server's
        ({"cookie": "\xe9;;=;==="}, 401),
        (WITH_KEY, 200),
        ({"authorization": f"bearer  {KEY} "}, 200),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"cookie": f'a=b; {COOKIE}="{TOKEN}"'}, 200),
        ({"cookie": f"mlx_mm_session_8766=another; {COOKIE}={TOKEN}"}, 200),
    ],
)
def test_keys(locked: Any, headers: dict[str, str | None], status: int) -> None:
    answers = [
        ask(locked, "GET", "/v1/models", headers=headers),
        ask(locked, "GET", "/metrics", headers=headers),
        ask(locked, "GET", "/openapi.json", headers=headers),
        ask(locked, "POST", EMBED, TEXT, headers=headers),
    ]
    assert [answer.status for answer in answers] == [status] * 4
    assert ask(locked, "GET", "/health", headers=headers).status == 200
    for answer in answers if status == 401 else ():
        refused(answer, 401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_files_of_the_index_take_the_token_also_where_there_is_no_key(app: Any) -> None:
    refused(ask(app, "GET", "/api/items/1"), 401, "invalid_api_key")
    assert ask(app, "GET", "/api/items/1", headers={"authorization": f"Bearer {TOKEN}"}).status == 404
    for path in ("/api/../health", "/health/../api/items/1", "//api/items/1", "/v1/models/../../api/items/1"):
        assert ask(app, "GET", path).status in (401, 404)


def test_a_key_is_written_nowhere(locked: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for sent in (KEY, "another secret"):
            answer = ask(locked, "POST", EMBED, {"input": 1}, headers={"authorization": f"Bearer {sent}"})
            assert sent not in answer.body.decode() + json.dumps(answer.headers) + caplog.text
    for secret in (KEY, TOKEN):
        assert secret not in repr(Access(key=KEY, token=TOKEN))


@pytest.mark.parametrize(
    "source",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        "~/.ssh/id_rsa",
        "C:\\Windows\\win.ini",
        "\\\\server\\share\\a.png",
        "mm://item/../",
        "mm://item/1/../2",
        "mm://item/-1",
        "mm://item/1%2e",
        "mm://item/",
        "mm://file/etc/passwd",
        "ftp://127.0.0.1/a.png",
        "gopher://127.0.0.1/",
        "javascript:alert(1)",
        " data:image/png;base64,AAAA",
        "",
        "\0",
    ],
)
def test_names_open_nothing(app: Any, locked: Any, source: str) -> None:
    for one, headers in ((app, {}), (locked, WITH_KEY)):
        for path, body in (
            (EMBED, pictured(source)),
            (EMBED, {**MODEL, "input": source, "modality": "image"}),
            ("/v2/embed", {**MODEL, "images": [source]}),
            (CHAT, {"model": "emoji-glm4v", "messages": [{"role": "user", "content": [_part(source)]}]}),
        ):
            error = refused(ask(one, "POST", path, body, headers=headers), 400)
            assert error["param"]
            assert "root:" not in error["message"]


def _part(source: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": source}}


def test_addresses_are_not_fetched_where_nobody_allowed_it(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading.Download, "follow", lambda *_: pytest.fail("it was fetched"))
    for source in ("http://example.org/a.png", "https://127.0.0.1/", "HTTP://localhost/"):
        refused(ask(app, "POST", EMBED, pictured(source)), 400, "urls_not_allowed")
    one_host = Media(urls=("example.org",))
    served = make_app(app.state.engine, Access(), one_host)
    for source in ("https://other.example/a.png", "https://example.org.evil/a.png", "https://example.org@evil/a.png"):
        monkeypatch.undo()
        refused(ask(served, "POST", EMBED, pictured(source)), 400, "invalid_media")


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:8765/v1/models",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[::1]/",
        "http://0.0.0.0/",
        "http://10.0.0.1/a.png",
        "http://192.168.1.1/a.png",
        "http://100.64.0.1/a.png",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://localhost/",  # a name that resolves to it
        "http://user:password@127.0.0.1/",
        "http://127.0.0.1:22/",
    ],
)
def test_addresses_of_this_machine_and_its_network_are_never_fetched(locked: Any, address: str) -> None:
    error = refused(ask(locked, "POST", EMBED, pictured(address), headers=WITH_KEY), 400, "invalid_media")
    assert error["param"] == "input[0].image"
    assert "password" not in error["message"]


def test_bombs_of_pixels(app: Any) -> None:
    """Each is a few bytes that say that they are many pixels."""
    for side in (30_000, 60_000, 2**31 - 1):
        refused(ask(app, "POST", EMBED, pictured(uri("image/png", bomb(side)))), 400)
        message = {"role": "user", "content": [_part(uri("image/png", bomb(side)))]}
        refused(ask(app, "POST", CHAT, {"model": "emoji-glm4v", "messages": [message]}), 400)


def test_too_many_media(app: Any) -> None:
    source = uri("image/png", picture("cat"))
    assert len(ask(app, "POST", EMBED, pictured(source, 32)).json["data"]) == 32
    assert refused(ask(app, "POST", EMBED, pictured(source, 33)), 400, "too_many_media")["param"] == "input[32].image"
    messages = [{"role": "user", "content": [_part(source)] * 33}]
    refused(ask(app, "POST", CHAT, {"model": "emoji-glm4v", "messages": messages}), 400, "too_many_media")


def test_items_of_an_index_take_the_token(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(picture("cat"))
    served = make_app(engine, Access(token=TOKEN), Media(items=lambda _: path))
    refused(ask(served, "POST", EMBED, pictured("mm://item/1")), 401, "invalid_api_key")
    known = {"cookie": f"{COOKIE}={TOKEN}"}
    [named] = ask(served, "POST", EMBED, pictured("mm://item/1"), headers=known).json["data"]
    [sent] = ask(served, "POST", EMBED, pictured(uri("image/png", picture("cat")))).json["data"]
    assert named == sent


def test_bodies_without_end(locked: Any) -> None:
    """Of 1 GB, no more is taken than is allowed."""
    taken = 0

    def parts() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(1 << 14):
            taken += 1 << 16
            yield b" " * (1 << 16)

    refused(ask(locked, "POST", EMBED, parts=parts(), headers=WITH_KEY), 413, "body_too_large")
    assert taken <= 2 << 20
    for length, status in ((str(1 << 30), 413), ("9" * 30, 413), ("-1", 413), ("x", 413)):
        headers = {**WITH_KEY, "content-length": length}
        refused(ask(locked, "POST", EMBED, parts=parts(), headers=headers), status, "body_too_large")


def test_other_doors(app: Any) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", EMBED, 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models", 405),
        ("TRACE", "/health", 405),
        ("TRACE", EMBED, 405),
        ("QUERY", EMBED, 405),
        ("POST", "/v1/nothing", 404),
    ):
        refused(ask(app, method, path), status)
    assert HEADERS["host"] == "127.0.0.1:8765"
