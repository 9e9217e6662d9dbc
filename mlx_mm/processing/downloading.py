"""One download: its connections, redirects and proxies.

Each redirect is checked as the first address was. A name is resolved once, and what was checked is connected to.
"""

import base64
import contextlib
import http
import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace

from mlx_mm.errors import MediaError
from mlx_mm.processing.fetching import FetchPolicy, is_page

_HEADERS = {"User-Agent": "mlx_mm", "Connection": "close"}  # some hosts (Wikimedia for one) refuse urllib's own name
_REDIRECTS = (301, 302, 303, 307, 308)
_READ = 1 << 16  # bytes at a time
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_IN_IPV6 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))  # NAT64 and an older way
_UNICAST = ipaddress.ip_network("2000::/3")


@dataclass(frozen=True)
class _Place:
    """An address, taken apart. host: in ASCII. target: path and query, percent-encoded. login: the header's value."""

    scheme: str
    host: str
    port: int
    target: str
    login: str | None

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _port(self.scheme) else f"{host}:{self.port}"


def _place(url: str) -> _Place:
    """Raises ValueError, whose text holds nothing of the address."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in url):
        raise ValueError("its address has control characters")
    found = _split(url)
    if found is None:
        raise ValueError("it is no valid address")
    parts, host, port = found
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"its scheme is {parts.scheme[:20]!r}, neither http nor https")
    if not _HOST.fullmatch(host):
        raise ValueError("its address names no valid host")
    login = None
    if parts.username is not None:
        login = _login(parts.username, parts.password or "")
    target = _quoted(parts.path, "/") or "/"
    if parts.query:
        target += "?" + _quoted(parts.query, "/?")
    return _Place(parts.scheme, host, _port(parts.scheme) if port is None else port, target, login)


def _split(url: str) -> tuple[urllib.parse.SplitResult, str, int | None] | None:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts, (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:  # whose text may hold a password
        return None


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _login(user: str, password: str) -> str:
    pair = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _quoted(text: str, safe: str) -> str:
    """Percent-encoded where it is not yet."""
    text = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)
    return urllib.parse.quote(text, safe=f"{safe}%:@!$&'()*+,;=~")


class Download:
    """One download: its policy, and the moment at which it ends."""

    def __init__(self, policy: FetchPolicy, expected: str, name: str):
        self.policy = policy
        self.expected = expected
        self.name = name
        self.until = time.monotonic() + policy.seconds

    def follow(self, url: str) -> bytes:
        """What an address, or the one that it leads to, answers."""
        place, sender = _place(url), None
        for _ in range(self.policy.redirects + 1):
            self._check(place)
            with contextlib.ExitStack() as kept:
                timed, target, headers = self._connect(place, sender, kept)
                connection = http.client.HTTPConnection(place.host, place.port)
                connection.sock = timed  # the part of a socket that it uses
                connection.request("GET", target, headers=headers)
                response = connection.getresponse()
                kept.callback(response.close)
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    return self._body(response)
                sender = timed.address
                place = _moved(place, location)
        raise OSError(f"it leads from one address to the next, {self.policy.redirects} times and more")

    def _check(self, place: _Place) -> None:
        if self.policy.ports is not None and place.port not in self.policy.ports:
            raise OSError(f"port {place.port} is not allowed")
        if self.policy.allowed is not None and not self.policy.allowed(place.host):
            raise OSError(f"the host {place.host} is not allowed")

    def _connect(
        self, place: _Place, sender: str | None, kept: contextlib.ExitStack
    ) -> tuple["_Timed", str, dict[str, str]]:
        """A connection to the place or its proxy, and the target and the headers of the request.

        sender: the address that redirects there. kept: what ends the connection.
        """
        headers = _HEADERS | {"Host": place.authority} | ({"Authorization": place.login} if place.login else {})
        proxy = _proxy_of(place) if self.policy.proxies else None
        if proxy is None:
            timed = self._reach(place.host, self._addresses(place, sender), place.port)
            kept.callback(timed.end)
            return (timed.secured(place.host) if place.scheme == "https" else timed), place.target, headers
        if sender is not None:
            with contextlib.suppress(socket.gaierror):  # names may be the proxy's alone to resolve
                self._addresses(place, sender)
        timed = self._reach(proxy.host, _resolved(proxy), proxy.port)
        kept.callback(timed.end)
        timed.address = ""  # the place's own is the proxy's to know
        login = {"Proxy-Authorization": proxy.login} if proxy.login else {}
        if place.scheme == "http":
            return timed, f"http://{place.authority}{place.target}", headers | login
        timed.tunnel(place, login)
        return timed.secured(place.host), place.target, headers

    def _addresses(self, place: _Place, sender: str | None) -> list[str]:
        """Those of a place that may be connected to."""
        found = _resolved(place)
        trusted = self.policy.internal and sender is None
        fit = [address for address in found if trusted or _is_public(address) or address == sender]
        if not fit:
            how = "it is redirected" if sender is not None else "it leads"
            raise OSError(
                f"{how} to {place.authority}, whose address {found[0]} is not a public one, which is not allowed"
            )
        return fit

    def _reach(self, host: str, addresses: list[str], port: int) -> "_Timed":
        """Connected to the first address that answers; none may take all the time while there are others."""
        error: OSError | None = None
        for tried, address in enumerate(addresses):
            patience = _left(self.until) / (len(addresses) - tried)
            try:
                return _Timed(socket.create_connection((address, port), patience), self.until, address)
            except OSError as problem:
                error = problem
        raise error or OSError(f"{host} has no address")

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        most, kind = self.policy.most_bytes, (response.headers.get("Content-Type") or "").lower().strip()
        if not 200 <= response.status < 300:
            raise OSError(f"HTTP error {response.status}: {_phrase(response.status)}")
        if self.policy.types and not kind.startswith(self.policy.types):
            raise OSError(f"its content type is {kind[:60]!r}, which is not allowed")
        packed = (response.headers.get("Content-Encoding") or "identity").lower()
        if packed != "identity":
            raise OSError(f"it comes packed ({packed[:20]!r}), which was not asked for")
        promised = response.length
        if promised is not None and promised > most:
            raise self._too_large()
        parts, size = [], 0
        while part := response.read(_READ):
            parts.append(part)
            size += len(part)
            if size > most:
                raise self._too_large()
        if promised is not None and size < promised:
            raise OSError(f"it ended after {size:,} of {promised:,} bytes")
        data = b"".join(parts)
        if not data:
            raise OSError("the answer is empty")
        if is_page(data[:2048]) or (kind.startswith(_PAGE_TYPES) and b"\0" not in data[:2048]):
            raise OSError("a web page came in place of the file")
        return data

    def _too_large(self) -> MediaError:
        return MediaError(
            f"{self.name} is larger than {self.policy.most_bytes} bytes; expected {self.expected} below that. Download "
            "it yourself and give its path."
        )


def _moved(place: _Place, location: str) -> _Place:
    """Where a redirect leads; credentials go to the same host alone."""
    with contextlib.suppress(UnicodeError):  # http.client reads headers as Latin-1
        location = location.encode("latin-1").decode()
    with contextlib.suppress(ValueError):  # which _place meets, too
        location = urllib.parse.urljoin(f"{place.scheme}://{place.authority}{place.target}", location)
    try:
        new = _place(location)
    except ValueError as error:
        raise OSError(f"it is redirected, and {error}") from None
    same = (new.scheme, new.host, new.port) == (place.scheme, place.host, place.port)
    return replace(new, login=place.login) if same and new.login is None else new


def _phrase(status: int) -> str:
    """Ours: what a server writes beside the number may be anything."""
    return http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "unknown"


def _proxy_of(place: _Place) -> _Place | None:
    url = urllib.request.getproxies().get(place.scheme)
    if not url or urllib.request.proxy_bypass(place.authority):
        return None
    try:
        proxy = _place(url if "://" in url else f"http://{url}")
    except ValueError as error:
        raise OSError(f"the {place.scheme} proxy of the environment cannot be used: {error}") from None
    if proxy.scheme != "http":
        raise OSError(f"the {place.scheme} proxy of the environment is not one of http, and no other is supported")
    return proxy


def _resolved(place: _Place) -> list[str]:
    entries = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def _is_public(address: str) -> bool:
    """Whether an address lies outside of the machine and its networks; where it carries an IPv4 address, that one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and any(found in network for network in _IN_IPV6):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is None:
            return found in _UNICAST and found.is_global
        found = inner
    return found.is_global and not found.is_multicast and not found.is_reserved


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Timed:
    """What http.client needs of a socket, whose every wait ends at one moment. address: that it is connected to."""

    def __init__(self, sock: socket.socket, until: float, address: str):
        self._sock = sock
        self._until = until
        self.address = address

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._sock.settimeout(_left(self._until))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What comes, to be read."""
        return io.BufferedReader(_Arriving(self._sock, self._until), _READ)

    def close(self) -> None:
        """http.client closes what it still reads from; `end` is for good."""

    def end(self) -> None:
        """Close the connection."""
        self._sock.close()

    def secured(self, host: str) -> "_Timed":
        """The same, within TLS to that host."""
        self._sock.settimeout(_left(self._until))
        self._sock = ssl.create_default_context().wrap_socket(self._sock, server_hostname=host)
        return self

    def tunnel(self, place: _Place, login: dict[str, str]) -> None:
        """Have a proxy connect to a place."""
        host = f"[{place.host}]" if ":" in place.host else place.host
        lines = [f"CONNECT {host}:{place.port} HTTP/1.1", f"Host: {host}:{place.port}"]
        lines += [f"{name}: {value}" for name, value in login.items()]
        self.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        response = http.client.HTTPResponse(self, method="CONNECT")  # type: ignore[arg-type]
        response.begin()
        if response.status != 200:
            raise OSError(f"the proxy answers {response.status}: {_phrase(response.status)}")


class _Arriving(io.RawIOBase):
    def __init__(self, sock: socket.socket, until: float):
        self._sock = sock
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(_left(self._until))
        return self._sock.recv_into(buffer)
