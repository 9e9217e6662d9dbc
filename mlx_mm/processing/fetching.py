"""Downloads: what stands behind an http or https address, within bounds of time and size and by a policy."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from mlx_mm.errors import MediaError, foreign

MOST_BYTES = 100 << 20  # of what is held in memory as a whole: downloads, data URIs, pipes and streams
NAME_CHARACTERS = 200  # of a file's name or URI in a message

_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*|<\?xml.*?>\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)


@dataclass(frozen=True, kw_only=True)
class FetchPolicy:
    """What may be fetched, and how much of it. The default is for what a user names.

    seconds: for everything together, redirects included. most_bytes: of what comes. redirects: how many are followed.
    internal: whether the first address may lie inside the machine or its network; a redirect leads there from the same
    address only. ports: the only ones, None for all. types: starts of the content types that are taken, () for all.
    allowed: says of a host name, in ASCII and lower case, whether it may be asked. proxies: take those that the
    environment or the system names, as urllib does; what a name leads to is then the proxy's to say.
    """

    seconds: float = 30
    most_bytes: int = MOST_BYTES
    redirects: int = 5
    internal: bool = True
    ports: tuple[int, ...] | None = None
    types: tuple[str, ...] = ()
    allowed: Callable[[str], bool] | None = None
    proxies: bool = True


USERS = FetchPolicy()
# For what others name, as a server is asked to: public addresses alone, and nothing but media.
STRANGERS = FetchPolicy(
    seconds=20,
    most_bytes=20_000_000,
    redirects=3,
    internal=False,
    ports=(80, 443),
    types=("image/", "audio/", "video/"),
    proxies=False,
)


def fetch(url: str, expected: str = "an image", policy: FetchPolicy = USERS) -> bytes:
    """What stands behind an http or https address; MediaError for what cannot be had, or is not allowed to be.

    expected: what it should be, for the message. Spaces and letters beyond ASCII may stand in the address as they are;
    `user:password@` before the host is sent as basic authentication, to that host alone, and never shown.
    """
    from mlx_mm.processing.downloading import Download  # and with it http and ssl, which few programs need

    with foreign(MediaError, f"{short_name(url)} cannot be downloaded", _advice(expected)):
        try:
            return Download(policy, expected, short_name(url)).follow(url)
        except TimeoutError as error:
            raise TimeoutError(f"it took more than {policy.seconds:g} s") from error


def is_page(start: bytes) -> bool:
    """Whether a file that begins so is a web page, such as the one that says that there is no such file."""
    return _PAGE.match(start) is not None


def short_name(name: str) -> str:
    """The name of a file or its URI, as a message shows it: on one line, without credentials, and not too long."""
    if re.match(r"https?://", name, re.IGNORECASE):
        name = _without_credentials(name)
    name = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], name)
    return name if len(name) <= NAME_CHARACTERS else f"{name[:150]}...({len(name)} characters)"


def _advice(expected: str) -> str:
    return f"expected {expected}. Check the address and the network. Download it in a browser to see what comes."


def _without_credentials(url: str) -> str:
    """Of an address whose authority is damaged, such as by a "/" in the password, less is shown rather than more."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    start = re.match(r"[^/]*:[^/]*@|[^/?#]*@", rest)
    if start is None and re.search(r":(?!\d*$)", authority) and not authority.startswith("["):
        start = re.match(r".*@", rest, re.DOTALL)
    return f"{scheme}://{rest[start.end() :]}" if start else url
