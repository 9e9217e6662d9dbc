"""Arrays that are made once: kept, bounded, ready for every thread, and made by the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_mm.backend import device
from mlx_mm.backend.tables import evaluated, made_once


def counted(most: int = 8) -> tuple[Callable[..., mx.array], list[tuple[int, float]]]:
    calls: list[tuple[int, float]] = []

    @made_once(most)
    def steps(length: int, scale: float = 1.0) -> mx.array:
        """A docstring that stays."""
        calls.append((length, scale))
        return mx.arange(length) * scale

    return steps, calls


def test_the_same_numbers_have_one_array() -> None:
    steps, calls = counted()
    first = steps(5, scale=2.0)
    assert steps(5, scale=2.0) is first
    assert steps(5, scale=3.0) is not first
    assert calls == [(5, 2.0), (5, 3.0)]
    assert first.tolist() == [0, 2, 4, 6, 8]
    assert steps.__doc__ == "A docstring that stays."


def test_only_so_many_are_kept() -> None:
    steps, calls = counted(2)
    for length in (1, 2, 3, 3, 2, 1):
        assert len(steps(length)) == length
    assert [length for length, _ in calls] == [1, 2, 3, 1]


def in_thread(work: Callable[[], None]) -> None:
    """As `run_in_parts` runs its parts."""

    def run() -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            work()
        mx.clear_streams()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_what_one_thread_made_another_uses() -> None:
    steps, calls = counted()
    found: list[np.ndarray] = []
    for length in (4, 5):
        in_thread(lambda length=length: found.append(np.array(steps(length) + 1)))
        in_thread(lambda length=length: found.append(np.array(steps(length) + 1)))
        found.append(np.array(steps(length) + 1))
        assert all(np.array_equal(array, np.arange(length) + 1) for array in found[-3:])
    steps(9)
    in_thread(lambda: found.append(np.array(steps(9) * 2)))
    assert found[-1].tolist() == list(range(0, 18, 2))
    assert len(calls) == 3


def test_without_evaluation_another_thread_could_not() -> None:
    """Why they are evaluated when they are made."""
    lazy: list[mx.array] = []
    in_thread(lambda: lazy.append(mx.arange(4) * 2.0))
    with pytest.raises(RuntimeError):
        lazy[0].tolist()


def test_many_threads_at_once() -> None:
    steps, _ = counted()
    wrong: list[int] = []

    def work() -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            for length in [3, 4, 5, 6] * 20:
                if (steps(length) + 1).tolist() != list(range(1, length + 1)):
                    wrong.append(length)
        mx.clear_streams()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_cpu_makes_them_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[object] = []
    stream = mx.stream
    monkeypatch.setattr(mx, "stream", lambda where: devices.append(where) or stream(where))
    assert evaluated(lambda: mx.ones(3) * 2).tolist() == [2, 2, 2]
    assert devices == []
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    assert evaluated(lambda: mx.ones(3) * 2).tolist() == [2, 2, 2]
    assert devices == [mx.cpu]


def test_several_arrays_at_once() -> None:
    @made_once(4)
    def ends(length: int) -> tuple[mx.array, ...]:
        return mx.arange(length)[:1], mx.arange(length)[-1:]

    assert ends(7) is ends(7)
    assert [array.item() for array in ends(7)] == [0, 6]


def test_inside_transformations() -> None:
    steps, calls = counted()
    assert mx.compile(lambda x: x + steps(3))(mx.ones(3)).tolist() == [1, 2, 3]
    assert mx.grad(lambda x: (x * steps(4)).sum())(mx.ones(4)).tolist() == [0, 1, 2, 3]
    assert (steps(3) + steps(4)[:3]).tolist() == [0, 2, 4]
    assert len(calls) == 2
