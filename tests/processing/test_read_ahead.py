"""Inputs in threads: order, bounds, errors, an early end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mlx_mm.errors import MediaError
from mlx_mm.processing.read_ahead import MAX_ITEMS_AHEAD, WORKER_THREADS, read_ahead


@pytest.mark.parametrize("inputs_ahead", [1, 2, 7])
def test_items_come_in_order_whatever_takes_longest(inputs_ahead: int) -> None:
    def make(index: int) -> Iterator[int]:
        for n in range(index):
            time.sleep(0.002 * (5 - index))
            yield 10 * index + n

    found = list(read_ahead(5, make, inputs_ahead=inputs_ahead))
    assert found == [(i, 10 * i + n) for i in range(5) for n in range(i)]
    assert list(read_ahead(0, make)) == []


def breaking(error: type[Exception]) -> Iterator[tuple[int, str]]:
    def make(index: int) -> Iterator[str]:
        yield "first"
        if index == 1:
            raise error("broken")
        yield "second"

    return make


def test_an_input_that_cannot_be_read_ends_and_the_others_go_on() -> None:
    seen: list[object] = []
    for item in read_ahead(3, breaking(MediaError), on_error=lambda index, error: seen.append((index, str(error)))):
        seen.append(item)
    order = [(0, "first"), (0, "second"), (1, "first"), (1, "broken"), (2, "first"), (2, "second")]
    assert seen == order


@pytest.mark.parametrize(("error", "asked"), [(MediaError, False), (ValueError, False), (ValueError, True)])
def test_other_errors_are_raised_where_they_happened(error: type[Exception], asked: bool) -> None:
    before, found = threading.active_count(), []
    items = read_ahead(9, breaking(error), on_error=(lambda *_: None) if asked else None)
    found += [next(items) for _ in range(3)]
    with pytest.raises(error, match="broken"):
        next(items)
    assert found == [(0, "first"), (0, "second"), (1, "first")]
    assert threading.active_count() == before


def counting(made: list[int], items: int) -> Iterator[int]:
    lock = threading.Lock()

    def make(index: int) -> Iterator[int]:
        for n in range(items):
            with lock:
                made[index] += 1
            yield n

    return make


def test_long_inputs_run_ahead_but_not_far() -> None:
    made = [0, 0, 0, 0]
    items = read_ahead(4, counting(made, 100))
    assert next(items) == (0, 0)
    time.sleep(0.3)
    assert 1 < made[0] <= MAX_ITEMS_AHEAD + 2
    assert 0 < made[1] <= MAX_ITEMS_AHEAD + 1
    assert made[2:] == [0, 0]
    assert sum(1 for _ in items) == 399


def test_short_inputs_run_ahead_as_far_as_asked() -> None:
    made = [0] * 50
    items = read_ahead(50, counting(made, 1), inputs_ahead=20)
    for index in range(6):
        assert next(items) == (index, 0)
    time.sleep(0.3)
    assert made == [1] * 25 + [0] * 25
    assert [index for index, _ in items] == list(range(6, 50))
    assert made == [1] * 50


@pytest.mark.parametrize("inputs_ahead", [1, 3, 500])
def test_an_early_end_stops_the_threads(inputs_ahead: int) -> None:
    before, begun = threading.active_count(), []

    def endless(index: int) -> Iterator[int]:
        begun.append(index)
        while True:
            yield index

    items = read_ahead(1000, endless, inputs_ahead=inputs_ahead)
    assert next(items) == (0, 0)
    items.close()
    assert threading.active_count() == before
    assert len(begun) <= WORKER_THREADS  # what waits for a thread is not begun


def test_errors_of_the_caller_stop_the_threads() -> None:
    before = threading.active_count()

    def stop(index: int, error: MediaError) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(read_ahead(30, breaking(MediaError), inputs_ahead=10, on_error=stop))
    assert threading.active_count() == before
