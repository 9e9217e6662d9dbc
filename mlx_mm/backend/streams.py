"""Who computes: one thread at a time, on streams that belong to no thread.

A stream of MLX belongs to the thread that made it: no other can finish what was begun on it, and on a CPU it leaves a
thread of the system behind that can abort the process at its end. So whatever this package computes runs inside
`computing`, on streams that any thread may use, one after the other. Nothing is lost by taking turns: on a CPU each
caller has all processors, on a GPU the turn ends when the work is submitted. It also keeps the numbers: OpenBLAS rounds
by how many threads a product has, which is a setting of the process.

Models are made and called by workers, threads that stay: what MLX keeps for each thread of random numbers and compiled
functions takes the interpreter's lock when that thread ends, which is after Python's own `join`, or when the
interpreter ends and stops it. Then it aborts the process. So at the end nobody gets a turn any more, and threads that
have ended are waited for; see `_end`.
"""

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, ClassVar, TypeAlias, TypeVar

import mlx.core as mx

from mlx_mm.backend import device
from mlx_mm.errors import InputError

Result = TypeVar("Result")
Streams: TypeAlias = AbstractContextManager[None]

SECONDS_TO_FINISH = 10.0  # that the interpreter waits at its end for what still computes
SECONDS_TO_END = 1.0  # that a thread may take after its last line of Python
SECONDS_TO_LOOK = 0.2  # for signals: of one that comes just as a wait begins, Python takes notice only at its end
MANY = 256  # callers, of whom those that have ended are then forgotten

_QUEUE, _COMPUTING = threading.Lock(), threading.Lock()


class _Thread(threading.local):
    """computes: it has the turn, or works for a thread that has. part: it is one of several that do. works: it does
    what it is asked for itself, as a worker. ends: it is one that has done its last. noted: it is among the callers.
    stream: of a worker, for parts. task: what a worker does."""

    computes = part = works = ends = noted = False
    stream: mx.Stream | None = None
    task: "_Task[Any] | None" = None


class _Task(Future[Result]):
    """What a worker is to do. unwanted: who asked for it was interrupted, and waits only for its end."""

    unwanted = False


class _Process:
    """forked: its parent had begun to compute. callers: the system's numbers of threads that have had a turn, and may
    be about to end. workers, tasks: who does what. last: holds the turn in which the interpreter ends."""

    forked = False
    tasks: ClassVar[SimpleQueue[Callable[[], None]]] = SimpleQueue()
    callers: ClassVar[set[int]] = set()
    workers: ClassVar[list[threading.Thread]] = []
    last = contextlib.ExitStack()


_thread = _Thread()


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Inside, this thread and no other computes; it may be entered again. Leave nothing lazy behind for other threads
    to evaluate outside of it. Raises InputError in a process that was forked from one that had computed.
    """
    _check_fork()
    if _thread.computes:
        yield
        return
    with contextlib.ExitStack() as turn:
        with _QUEUE:  # who waits holds it, so that who has just had the turn does not take it again
            turn.enter_context(_COMPUTING)
        if not _thread.noted:
            _note_caller()
        turn.enter_context(_shared())
        yield


def compute(function: Callable[[], Result], given: object = ()) -> Result:
    """function(), called by a worker in a turn of this thread.

    given: trees of arrays that it takes. They are evaluated first, here: what this thread began outside of a turn no
    other can finish.
    """
    if _thread.works:
        return function()
    with computing():
        mx.eval(given)
        _hire(1)
        return _results([_submit(function, _shared)])[0]


def compute_parts(functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """What each function returns, called on the CPU by as many workers as there are processors, each on a stream of
    its own, in the turn of this thread. They take what is computed already, and compute what they return."""
    _hire(device.processors())
    return _results([_submit(function, _own) for function in functions])


def finish() -> None:
    """Wait for all that was begun inside `computing`."""
    for where in _devices():
        mx.synchronize(_stream(where))


def give_back_memory() -> None:
    """Return to a GPU what MLX keeps of freed arrays. A CPU keeps nothing, and each thread that asks gets a stream."""
    if not device.on_cpu():
        mx.clear_cache()


def check_wanted() -> None:
    """Within long work of a worker: raise KeyboardInterrupt where the thread that asked for it was interrupted."""
    if _thread.task is not None and _thread.task.unwanted:
        raise KeyboardInterrupt


def streams_of_others() -> list[mx.Stream] | list[mx.ThreadLocalStream]:
    """A stream for each processor but the first, which works on the stream of the caller. A worker is one of many."""
    if _thread.part:
        return []
    return _shared_streams() if _thread.computes else _local_streams()


@contextlib.contextmanager
def _shared() -> Iterator[None]:
    """Inside, the streams of all turns are this thread's."""
    with contextlib.ExitStack() as entered:
        for where in _devices():
            entered.enter_context(mx.stream(_stream(where)))
        _thread.computes = True
        try:
            yield
        finally:
            _thread.computes = False


