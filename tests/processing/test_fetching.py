"""Downloads: addresses as people write them, servers as bad as they come, and what a policy forbids."""

from __future__ import annotations

import http.server
import io
import itertools
import socket
import threading
import time
import traceback
import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from mlx_mm.errors import MediaError
from mlx_mm.processing.audio import open_audio
from mlx_mm.processing.fetching import STRANGERS, FetchPolicy, fetch, short_name
from mlx_mm.processing.image import open_image
from mlx_mm.processing.video import open_video

SECRET = "s3cret"


def encoded() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


PNG = encoded()


class Handler(http.server.BaseHTTPRequestHandler):
    """What it answers stands in the path."""

    seen: list[tuple[str, str | None, str | None]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"], self.headers["Host"]))
        name, _, rest = self.path[1:].partition("/")
        answer = getattr(self, f"answer_{name}", None)
        if answer is not None:
            answer(urllib.parse.unquote(rest))
        else:
            self.give(PNG)

    def give(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status, "evil \x1b[31m reason")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_status(self, rest: str) -> None:
        self.give(b"<html>", int(rest))

    def answer_to(self, rest: str) -> None:
        self.give(b"", 302, Location=rest)

    def answer_loop(self, rest: str) -> None:
        self.give(b"", 307, Location=f"/loop/{int(rest) + 1}")

    def answer_page(self, rest: str) -> None:
        self.give(b"Sign in, please", Content_Type="text/html; charset=utf-8")

    def answer_hidden(self, rest: str) -> None:
        self.give(b"\n<!DOCTYPE html><title>No</title>", Content_Type="image/png")

    def answer_wrongly(self, rest: str) -> None:
        self.give(PNG, Content_Type="text/html")

    def answer_empty(self, rest: str) -> None:
        self.give(b"")

    def answer_short(self, rest: str) -> None:
        self.give(PNG, Content_Length="99999")

    def answer_packed(self, rest: str) -> None:
        self.give(b"\x1f\x8b", Content_Encoding="gzip")

    def answer_promise(self, rest: str) -> None:
        self.give(b"", Content_Length=str(10**12))

    def answer_sound(self, rest: str) -> None:
        file = io.BytesIO()
        soundfile.write(file, np.ones(100, np.float32) / 2, 48_000, format="WAV", subtype="FLOAT")
        self.give(file.getvalue())

    def answer_film(self, rest: str) -> None:
        file = io.BytesIO()
        frames = [Image.new("L", (4, 4), level) for level in (0, 99)]
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=50)
        self.give(file.getvalue())

    def answer_drip(self, rest: str) -> None:
        """A byte now and then: within the headers, or after them."""
        if rest != "headers":
            self.give(b"")
        for byte in itertools.cycle(b"HTTP/1.1 200 OK\r\n" if rest == "headers" else PNG):
            try:
                self.wfile.write(bytes([byte]))
            except OSError:
                return
            time.sleep(0.05)

    def answer_endless(self, rest: str) -> None:
        self.give(b"", Content_Length="10")  # which is a lie, and not believed by those who count
        try:
            while True:
                self.wfile.write(bytes(2**16))
        except OSError:
            return

    def answer_more(self, rest: str) -> None:
        self.give(b"")
        try:
            while True:
                self.wfile.write(bytes(2**16))
        except OSError:
            return

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server(("127.0.0.1", 0), type("Own", (Handler,), {"seen": []})) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def other(server: Server) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), type("Other", (Handler,), {"seen": []})) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def at(server: Server, path: str = "/a.png", login: str = "") -> str:
    return f"http://{login}127.0.0.1:{server.server_port}{path}"


def seen(server: Server) -> list[tuple[str, str | None, str | None]]:
    return server.RequestHandlerClass.seen  # type: ignore[attr-defined, no-any-return]


