"""When a watched index looks at its folders again."""

from __future__ import annotations

import builtins
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from folders import Library, picture, pictures

from mlx_mm import Index, RefreshReport
from mlx_mm.errors import InputError, MlxMmError, StoreError
from mlx_mm.search.watching import changes, polled, watch


def test_hints_are_followed_by_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("mlx_mm.search.watching.time.monotonic", lambda: clock[0])
    looks: list[float] = []

    def hints() -> Iterator[bool]:
        for now, changed in ((1, False), (2, True), (101, False), (103, False), (202, False), (204, True)):
            clock[0] = now
            yield changed

    def refresh() -> RefreshReport:
        looks.append(clock[0])
        return RefreshReport()

    reports: list[RefreshReport] = []
    watch(refresh, hints(), every=100, on_report=reports.append)
    assert looks == [0, 2, 103, 204]  # at once, told, for too long not looked, told
    assert len(reports) == 4


def test_an_error_is_told_of_and_the_next_look_may_do_better() -> None:
    outcomes: list[Any] = [RefreshReport(), StoreError("it is not there"), RefreshReport(new=1)]
    errors: list[MlxMmError] = []

    def refresh() -> RefreshReport:
        found = outcomes.pop(0)
        if isinstance(found, StoreError):
            raise found
        return found

    reports: list[RefreshReport] = []
    watch(refresh, iter([True, True]), on_report=reports.append, on_error=errors.append)
    assert [str(error) for error in errors] == ["it is not there"]
    assert [report.new for report in reports] == [0, 1]
    outcomes += [RefreshReport(), StoreError("again")]
    with pytest.raises(StoreError, match="again"):
        watch(refresh, iter([True]))


def test_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    waits: list[float] = []
    monkeypatch.setattr(stop, "wait", lambda seconds: waits.append(seconds) or len(waits) == 3)
    assert list(polled(30, stop)) == [True, True]
    assert waits == [30, 30, 30]
    for wrong in (0, -1, 0.5, float("nan"), float("inf"), "5", True):
        with pytest.raises(InputError, match=r"poll is .*; expected seconds, 1 at least"):
            next(polled(wrong, stop))  # type: ignore[arg-type]


def test_an_index_follows_its_folder(library: Library, tiny_model: Path) -> None:
    pictures(library.photos, 1)
    stop, reports = threading.Event(), list[RefreshReport]()

    def look(report: RefreshReport) -> None:
        reports.append(report)
        picture(library.photos / f"{10 + len(reports)}.png", len(reports))
        if len(reports) == 2:
            stop.set()

    with Index(library.store.path, str(tiny_model)) as index:
        index.watch(library.photos, poll=1, stop=stop, on_report=look)
    assert [report.new for report in reports] == [1, 1]


def test_without_the_package(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name == "watchfiles":
            raise ImportError(name)
        return kept(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(InputError, match=r"watchfiles is not there; .* pip install 'mlx_mm\[watch\]'"):
        next(changes(lambda: [], library.place, threading.Event()))


def test_the_system_tells_of_changes(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    stop, index = threading.Event(), tmp_path / "x.mmindex"
    index.mkdir()
    hints = changes(lambda: [bytes(tmp_path)], index, stop, quiet=0.1)

    def act() -> None:
        time.sleep(0.5)
        (index / "own").touch()
        time.sleep(1.5)
        (tmp_path / "a.png").touch()

    actor = threading.Thread(target=act)
    actor.start()
    found = [next(hints) for _ in range(2)]
    while not found[-1]:
        found.append(next(hints))
    actor.join()
    assert not any(found[:-1])  # what the index writes itself is no hint
    stop.set()
    assert list(hints) in ([], [False])


def test_a_folder_that_comes_back_is_followed(tmp_path: Path) -> None:
    """It is another one then, which the system was not asked to watch."""
    pytest.importorskip("watchfiles")
    photos, stop = tmp_path / "photos", threading.Event()
    hints = changes(lambda: [bytes(photos)], tmp_path / "x.mmindex", stop, quiet=0.1)

    def next_hint() -> None:
        for _ in range(10):
            if next(hints):
                return
        raise AssertionError("nothing was told")

    assert not next(hints)  # it is not there
    photos.mkdir()
    next_hint()
    assert not next(hints)
    (photos / "a.png").touch()
    next_hint()
    shutil.rmtree(photos)
    next_hint()
    stop.set()
    assert not any(hints)


def test_signals_come_as_what_they_are(tmp_path: Path) -> None:
    """A service that is told to end has another status than one that somebody interrupts."""
    pytest.importorskip("watchfiles")

    class Ended(BaseException):
        pass

    def end(*_: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Ended):
            list(changes(lambda: [bytes(tmp_path)], tmp_path / "x.mmindex", threading.Event()))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_network_volumes_are_looked_at_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("watchfiles")
    monkeypatch.setattr("mlx_mm.search.watching.network_kind", lambda folder: "nfs4" if folder == tmp_path else None)
    monkeypatch.setattr("mlx_mm.search.watching.NETWORK_SECONDS", 1.5)
    stop = threading.Event()
    hints = changes(lambda: [bytes(tmp_path)], tmp_path / "x.mmindex", stop)
    assert [next(hints) for _ in range(4)] == [False, True, False, True]
    stop.set()
    assert not any(hints)
