"""URLs, against a server on this machine that does everything wrong, and data URIs."""

from __future__ import annotations

import base64
import contextlib
import functools
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

from fuzz.kinds.media import LABELS
from fuzz.kinds.using import answered, finite, vectors
from fuzz.mutation import odd_text, spoil_bytes, spoil_text
from fuzz.outcome import BadOutputError, Trial
from fuzz.place import Place, plain_png

PATIENCE = 60.0  # seconds until even the slowest answer ends
SECRET = "secret.png"  # a file that no redirect may reach


class _Handler(BaseHTTPRequestHandler):
    """Answers /<fault>/<any number of parts> with that fault."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """One of the methods below by the first part of the path."""
        fault = self.path.split("?")[0].strip("/").split("/")[0]
        with contextlib.suppress(OSError, ValueError):
            getattr(self, f"answer_{fault}", self.answer_missing)()
        self.close_connection = True

    def _send(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "image/png", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def answer_ok(self) -> None:
        self._send(_picture())

    def answer_missing(self) -> None:
        self._send(b"no", 404)

    def answer_status(self) -> None:
        self._send(_picture(), int(self.path.split("/")[2]))

    def answer_spoiled(self) -> None:
        self._send(spoil_bytes(Random(self.path), _picture()))

    def answer_short(self) -> None:
        self._send(_picture()[:100], **{"Content-Length": "99999"})

    def answer_long(self) -> None:
        self._send(_picture(), **{"Content-Length": "10"})

    def answer_length(self) -> None:
        self._send(_picture(), **{"Content-Length": urllib.parse.unquote(self.path.split("/")[2])})

    def answer_huge(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(10**12))
        self.end_headers()
        for _ in range(3000):
            self.wfile.write(bytes(1 << 20))

    def answer_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(3000):
            self.wfile.write(bytes(1 << 20))

    def answer_slow(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.wfile.write(b"\x89")
            time.sleep(0.5)

    def answer_silent(self) -> None:
        time.sleep(PATIENCE)

    def answer_headers(self) -> None:
        end = time.monotonic() + PATIENCE
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while time.monotonic() < end:
            self.wfile.write(b"X-A: b\r\n")
            time.sleep(0.5)

    def answer_many(self) -> None:
        self._send(_picture(), **{f"X-{i}": "a" * 900 for i in range(300)})

    def answer_line(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")

    def answer_nonsense(self) -> None:
        self.wfile.write(
            Random(self.path).choice((b"", b"hello", b"\0" * 99, b"HTTP/9.9 999 \xff\r\n\r\n", b"HTTP/1.1 \r\n"))
        )

    def answer_chunked(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.wfile.write(
            Random(self.path).choice((b"zz\r\n", b"-5\r\nabcde\r\n", b"ffffffffff\r\nab", b"5\r\nab", b"0\r\n\r\n"))
        )

    def answer_type(self) -> None:
        self._send(
            _picture(),
            **{"Content-Type": Random(self.path).choice(("text/html", "", "a\tb", "image/svg+xml", "x" * 5000))},
        )

    def answer_gzip(self) -> None:
        self._send(_picture(), Content_Encoding="gzip")

    def answer_bomb(self) -> None:
        self._send(_bomb())

    def answer_loop(self) -> None:
        self._send(b"", 302, Location=self.path)

    def answer_chain(self) -> None:
        left = int(self.path.split("/")[2])
        self._send(b"", 302, Location=f"/chain/{left - 1}" if left else "/ok")

    def answer_to(self) -> None:
        """A redirect to what the query says."""
        target = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("u", [""])[0]
        status = Random(self.path).choice((301, 302, 303, 307, 308))
        self._send(b"", status, Location=target.encode("latin-1", "replace").decode("latin-1"))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@functools.cache
def _server() -> int:
    """The port of the server of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


@functools.cache
def _picture() -> bytes:
    return plain_png(40, 30)


@functools.cache
def _bomb() -> bytes:
    return plain_png(60_000, 50_000)