# --- addresses


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/a b/ñ.png", "/a%20b/%C3%B1.png"),
        ("/猫.png?q=ü x#part", "/%E7%8C%AB.png?q=%C3%BC%20x"),
        ("/already%20%C3%B1.png?a=b%26c&d=e+f", "/already%20%C3%B1.png?a=b%26c&d=e+f"),
        ("/100%.png", "/100%25.png"),
        ("/[a]|\"<b>'\\^`{c}.png", "/%5Ba%5D%7C%22%3Cb%3E'%5C%5E%60%7Bc%7D.png"),
        ("", "/"),
        ("?size=big", "/?size=big"),
    ],
)
def test_addresses_are_sent_percent_encoded(server: Server, written: str, sent: str) -> None:
    assert np.asarray(open_image(at(server, written))).shape == (5, 6, 3)
    assert seen(server) == [(sent, None, f"127.0.0.1:{server.server_port}")]


def test_sounds_and_videos_come_from_there_too(server: Server) -> None:
    assert open_audio(at(server, "/sound"), 48_000).tolist() == [0.5] * 100
    assert open_video(at(server, "/film").replace("http", "HTTP")).total == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://", "http:///a.png", "http://[::1", "https://[broken/a.png", "http://h:99999/", "http://h:-1/",
        "http://h:port/", "http://a b/c", "http://" + "a" * 70 + ".com/", "http://\udc80/a", "http://../a", "http://%00/",
        "http://a\nb/", "http://a/\r\nX-Injected: yes", "http://a/b\tc", "http://a\x7f/", "http://a\0/",
    ],
    ids=repr,
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(MediaError, match=r"cannot be downloaded \(.+\); expected an image") as caught:
        open_image(url)
    assert str(caught.value).isprintable() or "\udc80" in url


def test_a_name_beyond_ascii_is_looked_up_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def lookup(host: str, *args: object, **options: object) -> list[Any]:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(MediaError, match="Name or service not known"):
        fetch("http://Bücher.example/a.png")
    assert asked == ["xn--bcher-kva.example"]


# --- credentials


def leaks(error: BaseException | None) -> bool:
    """Whether the secret stands in an error, what it came from, or a traceback."""
    return error is not None and (
        any(SECRET in text for text in (str(error), repr(error), *traceback.format_exception(error)))
        or leaks(error.__cause__)
        or leaks(error.__context__)
    )


def test_credentials_are_sent_and_stay_with_their_host(server: Server, other: Server) -> None:
    login = f"us%20er:{SECRET}@"
    fetch(at(server, "/a.png", login))
    fetch(at(server, "/to//b.png", login))
    fetch(at(server, f"/to/{at(other)}", login))
    basic = "Basic dXMgZXI6czNjcmV0"
    assert [(path, given) for path, given, _ in seen(server)][:3] == [
        ("/a.png", basic),
        ("/to//b.png", basic),
        ("/b.png", basic),
    ]
    assert seen(other) == [("/a.png", None, f"127.0.0.1:{other.server_port}")]


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@127.0.0.1:1/a.png", f"https://user:{SECRET}@127.0.0.1:1/a.png", f"http://{SECRET}@[::1",
        f"http://user:{SECRET}@h:99999/", f"http://user:{SECRET}@h:port/", f"http://user:{SECRET}/x@127.0.0.1:1/",
        f"http://user:p@{SECRET}@127.0.0.1:1/", f"http://user:{SECRET}#@h/", f"http://user:{SECRET}?@127.0.0.1:1/",
        f"http://user:{SECRET}@a b/", f"http://user:{SECRET}@127.0.0.1:1/\n", f"http://user:{SECRET}@{'x' * 300}/",
    ],
)  # fmt: skip
def test_credentials_are_never_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(MediaError, match="cannot be downloaded") as caught:
        open_image(url)
    assert not leaks(caught.value)
    assert SECRET not in short_name(url)