@contextlib.contextmanager
def _own() -> Iterator[None]:
    """Inside, a worker computes on a stream of its own."""
    if _thread.stream is None:
        _thread.stream = mx.new_thread_unsafe_stream(mx.cpu)
    with mx.stream(_thread.stream):
        _thread.computes = _thread.part = True
        try:
            yield
        finally:
            _thread.computes = _thread.part = False


def _submit(function: Callable[[], Result], where: Callable[[], Streams]) -> _Task[Result]:
    future: _Task[Result] = _Task()

    def run() -> None:
        _thread.task = future
        if future.set_running_or_notify_cancel():
            with contextlib.ExitStack() as raised:
                raised.push(partial(_hand_over, future))
                with where():
                    result = function()
                future.set_result(result)
        _thread.task = None

    _Process.tasks.put(run)
    return future


def _hand_over(future: Future[Result], _kind: object, error: BaseException | None, _trace: object) -> bool:
    """An error goes to the thread that waits, and is none of the worker's."""
    if error is not None:
        future.set_exception(error)
    return error is not None


def _results(running: Sequence[_Task[Result]]) -> list[Result]:
    try:
        while wait(running, timeout=SECONDS_TO_LOOK).not_done:
            continue
    finally:  # after an interruption, too, nothing may run when the turn ends
        for future in running:
            future.unwanted = True
            future.cancel()
        wait(running)
    return [future.result() for future in running]


def _hire(count: int) -> None:
    """Have so many workers at least. They end before the interpreter does."""
    for number in range(len(_Process.workers), count):
        worker = threading.Thread(target=_work, name=f"mlx_mm {number}", daemon=True)
        worker.start()
        _Process.workers.append(worker)


def _work() -> None:
    _thread.works = True
    while not _thread.ends:
        _Process.tasks.get()()  # a name would keep the task while the next one is waited for


def _note_caller() -> None:
    """Remember this thread, which has the turn."""
    _register_end()
    if len(_Process.callers) >= MANY:
        _Process.callers.intersection_update([*filter(_is_there, _Process.callers)])
    _Process.callers.add(threading.get_native_id())
    _thread.noted = True


@cache
def _register_end() -> None:
    atexit.register(_end)


def _end() -> None:
    """Take the turn for good, end the workers, and wait until the system has no thread of those that have ended."""
    if _Process.forked:
        return
    last = time.monotonic() + SECONDS_TO_FINISH
    if _QUEUE.acquire(timeout=SECONDS_TO_FINISH):
        if _COMPUTING.acquire(timeout=max(0.0, last - time.monotonic())):
            _Process.last.enter_context(_shared())  # for what else this thread does at exit, without workers
            _thread.works = True
        _QUEUE.release()
    workers = list(_Process.workers)
    for _ in workers:
        _Process.tasks.put(_leave)
    for worker in workers:
        worker.join(max(0.0, last - time.monotonic()))
    _Process.workers.clear()  # whoever computes parts later has new ones
    running = {thread.native_id for thread in threading.enumerate()}
    ended = _Process.callers.union(worker.native_id or 0 for worker in workers) - running
    last = time.monotonic() + SECONDS_TO_END
    while any(map(_is_there, ended)) and time.monotonic() < last:
        time.sleep(0.001)  # without the lock, which they take
    if ended and not os.path.exists("/proc/self/task"):
        time.sleep(0.01)


def _is_there(thread: int) -> bool:
    """Whether the system has such a thread; False on systems that do not tell."""
    return os.path.exists(f"/proc/self/task/{thread}")


def _leave() -> None:
    _thread.ends = True


def _devices() -> list[mx.DeviceType]:
    """The last is where arrays are made by default."""
    default = mx.default_device().type
    return [mx.cpu] if default == mx.cpu else [mx.cpu, default]


@cache
def _stream(where: mx.DeviceType) -> mx.Stream:
    return mx.new_thread_unsafe_stream(mx.Device(where))


@cache
def _shared_streams() -> list[mx.Stream]:
    return [mx.new_thread_unsafe_stream(mx.cpu) for _ in range(device.processors() - 1)]


@cache
def _local_streams() -> list[mx.ThreadLocalStream]:
    return [mx.new_thread_local_stream(mx.cpu) for _ in range(device.processors() - 1)]


def _check_fork() -> None:
    if _Process.forked:
        raise InputError(
            "This process was forked from one that had computed with MLX, whose threads do not come along; expected a "
            'new one. Start it with multiprocessing\'s "spawn", or fork before the first model is loaded.'
        )


def _after_fork() -> None:
    _Process.forked = _Process.forked or _stream.cache_info().currsize > 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
