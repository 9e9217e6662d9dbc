"""Inputs that are prepared in threads while others are computed: in order, and within bounds."""

import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from mlx_mm.errors import InputError, MediaError, MlxMmError

Item = TypeVar("Item")
OnError: TypeAlias = Callable[[int, MlxMmError], None]

# Decoding, resizing and NumPy's transforms release the interpreter lock. Each thread holds a picture as it is decoded.
WORKER_THREADS = min(4, max(2, os.cpu_count() or 2))
MAX_ITEMS_AHEAD = 8  # of one input, made before somebody takes one
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class _End:
    """The last item of every input. error: what ended it early."""

    error: BaseException | None


def read_ahead(
    count: int,
    make: Callable[[int], Iterator[Item]],
    *,
    inputs_ahead: int = WORKER_THREADS,
    on_error: OnError | None = None,
) -> Generator[tuple[int, Item], None, None]:
    """(index, item) for all items of make(0), make(1), …, in order, each input in a thread.

    inputs_ahead: how many are begun before their first item is asked for. on_error: called, between two items, with
    the index and the MediaError or InputError of an input that raises one, which then ends; by default it is raised,
    as all other errors are. When the caller stops early, the threads stop too.
    """
    stop = threading.Event()
    tasks: queue.SimpleQueue[tuple[int, queue.Queue[Item | _End]] | None] = queue.SimpleQueue()

    def work() -> None:
        while (task := tasks.get()) is not None:
            if not stop.is_set():
                run(*task)

    def run(index: int, items: "queue.Queue[Item | _End]") -> None:
        def end(_kind: object, error: BaseException | None, _trace: object) -> bool:
            _put(items, _End(error), stop)
            return True  # whose it is raises it

        with contextlib.ExitStack() as ended:
            ended.push(end)
            for item in make(index):
                _put(items, item, stop)
                if stop.is_set():
                    return

    # Not those of concurrent.futures, which take nothing more once the main thread has come to its end.
    workers = [
        threading.Thread(target=work, name=f"mlx_mm reads {number}", daemon=True)
        for number in range(min(count, WORKER_THREADS))
    ]
    running: deque[queue.Queue[Item | _End]] = deque()
    try:
        for worker in workers:
            worker.start()
        for index in range(count):
            for ahead in range(index + len(running), min(count, index + inputs_ahead)):
                running.append(queue.Queue(MAX_ITEMS_AHEAD))
                tasks.put((ahead, running[-1]))
            items = running.popleft()
            while not isinstance(item := items.get(), _End):
                yield index, item
            try:
                if item.error is not None:
                    raise item.error
            except (MediaError, InputError) as error:
                if on_error is None:
                    raise
                on_error(index, error)
    finally:
        stop.set()
        for _ in workers:
            tasks.put(None)
        for worker in workers:
            if worker.ident is not None:  # it was started
                worker.join()


def _put(items: "queue.Queue[Item]", item: Item, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            items.put(item, timeout=POLL_SECONDS)
            return
        except queue.Full:
            continue