def test_names_are_shown_whole_otherwise() -> None:
    for name in ("http://h/a@2x.png", "http://h:80/a@b", "https://[::1]:8080/a", "/home/user:pw@x/a.png", "a.png"):
        assert short_name(name) == name
    assert short_name("http://u@h/a") == "http://h/a"
    assert short_name("a\n\x1b[31m.png") == "a\\n\\x1b[31m.png"


# --- servers


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/status/404", r"HTTP error 404: Not Found\)"),
        ("/status/403", "HTTP error 403: Forbidden"),
        ("/status/599", "HTTP error 599: unknown"),
        ("/page", "a web page came in place of the file"),
        ("/hidden", "a web page came in place of the file"),
        ("/empty", "the answer is empty"),
        ("/short", "it ended after .* of 99,999 bytes"),
        ("/packed", r"packed \('gzip'\)"),
        ("/promise", "larger than 104857600 bytes"),
        ("/loop/0", "one address to the next, 5 times"),
    ],
)
def test_answers_that_are_no_picture(server: Server, path: str, words: str) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        open_image(at(server, path))
    assert "\x1b" not in str(caught.value)


def test_a_wrong_content_type_does_not_hide_a_picture(server: Server) -> None:
    assert fetch(at(server, "/wrongly")) == PNG


@pytest.mark.parametrize("path", ["/more", "/promise"])
def test_size_is_bounded_while_it_comes(server: Server, path: str) -> None:
    with pytest.raises(MediaError, match="larger than 1000000 bytes; expected a sound below that"):
        fetch(at(server, path), "a sound", FetchPolicy(most_bytes=10**6))
    assert len(fetch(at(server, "/endless"), policy=FetchPolicy(most_bytes=10**6))) == 10


@pytest.mark.parametrize("path", ["/drip/headers", "/drip/body"])
def test_time_is_bounded_in_total(server: Server, path: str) -> None:
    """A byte comes every 50 ms, so that no single read ever waits for long."""
    begin = time.monotonic()
    with pytest.raises(MediaError, match=r"took more than 0\.4 s"):
        fetch(at(server, path), policy=FetchPolicy(seconds=0.4))
    assert time.monotonic() - begin < 10


def test_time_is_bounded_for_all_redirects_together(server: Server) -> None:
    with pytest.raises(MediaError, match=r"took more than 0\.3 s"):
        fetch(at(server, "/loop/0"), policy=FetchPolicy(seconds=0.3, redirects=10**6))


