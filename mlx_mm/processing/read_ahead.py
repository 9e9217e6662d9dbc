"""Inputs that are prepared in threads while others are computed: in order, and within bounds."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from mlx_mm.errors import MediaError

Item = TypeVar("Item")
OnError: TypeAlias = Callable[[int, MediaError], None]

WORKER_THREADS = 2  # decoding, resizing and NumPy's transforms release the interpreter lock
MAX_ITEMS_AHEAD = 8  # of one input, made before somebody takes one
POLL_SECONDS = 0.1


class _End:
    """The last item of every input."""


def read_ahead(
    count: int,
    make: Callable[[int], Iterator[Item]],
    *,
    inputs_ahead: int = WORKER_THREADS,
    on_error: OnError | None = None,
) -> Iterator[tuple[int, Item]]:
    """(index, item) for all items of make(0), make(1), …, in order, each input in a thread.

    inputs_ahead: how many are begun before their first item is asked for. on_error: called, between two items, with
    the index and the MediaError of an input that raises one, which then ends; by default it is raised, as all other
    errors are. When the caller stops early, the threads stop too.
    """
    stop = threading.Event()

    def run(index: int, items: "queue.Queue[Item | _End]") -> None:
        if stop.is_set():  # it was next before it could be cancelled
            return
        try:
            for item in make(index):
                _put(items, item, stop)
                if stop.is_set():
                    return
        finally:
            _put(items, _End(), stop)

    running: list[tuple[queue.Queue[Item | _End], Future[None]]] = []
    pool = ThreadPoolExecutor(WORKER_THREADS)
    try:
        for index in range(count):
            for ahead in range(index + len(running), min(count, index + inputs_ahead)):
                begun: queue.Queue[Item | _End] = queue.Queue(MAX_ITEMS_AHEAD)
                running.append((begun, pool.submit(run, ahead, begun)))
            items, future = running.pop(0)
            while not isinstance(item := items.get(), _End):
                yield index, item
            try:
                future.result()
            except MediaError as error:
                if on_error is None:
                    raise
                on_error(index, error)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _put(items: "queue.Queue[Item]", item: Item, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            items.put(item, timeout=POLL_SECONDS)
            return
        except queue.Full:
            continue
