"""Model runs on other machines: pictures are read here, and several `mlx_mm serve` make their vectors."""

import base64
import contextlib
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np

from mlx_mm.errors import InputError, OtherModelError, StoreError, reason
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search.canary import PICTURE, check_canary

KEY = "MLX_MM_API_KEY"  # in the environment: what the servers want as a bearer
DATA = "data"  # of a batch: the bytes of a picture
AT_ONCE = 2  # requests that a server has, so that it need not wait for the next one
SECONDS = 600.0  # that an answer may take, the first of which loads the model
TRIES = 5
_BUSY = (429, 503)
Key: TypeAlias = tuple[int, int]
Chunk: TypeAlias = Sequence[tuple[Key, Batch]]

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Servers:
    """Some servers with one model. addresses: such as "http://10.0.0.2:8000". fingerprint: of that model. picture: its
    vector of the canary.

    Raises InputError for what is no address, StoreError for a server that does not answer, OtherModelError for one that
    has no such model, DamagedError for one whose model gives other vectors.
    """

    def __init__(self, addresses: Sequence[str], fingerprint: str, model: str, picture: Vectors):
        self._free: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._failed = ""
        for address in dict.fromkeys(map(_checked, addresses)):
            name = _name_of(address, fingerprint, model, picture)
            for _ in range(AT_ONCE):
                self._free.put((address, name))
        self._count = self._left = self._free.qsize()

    def rows_of(self, chunks: Iterable[Chunk]) -> Iterator[tuple[list[Key], Vectors]]:
        """The vectors (n, D) of each chunk of pictures, in order, as `batches.rows_of` gives them.

        A request that fails goes to another server. Raises StoreError where TRIES of them failed, or no server is left,
        and with what a server says of pictures that it refuses.
        """
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self._count))
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            running: deque[tuple[list[Key], Future[Vectors]]] = deque()
            for chunk in chunks:
                running.append(([key for key, _ in chunk], pool.submit(self._vectors, chunk)))
                if len(running) > self._count:
                    keys, future = running.popleft()
                    yield keys, future.result()
            while running:
                keys, future = running.popleft()
                yield keys, future.result()

    def _vectors(self, chunk: Chunk) -> Vectors:
        pictures = [batch[DATA].item() for _, batch in chunk]
        for number in range(TRIES):
            free = self._free.get()
            if free is None:  # for whoever waits, too
                self._free.put(None)
                break
            try:
                vectors = _embedded(*free, pictures)
            except urllib.error.HTTPError as error:
                self._failed = f"{free[0]}: {_words(error)}"
                if error.code in _BUSY:
                    time.sleep(0.1 * 4**number)  # in which others have their turn
                self._free.put(free)
                if error.code not in _BUSY:
                    raise StoreError(
                        f"A server refused pictures ({self._failed}); expected vectors. Index without --server to see "
                        "which."
                    ) from error
            except (OSError, ValueError, KeyError) as error:
                self._failed = f"{free[0]}: {reason(error)}"
                self._leave()
            else:
                self._free.put(free)
                return vectors
        raise StoreError(
            f"No server gave vectors ({self._failed}); expected one to. What was done is kept; start them, and run it "
            "again."
        )

    def _leave(self) -> None:
        """A server that broke off is not asked again."""
        with self._lock:
            self._left -= 1
            if not self._left:
                self._free.put(None)


def _checked(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"The server is {address!r}; expected an address such as http://10.0.0.2:8000. Change it.")
    return address.rstrip("/").removesuffix("/v1")


def _name_of(address: str, fingerprint: str, model: str, picture: Vectors) -> str:
    """What a server calls the model, which must give the canary's vector there, too."""
    try:
        served = _asked(f"{address}/v1/models")["data"]
        for one in served:
            if (
                one["fingerprint"] is None
                and one["capabilities"]["embeddings"]
                and "image" in one["capabilities"]["input"]
            ):
                _embedded(address, one["id"], [PICTURE.read_bytes()])  # it is known once the model is loaded
        names = {str(one["fingerprint"]): str(one["id"]) for one in _asked(f"{address}/v1/models")["data"]}
        if fingerprint in names:
            found = _embedded(address, names[fingerprint], [PICTURE.read_bytes()])[0]
            check_canary(f"{model} at {address}", "image", picture, found)
            return names[fingerprint]
    except urllib.error.HTTPError as error:
        raise StoreError(
            f"{address} did not say which models it has ({_words(error)}); expected mlx_mm serve. Where it wants a "
            f"key, set {KEY}."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{address} did not answer ({reason(error)}); expected mlx_mm serve there. Start it, or leave it out."
        ) from error
    raise OtherModelError(
        f"{address} has {', '.join(names.values()) or 'no model'}, none with the fingerprint that the index has of "
        f"{model}; expected the same weights and settings. Serve that one: mlx_mm serve --model {model}."
    )


def _embedded(address: str, name: str, pictures: Sequence[bytes]) -> Vectors:
    """Vectors (N, D) of encoded pictures."""
    encoded = [base64.b64encode(picture).decode() for picture in pictures]
    body = {
        "model": name,
        "input": [{"image": f"data:image/png;base64,{text}"} for text in encoded],  # or whatever the bytes are
        "encoding_format": "base64",
    }
    said = _asked(f"{address}/v1/embeddings", body)
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in said["data"]]
    if len(rows) != len(pictures):
        raise ValueError(f"{len(rows)} vectors for {len(pictures)} pictures")
    return np.stack(rows).astype(np.float32)


def _asked(address: str, body: object = None) -> dict[str, Any]:
    """What a server answers, as JSON."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    with _OPENER.open(urllib.request.Request(address, data, headers), timeout=SECONDS) as answer:
        found = json.load(answer)
    if not isinstance(found, dict):
        raise ValueError("the answer is no JSON object")
    return found


def _words(error: urllib.error.HTTPError) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return f"{error.code}, {json.loads(error.read())['error']['message']}"
    return str(error.code)
