"""How far work is: what a function of the caller is told, in which thread, and how its errors end the work."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes import RECIPES

from mlx_mm import Conversation, PromptCache, classify, convert, encode_audio, encode_image, encode_text, generate, load
from mlx_mm.errors import InputError
from mlx_mm.progress import progressing

RANDOM = np.random.default_rng(0)
PICTURES = [(RANDOM.random((40, 50, 3)) * 255).astype(np.uint8) for _ in range(5)]
SOUNDS = [(np.sin(np.arange(int(seconds * 48_000)) / 9).astype(np.float32), 48_000) for seconds in (0.5, 24, 1)]
BROKEN = (
    np.where(np.arange(12 * 48_000) == 570_000, np.nan, SOUNDS[1][0][: 12 * 48_000]),
    48_000,
)  # in its second window
Told = list[tuple[int, int | None]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    folder = tmp_path_factory.mktemp("progress")
    return {name: load(RECIPES[name].write(folder / name)) for name in ("metaclip_2", "clap", "glm46v")}


@pytest.fixture
def calls(pairs: dict[str, tuple[Any, Any]]) -> dict[str, Callable[..., Any]]:
    clip, clap, glm = (pairs[name] for name in ("metaclip_2", "clap", "glm46v"))
    return {
        "text": lambda **options: encode_text(*clip, ["a cat", "dog", "a"], batch_size=1, **options),
        "image": lambda **options: encode_image(*clip, PICTURES, batch_size=2, **options),
        "classify": lambda **options: classify(*clip, PICTURES, ["cat", "dog"], batch_size=2, **options),
        "audio": lambda **options: encode_audio(*clap, SOUNDS, batch_size=1, **options),
        "generate": lambda **options: generate(*glm, "a longer question", prefill_step_size=4, max_tokens=2, **options),
    }


TOTALS = {"text": 3, "image": 5, "classify": 5, "audio": 3}


@pytest.mark.parametrize("name", TOTALS)
def test_items_are_counted_with_their_total(name: str, calls: dict[str, Callable[..., Any]]) -> None:
    told: Told = []
    threads: set[threading.Thread] = set()

    def tell(done: int, total: int | None) -> None:
        told.append((done, total))
        threads.add(threading.current_thread())

    right, got = calls[name](), calls[name](progress=tell)
    assert got == right if name == "classify" else np.array_equal(got, right)
    total = TOTALS[name]
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})  # it only grows
    assert len(told) > 1
    assert threads == {threading.current_thread()}


def test_sounds_are_counted_once_whatever_their_windows(pairs: dict[str, tuple[Any, Any]]) -> None:
    told: Told = []
    failed: list[int] = []
    items = [SOUNDS[0], BROKEN, b"no sound", *SOUNDS[1:]]
    vectors = encode_audio(
        *pairs["clap"],
        items,
        batch_size=1,
        progress=lambda done, total: told.append((done, total)),
        on_error=lambda index, _: failed.append(index),
    )
    assert np.array_equal(vectors, encode_audio(*pairs["clap"], SOUNDS))
    assert failed == [1, 2]
    assert told == [(done, 5) for done in range(1, 6)]


def test_a_failed_picture_counts_as_done(pairs: dict[str, tuple[Any, Any]]) -> None:
    told: Told = []
    encode_image(
        *pairs["metaclip_2"],
        [b"", *PICTURES, b"x"],
        progress=lambda done, total: told.append((done, total)),
        on_error=lambda *_: None,
    )
    assert told[-1] == (7, 7)


def test_tokens_of_a_prompt(calls: dict[str, Callable[..., Any]]) -> None:
    told: Told = []
    answer = calls["generate"](progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, answer.prompt_tokens)
    assert told[-1] == (answer.prompt_tokens, answer.prompt_tokens)
    assert len(told) > 3
    assert calls["generate"]().raw == answer.raw


class StopError(Exception):
    """Of the caller."""


@pytest.mark.parametrize("name", [*TOTALS, "generate"])
@pytest.mark.parametrize("after", [0, 2])
def test_its_error_ends_the_work_and_leaves_no_threads(
    name: str, after: int, calls: dict[str, Callable[..., Any]]
) -> None:
    right = calls[name]()  # workers that stay have begun
    before = set(threading.enumerate())

    def stop(done: int, total: int | None) -> None:
        if done >= after:
            raise StopError

    with pytest.raises(StopError) as caught:
        calls[name](progress=stop)
    assert set(threading.enumerate()) <= before  # also while the error and its frames are kept
    assert caught.value.__traceback__ is not None
    assert gc.isenabled()
    again = calls[name]()
    if name == "generate":
        assert again.raw == right.raw
    else:
        assert again == right if name == "classify" else np.array_equal(again, right)


def test_other_errors_in_the_middle_leave_no_threads_either(
    calls: dict[str, Callable[..., Any]], pairs: dict[str, tuple[Any, Any]]
) -> None:
    calls["image"]()
    before = set(threading.enumerate())
    with pytest.raises(InputError) as caught:
        encode_image(*pairs["metaclip_2"], PICTURES * 9, dim=10_000, batch_size=1)
    assert set(threading.enumerate()) <= before
    assert caught.value.__traceback__ is not None


def test_a_cache_is_good_after_it_stopped(pairs: dict[str, tuple[Any, Any]]) -> None:
    model, processor = pairs["glm46v"]
    right, cache = generate(model, processor, "a longer question", max_tokens=3), PromptCache()

    def stop(done: int, total: int | None) -> None:
        if done:
            raise StopError

    with pytest.raises(StopError):
        generate(model, processor, "a longer question", prefill_step_size=4, cache=cache, progress=stop)
    assert generate(model, processor, "a longer question", max_tokens=3, cache=cache).raw == right.raw
    chat = Conversation(model, processor)
    with pytest.raises(StopError):
        list(chat.ask("a longer question", progress=stop))
    assert chat.messages == []


def test_convert_tells_too(tmp_path: Path) -> None:
    told: Told = []
    source = RECIPES["siglip"].write(tmp_path / "source")
    report = convert(source, tmp_path / "out", group_size=32, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert report.parameters > 0


@pytest.mark.parametrize("progress", [False, None, np.False_, np.bool_(False)])
def test_silence(progress: Any, calls: dict[str, Callable[..., Any]], capsys: pytest.CaptureFixture[str]) -> None:
    for call in calls.values():
        call(progress=progress)
    assert capsys.readouterr() == ("", "")


def test_without_stderr_nothing_is_said(monkeypatch: pytest.MonkeyPatch, calls: dict[str, Callable[..., Any]]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    calls["text"](progress=True)


@pytest.mark.parametrize("progress", ["yes", 1, 0, [], "", {}, 2.5])
def test_what_is_no_progress(progress: Any) -> None:
    message = r"progress is .*; expected True, False, or a function of \(done, total\)"
    with pytest.raises(InputError, match=message), progressing(progress, 1, "doing", "item"):
        pass
