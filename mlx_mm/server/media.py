"""Pictures, sounds and videos that a request names: data URIs, items of the index, and URLs where they are allowed."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from mlx_mm.errors import MediaError
from mlx_mm.processing.fetching import STRANGERS, fetch, short_name
from mlx_mm.processing.sources import PICTURE, SOUND, VIDEO, read_data_uri
from mlx_mm.server.errors import Problem

Medium: TypeAlias = Literal["image", "audio", "video"]
Items: TypeAlias = "Callable[[int], bytes | os.PathLike[str]]"

MOST_MEDIA = 32  # in one request
_KINDS = {"image": PICTURE, "audio": SOUND, "video": VIDEO}
_ITEM = re.compile(r"mm://item/(\d{1,18})")


@dataclass(frozen=True)
class Media:
    """What a request may name beside data URIs.

    urls: hosts whose http and https addresses are fetched, () for none, ("*",) for all; they must be public in any
    case. items: gives the file of an item of the index by its number; raises errors of ours.
    """

    urls: tuple[str, ...] = ()
    items: Items | None = None

    def _may_ask(self, host: str) -> bool:
        return "*" in self.urls or host in self.urls

    def load(self, uri: str, kind: Medium, where: str, known: bool) -> bytes | os.PathLike[str]:
        """The encoded file, or the path of an item; Problem or MediaError. It may wait for the network."""
        start = uri[:8].lower()
        if start.startswith("data:"):
            return read_data_uri(uri, _KINDS[kind])
        if item := _ITEM.fullmatch(uri):
            if self.items is None:
                raise Problem(
                    f"{where} names an item, and no index is served; expected a data URI. Start the server with "
                    "--index.",
                    param=where,
                    code="no_index",
                )
            if not known:
                raise Problem(
                    f"{where} names an item of the index; expected the key or the session's token with it. Send one.",
                    401,
                    param=where,
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            return self.items(int(item[1]))
        if start.startswith(("http://", "https://")):
            if not self.urls:
                raise Problem(
                    f"{where} is an address, and this server fetches none; expected a data URI. Start it with "
                    "--allow-urls, or send the file itself.",
                    param=where,
                    code="urls_not_allowed",
                )
            return fetch(uri, _KINDS[kind].noun, replace(STRANGERS, allowed=self._may_ask))
        raise Problem(
            f"{where} is {short_name(uri)!r}; expected data:{kind}/...;base64,... or mm://item/ID, as this server "
            "opens nothing by its name. Send the file itself.",
            param=where,
            code="invalid_media",
        )


class Reader:
    """Reads the media of one request, and counts them. known: whether it may see files of the index."""

    def __init__(self, media: Media, known: bool) -> None:
        self._media, self._known, self._count = media, known, 0

    async def read(self, uri: str, kind: Medium, where: str) -> bytes | os.PathLike[str]:
        """The encoded file, or the path of an item. where: in the request, for errors. Raises Problem."""
        self._count += 1
        if self._count > MOST_MEDIA:
            raise Problem(
                f"{where} is one more than {MOST_MEDIA} pictures, sounds and videos; expected no more. Send several "
                "requests.",
                param=where,
                code="too_many_media",
            )
        try:
            return await asyncio.to_thread(self._media.load, uri, kind, where, self._known)
        except MediaError as error:
            raise Problem(f"{where}: {error}", param=where, code="invalid_media") from error
