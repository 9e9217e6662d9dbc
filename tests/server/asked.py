"""Questions for an engine, and what it says."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlx_mm import generate, load
from mlx_mm.errors import MlxMmError
from mlx_mm.server.engine import Engine, Limits

SECONDS = 120.0  # that a test waits for an answer, on a machine that has much else to do
GREEDY: dict[str, Any] = {"temperature": 0, "enable_thinking": False, "fps": 2.0}
Message = dict[str, Any]


@contextlib.contextmanager
def serving(*models: str | Path, **limits: Any) -> Iterator[Engine]:
    engine = Engine(models, Limits(**limits))
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def question(text: str, *parts: Any) -> list[Message]:
    """A turn of a user; parts of 3 axes are pictures, of 4 videos."""
    media = [{"type": kind, kind: part} for part in parts for kind in ["image" if part.ndim == 3 else "video"]]
    return [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)


def questions() -> list[list[Message]]:
    """Eight of different lengths, with pictures and videos and without."""
    return [
        question("What is it?", drawn(1, 40, 60)),
        question("Hello."),
        question("Which are these?", drawn(2, 60, 40), drawn(3, 30, 30), drawn(4, 80, 60)),
        question("Hello, how are you? " * 12),
        question("What happens?", drawn(5, 4, 40, 40)),
        question("And in this one, and that?", drawn(6, 4, 40, 60), drawn(7, 50, 50)),
        question("Was ist das?", drawn(1, 40, 60)),
        question("one two three"),
    ]


def alone(model: str | Path, asked: list[list[Message]], count: int, **options: Any) -> list[str]:
    """What `generate` answers to each."""
    loaded = load(model)
    return [generate(*loaded, messages, max_tokens=count, **{**GREEDY, **options}).raw for messages in asked]


def idle(engine: Engine) -> dict[str, float]:
    """Numbers of an engine in which nothing runs or waits; waits for that."""
    last = time.monotonic() + SECONDS
    while (stats := engine.stats())["running"] or stats["waiting"]:
        assert time.monotonic() < last, stats
        time.sleep(0.002)
    return stats


def wait_for(true: Callable[[], bool]) -> None:
    last = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < last
        time.sleep(0.01)


def arrivals(engine: Engine, model: str, asked: list[list[Message]], want: list[str], count: int, seed: int) -> int:
    """Questions that come at random, of which every third is left at a random moment; how many were answered.

    Each answer is held against the one that is wanted.
    """
    draw = random.Random(seed)
    answered = 0
    running: list[tuple[int, Any, threading.Event, float]] = []
    for _ in range(count):
        which = draw.randrange(len(asked))
        ticket = engine.chat(model, asked[which], max_tokens=12, **GREEDY)
        leaves = draw.random() < 1 / 3
        first = threading.Event()
        if leaves:
            tokens = draw.randrange(6)
            left = iter(range(tokens))
            ticket.on_event(lambda _event, left=left, first=first: first.set() if next(left, None) is None else None)
        running.append((which, ticket, first, leaves))
        while len(running) > draw.randrange(1, 12):
            which, ticket, first, leaves = running.pop(draw.randrange(len(running)))
            if leaves:
                first.wait(draw.random() * 0.05)
                ticket.cancel()
            else:
                assert ticket.done(SECONDS).result.raw == want[which]
                answered += 1
    for which, ticket, _, leaves in running:
        if leaves:
            ticket.cancel()
        else:
            assert ticket.done(SECONDS).result.raw == want[which]
            answered += 1
    return answered


def error_of(ticket: Any) -> MlxMmError:
    """What a request failed with."""
    try:
        ticket.done(SECONDS)
    except MlxMmError as error:
        return error
    raise AssertionError("it did not fail")