# --- redirects and policies


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("ftp://127.0.0.1/a.png", "redirected, and its scheme is 'ftp'"),
        ("file:///etc/passwd", "redirected, and its scheme is 'file'"),
        ("data:image/png;base64,AAAA", "redirected, and its scheme is 'data'"),
        ("http://169.254.169.254/latest/meta-data", r"redirected to 169\.254\.169\.254, .* not a public one"),
        ("http://10.0.0.1/", "not a public one"),
        ("//192.168.1.1/", "not a public one"),
        ("http://[::ffff:10.0.0.1]/", "not a public one"),
        ("http://[64:ff9b::a00:1]/", "not a public one"),
        ("http://0x0a000001/", "not a public one"),
        ("http://[::1", "redirected, and it is no valid address"),
        ("http://h:99999/", "redirected, and it is no valid address"),
    ],
)
def test_redirects_to_where_none_should_lead(server: Server, target: str, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        fetch(at(server, f"/to/{urllib.parse.quote(target, safe='')}"))


def test_redirects_within_a_host_and_to_names_beyond_ascii(server: Server, other: Server) -> None:
    assert fetch(at(server, "/to//b.png")) == PNG
    assert fetch(at(server, f"/to/{at(other, '/ñ b')}")) == PNG
    assert seen(other)[-1][0] == "/%C3%B1%20b"


class Network:
    """Names and addresses of its own, all of which lead to one server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, server: Server, names: dict[str, str]):
        self.names = names
        self.lookups: list[str] = []
        self.reached: list[tuple[str, int]] = []
        connect = socket.create_connection

        def lookup(host: str, port: int, *args: object, **options: object) -> list[Any]:
            self.lookups.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.names.get(host, host), port))]

        def reach(address: tuple[str, int], *args: Any) -> socket.socket:
            self.reached.append(address)
            monkeypatch.setattr(socket, "getaddrinfo", real)
            try:
                return connect(("127.0.0.1", server.server_port), *args)
            finally:
                monkeypatch.setattr(socket, "getaddrinfo", lookup)

        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        monkeypatch.setattr(socket, "create_connection", reach)


def test_a_redirect_from_a_public_address_to_an_internal_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, server, {"public.example": "93.184.215.14", "inside.example": "127.0.0.1"})
    assert fetch("http://public.example/to//b.png") == PNG
    assert fetch("http://inside.example/a.png") == PNG  # which the user named
    for target in ("http://inside.example/", "http://127.0.0.1/", "http://[::1]/", "http://100.64.0.1/"):
        with pytest.raises(MediaError, match=r"redirected to .* not a public one"):
            fetch(f"http://public.example/to/{urllib.parse.quote(target, safe='')}")
    assert {address for address, _ in network.reached} == {"93.184.215.14", "127.0.0.1"}
    assert [address for address, _ in network.reached].count("127.0.0.1") == 1


def test_what_strangers_name_is_public_media_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, server, {"public.example": "93.184.215.14", "inside.example": "10.1.2.3"})
    typed = FetchPolicy(internal=False, ports=(80, 443), proxies=False)
    assert fetch("http://public.example/a.png", policy=typed) == PNG
    # The name was looked up once, and what was checked was connected to, under the name.
    assert (network.lookups, network.reached) == (["public.example"], [("93.184.215.14", 80)])
    assert seen(server)[-1][2] == "public.example"
    for url, words in {
        "http://public.example/a.png": "content type is '', which is not allowed",
        "http://public.example:8080/a.png": "port 8080 is not allowed",
        "http://public.example/to/http:%2F%2Fpublic.example:22%2F": "port 22 is not allowed",
        "http://inside.example/a.png": r"leads to inside\.example, whose address 10\.1\.2\.3 is not a public one",
        "http://127.0.0.1/": "not a public one",
        "http://[::ffff:127.0.0.1]/": "not a public one",
        "http://[64:ff9b::7f00:1]/": "not a public one",
        "http://[2002:7f00:1::]/": "not a public one",
        "http://224.0.0.1/": "not a public one",
        "http://public.example/loop/0": "3 times",
    }.items():
        with pytest.raises(MediaError, match=words):
            fetch(url, policy=STRANGERS)
    assert {address for address, _ in network.reached} == {"93.184.215.14"}
    with pytest.raises(MediaError, match=r"the host public\.example is not allowed"):
        fetch("http://public.example/", policy=FetchPolicy(allowed=lambda host: host == "other.example"))


def test_proxies_of_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "direct.example")
    monkeypatch.setenv("http_proxy", f"http://user:{SECRET}@127.0.0.1:{server.server_port}")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
    # The server takes the whole address for a path.
    fetch("http://somewhere.example/ä b")
    assert seen(server)[-1][::2] == ("http://somewhere.example/%C3%A4%20b", "somewhere.example")
    with pytest.raises(MediaError, match=r"the proxy answers 501: Not Implemented") as caught:
        fetch("https://somewhere.example/a.png")
    assert not leaks(caught.value)
    monkeypatch.setenv("http_proxy", f"socks5://user:{SECRET}@127.0.0.1:1")
    with pytest.raises(MediaError, match="http proxy of the environment") as caught:
        fetch("http://somewhere.example/a.png")
    assert not leaks(caught.value)
    fetch(at(server), policy=FetchPolicy(proxies=False))
