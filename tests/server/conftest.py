"""The bundled models behind an application, once for all tests of routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from asked import serving
from asking import KEY, TOKEN

from mlx_mm.server.app import make_app
from mlx_mm.server.media import Media
from mlx_mm.server.security import Access


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    with serving("emoji-siglip2", "sounds-clap", "emoji-glm4v") as engine:
        yield engine


@pytest.fixture(scope="session")
def app(engine: Any) -> Any:
    """Without a key."""
    return make_app(engine, Access(token=TOKEN))


@pytest.fixture(scope="session")
def locked(engine: Any) -> Any:
    """With a key, one friendly page, small bodies, and addresses that may be fetched."""
    access = Access(
        key=KEY,
        token=TOKEN,
        origins=("http://localhost:3000",),
        hosts=("mac.local",),
        max_body=1 << 20,
        body_seconds=0.3,
    )
    return make_app(engine, access, Media(urls=("*",)))
