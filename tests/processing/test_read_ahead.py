"""Generators in threads: order, bounds, errors, an early end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from mlx_mm.processing import read_ahead as prefetch


def test_items_come_in_order_whatever_takes_longest() -> None:
    def make(index: int) -> Iterator[int]:
        for n in range(index):
            time.sleep(0.002 * (5 - index))
            yield 10 * index + n

    assert list(prefetch.prefetch(5, make)) == [(i, 10 * i + n) for i in range(5) for n in range(i)]
    assert list(prefetch.prefetch(0, make)) == []


def test_an_error_is_the_last_item_and_the_others_go_on() -> None:
    def make(index: int) -> Iterator[str]:
        yield "first"
        if index == 1:
            raise ValueError("broken")
        yield "second"

    found = list(prefetch.prefetch(3, make))
    assert [index for index, _ in found] == [0, 0, 1, 1, 2, 2]
    assert str(found[3][1]) == "broken"
    assert isinstance(found[3][1], ValueError)
    assert found[5] == (2, "second")


def test_it_runs_ahead_but_not_far() -> None:
    made, lock = [0, 0, 0, 0], threading.Lock()

    def make(index: int) -> Iterator[int]:
        for n in range(100):
            with lock:
                made[index] += 1
            yield n

    items = prefetch.prefetch(4, make)
    assert next(items) == (0, 0)
    time.sleep(0.3)
    assert 1 < made[0] <= prefetch.AHEAD + 2
    assert 0 < made[1] <= prefetch.AHEAD + 1
    assert made[2:] == [0, 0]
    assert sum(1 for _ in items) == 399


def test_an_early_end_stops_the_threads() -> None:
    before = threading.active_count()
    endless = prefetch.prefetch(3, lambda index: iter(lambda: index, None))
    assert next(endless) == (0, 0)
    endless.close()
    assert threading.active_count() == before