FAULTS = (
    *(
        "ok",
        "missing",
        "spoiled",
        "short",
        "long",
        "many",
        "line",
        "nonsense",
        "chunked",
        "type",
        "gzip",
        "bomb",
        "loop",
    ),
    *("status/500", "status/204", "status/301", "status/999", "status/416", "chain/3", "chain/50", "length/-1"),
    *(
        "length/abc",
        "length/99999999999999999999",
        "length/1%2C2",
        "nowhere/a%00b",
        "ok/%C3%B1",
        "ok/a b",
        "ok/猫.png",
        "ok/%zz",
    ),
)
SLOW = ("slow", "silent", "headers", "huge", "endless")
TARGETS = (
    *("file:///etc/hostname", "ftp://127.0.0.1/x", "http://169.254.169.254/latest", "http://[::1]:1/", "//", "", "/ok"),
    *(
        "http://",
        "http://127.0.0.1:99999/",
        "gopher://127.0.0.1/",
        "data:image/png;base64,AAAA",
        "javascript:1",
        "\x00",
    ),
    *(
        "http://user:secret@127.0.0.1:1/",
        "http://ñ/",
        "../../x",
        "http://127.0.0.1:1/",
        "HTTP://LOCALHOST:1/",
        "file:{secret}",
    ),
)
NO_SERVER = (
    *(
        "http://127.0.0.1:1/a.png",
        "https://127.0.0.1:{port}/ok",
        "http://[::1",
        "http://127.0.0.1:port/",
        "http://:80/",
        "http:///a",
    ),
    *(
        "http://a.invalid/猫",
        "http://user:pw@127.0.0.1:{port}/ok",
        "http://127.0.0.1:{port}",
        "http://127.0.0.1:{port}/ok#x?y",
    ),
    *(
        "HTTP://127.0.0.1:{port}/ok",
        "ftp://127.0.0.1/a.png",
        "file:///etc/hostname",
        "http://127.1:{port}/ok",
        "http://0x7f.1/x",
    ),
    *(
        "http://127.0.0.1:{port}/ok\r\nX: y",
        "http://127.0.0.1:{port}/o\tk",
        " http://127.0.0.1:{port}/ok ",
        "http://xn--/",
        "http://" + "a" * 300,
    ),
    *(
        "http://" + "a." * 200 + "b/",
        "https://[fe80::1%25eth0]/",
        "http://\ud800/",
        "http://127.0.0.1:{port}/\ud800",
        "s3://a/b",
        "hf://a",
    ),
)


def url(random: Random, place: Place) -> Trial:
    """The address of a picture that is answered badly, slowly, elsewhere or not at all."""
    port, roll = _server(), random.random()
    secret = place.folder / SECRET
    secret.write_bytes(_picture())
    base = f"http://127.0.0.1:{port}"
    if roll < 0.55:
        address = f"{base}/{random.choice(FAULTS)}/{random.randrange(1000)}"
    elif roll < 0.57:
        address = f"{base}/{random.choice(SLOW)}"
    elif roll < 0.75:
        target = random.choice(TARGETS).replace("{secret}", str(secret))
        address = f"{base}/to?" + urllib.parse.urlencode(
            {"u": target if random.random() < 0.8 else spoil_text(random, target)}, errors="replace"
        )
    elif roll < 0.9:
        address = random.choice(NO_SERVER).replace("{port}", str(port))
    else:
        address = spoil_text(random, f"{base}/ok/a.png?b=c#d")
    reached = "file%3A" in address.split("/to?")[-1] and roll >= 0.57
    model, how = place.loaded("siglip2"), random.random()

    def trial() -> None:
        import mlx_mm

        failed: list[int] = []
        if how < 0.7:
            vectors(mlx_mm.encode_image(*model, address))
        elif how < 0.8:
            vectors(mlx_mm.encode_image(*model, [address] * 2, on_error=lambda i, _: failed.append(i)), 2 - len(failed))
        elif how < 0.9:
            finite("scores", mlx_mm.classify(*model, address, LABELS))
        else:
            chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}]
            answered(mlx_mm.generate(*place.loaded("glm46v"), chat, max_tokens=1, max_pixels=40_000))
        if reached and not failed:
            raise BadOutputError(f"a redirect to a file was followed: {address[:300]!r}")

    return trial


def data_uri(random: Random, place: Place) -> Trial:
    """data: with other headers, other coding, pictures and videos with faults, and far too much."""
    group = random.choice(("pictures", "pictures", "videos"))
    name, data = place.media(group, random)
    data = spoil_bytes(random, data) if random.random() < 0.4 else data
    header = random.choice(
        ("image/png;base64", f"image/{name.split('.')[-1]};base64", "video/mp4;base64", "", ";base64", "text/plain")
    )
    header = spoil_text(random, header) if random.random() < 0.2 else header
    coded = base64.b64encode(data).decode() if "base64" in header else urllib.parse.quote(data)
    body = spoil_text(random, coded) if random.random() < 0.3 else coded
    uri = f"{random.choice(('data', 'data', 'DATA', 'Data'))}:{header}{random.choice((',', ',', ',', '', ',,'))}{body}"
    if random.random() < 0.02:
        uri = "data:image/png;base64," + "A" * random.choice((150 << 20, 300 << 20))
    if random.random() < 0.1:
        uri = spoil_text(random, odd_text(random) + uri[:2000])
    how = random.random()

    def trial() -> None:
        import mlx_mm

        if how < 0.6 and group == "pictures":
            vectors(mlx_mm.encode_image(*place.loaded("siglip2"), uri))
        elif group == "pictures":
            chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}]
            answered(mlx_mm.generate(*place.loaded("glm46v"), chat, max_tokens=1, max_pixels=40_000))
        else:
            answered(mlx_mm.generate(*place.loaded("glm46v"), "What?", videos=[uri], max_tokens=1, max_pixels=40_000))

    return trial
