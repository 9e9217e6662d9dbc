"""Generators that run ahead in threads, in order and within bounds."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
WORKERS = 2  # generators that run at the same time; decoding and NumPy's transforms release the interpreter lock
AHEAD = 8  # items that each of them makes before somebody takes one
POLL_SECONDS = 0.1
_END = object()


def prefetch(count: int, make: Callable[[int], Iterator[Item]]) -> Iterator[tuple[int, Item | BaseException]]:
    """(index, item) for all items of make(0), make(1), …, in order; what one of them raises is its last item.

    When the caller stops early, the threads stop too.
    """
    stop = threading.Event()

    def run(index: int, items: "queue.Queue[Any]") -> None:
        try:
            for item in make(index):
                _put(items, item, stop)
                if stop.is_set():
                    return
        finally:
            _put(items, _END, stop)

    with ThreadPoolExecutor(WORKERS) as pool:
        running: list[tuple[queue.Queue[Any], Future[None]]] = []
        started = 0
        try:
            for index in range(count):
                while started < min(count, index + WORKERS):
                    items: queue.Queue[Any] = queue.Queue(AHEAD)
                    running.append((items, pool.submit(run, started, items)))
                    started += 1
                items, future = running.pop(0)
                while (item := items.get()) is not _END:
                    yield index, item
                if error := future.exception():
                    yield index, error
        finally:
            stop.set()


def _put(items: "queue.Queue[Any]", item: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            items.put(item, timeout=POLL_SECONDS)
            return
        except queue.Full:
            continue
