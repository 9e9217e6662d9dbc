"""Answers that an engine writes side by side: each is the one that the model gives alone, whatever happens beside."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from asked import GREEDY, SECONDS, alone, arrivals, drawn, error_of, idle, question, questions, serving, wait_for
from comparing import LONG

import mlx_mm
from mlx_mm import load
from mlx_mm.errors import InputError, MediaError, WeightsError
from mlx_mm.generation.sampling import make_sampler
from mlx_mm.models.glm4v.model import Model
from mlx_mm.models.glm4v.vision import VisionTower
from mlx_mm.server import answers as answering
from mlx_mm.server.engine import (
    Broken,
    Done,
    Engine,
    EngineDead,
    Failed,
    Piece,
    QueueFull,
    Reading,
    TooLong,
    UnknownModel,
)

Checkpoint = Callable[..., Path]
FAMILIES = ("glm46v", "glm4v_moe")


@pytest.fixture(params=[*FAMILIES, "emoji-glm4v"])
def model(request: pytest.FixtureRequest, tiny_checkpoint: Checkpoint) -> str | Path:
    return request.param if request.param == "emoji-glm4v" else tiny_checkpoint(request.param, name="glm")


def name_of(model: str | Path) -> str:
    return Path(model).name


def test_each_is_the_one_alone(model: str | Path) -> None:
    asked, draw = questions(), random.Random(3)
    want = alone(model, asked, 14)
    order = draw.sample(range(len(asked)), len(asked))
    with serving(model, prefill=16) as engine:
        tickets = {}
        for index in order:
            tickets[index] = engine.chat(name_of(model), asked[index], max_tokens=14, **GREEDY)
            time.sleep(draw.random() * 0.01)
        assert [tickets[index].done(SECONDS).result.raw for index in range(len(asked))] == want
        assert idle(engine)["running"] == 0


@LONG[0]
@LONG[1]
def test_they_arrive_and_leave_at_random(tiny_checkpoint: Checkpoint) -> None:
    model = tiny_checkpoint("glm4v_moe", name="glm")
    asked = questions()
    want = alone(model, asked, 12)
    with serving(model, prefill=16) as engine:
        assert arrivals(engine, "glm", asked, want, 24, seed=5) >= 10
        idle(engine)


@pytest.mark.parametrize("family", FAMILIES)
@LONG[0]
@LONG[1]
def test_of_a_thousand_that_arrive_and_leave_nothing_stays(family: str, tiny_checkpoint: Checkpoint) -> None:
    model = tiny_checkpoint(family, name="glm")
    asked = questions()
    want = alone(model, asked, 12)
    with serving(model, prefill=16, idle_unload=1.0) as engine:

        def held() -> int:
            """Once the model and what it keeps of prompts and pictures are given back."""
            wait_for(lambda: not engine.stats()["models_loaded"])
            gc.collect()
            return int(mx.get_active_memory())

        arrivals(engine, "glm", asked, want, 40, seed=0)
        before, threads = held(), threading.active_count()
        arrivals(engine, "glm", asked, want, 1000, seed=1)
        assert abs(held() - before) < 20_000
        assert threading.active_count() == threads


def test_without_batches_they_take_turns(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_checkpoint("glm46v", name="glm")
    asked = questions()[:4]
    want = alone(model, asked, 8, repetition_penalty=1.3, thinking_budget=2, enable_thinking=None)
    options: dict[str, Any] = {"repetition_penalty": 1.3, "thinking_budget": 2, "temperature": 0}
    for batches in (True, False):
        monkeypatch.setattr(answering, "has_batches", lambda batches=batches: batches)
        with serving(model) as engine:
            tickets = [engine.chat("glm", messages, max_tokens=8, **options) for messages in asked]
            assert [ticket.done(SECONDS).result.raw for ticket in tickets] == want


def test_one_that_fails_hurts_nobody(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose tokens cannot be chosen, one whose picture is none, and one with numbers that are none."""
    model = tiny_checkpoint("glm46v", name="glm")
    asked = questions()[:4]
    want = alone(model, asked, 8)
    usual, where = make_sampler, importlib.import_module("mlx_mm.generate")  # whose name is that of the function

    def breaking(sampling: Any, seed: int | None) -> Any:
        if seed != 13:
            return usual(sampling, seed)
        count = iter(range(3))

        def sample(logprobs: mx.array) -> mx.array:
            if next(count, None) is None:
                raise ValueError("thirteen")
            return logprobs.argmax(axis=-1)

        return sample

    monkeypatch.setattr(where, "make_sampler", breaking)
    with serving(model) as engine:
        tickets = [engine.chat("glm", messages, max_tokens=8, **GREEDY) for messages in asked]
        guilty = engine.chat("glm", question("Hello."), max_tokens=8, seed=13, enable_thinking=False)
        broken = engine.chat("glm", [{"role": "user", "content": [{"type": "image", "image": b"none"}]}])
        assert [ticket.done(SECONDS).result.raw for ticket in tickets] == want
        assert "thirteen" in str(error_of(guilty))
        assert isinstance(error_of(broken), MediaError)
        idle(engine)


def test_numbers_that_are_none_are_the_errors_of_their_rows(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_checkpoint("glm46v", name="glm")
    want = alone(model, [question("Hello.")], 8)[0]
    usual = Model.decode

    def damaged(self: Model, input_ids: mx.array, cache: Any, deltas: Any) -> mx.array:
        logits = usual(self, input_ids, cache, deltas)
        return mx.where((mx.array(list(deltas)) < 0)[:, None, None], mx.nan, logits)  # of those with a picture

    monkeypatch.setattr(Model, "decode", damaged)
    with serving(model) as engine:
        fine = engine.chat("glm", question("Hello."), max_tokens=8, **GREEDY)
        nan = engine.chat("glm", question("What is it?", drawn(1, 80, 80)), max_tokens=8, **GREEDY)
        assert fine.done(SECONDS).result.raw == want
        assert isinstance(error_of(nan), WeightsError)


def test_who_leaves_is_gone_within_a_step(tiny_checkpoint: Checkpoint) -> None:
    """While it is written, while its prompt is read, and while it waits."""
    long = question("Hello, how are you? " * 60)
    with serving(tiny_checkpoint("glm46v", name="glm"), prefill=8, max_running=1) as engine:
        written, read = threading.Event(), threading.Event()
        first = engine.chat("glm", question("Hello."), max_tokens=400, **GREEDY)
        first.on_event(lambda event: written.set() if isinstance(event, Piece) else None)
        assert written.wait(SECONDS)
        second = engine.chat("glm", long, max_tokens=400, **GREEDY)
        second.on_event(lambda event: read.set() if isinstance(event, Reading) else None)
        third = engine.chat("glm", long, max_tokens=4, **GREEDY)
        assert engine.stats()["waiting"] == 2
        third.cancel()
        first.cancel()
        assert read.wait(SECONDS)
        second.cancel()
        turns = engine.stats()["turns_total"]
        stats = idle(engine)
        assert stats["turns_total"] - turns <= 4
        assert stats["cancelled_total"] == 3
        assert stats["generated_tokens_total"] < 400
        assert not any(ticket.ended for ticket in (first, second, third))


def test_a_long_prompt_does_not_stop_the_others(tiny_checkpoint: Checkpoint) -> None:
    order: list[str] = []
    with serving(tiny_checkpoint("glm46v", name="glm"), prefill=8) as engine:
        # More tokens than there is time for before the long one comes, even on a busy machine.
        short = engine.chat("glm", question("Hello."), max_tokens=80, **GREEDY)
        short.on_event(lambda event: order.append("token") if isinstance(event, Piece) else None)
        long = engine.chat("glm", question("Hello, how are you? " * 60), max_tokens=2, **GREEDY)
        long.on_event(lambda event: order.append("part") if isinstance(event, Reading) else None)
        idle(engine)
    between = order[order.index("part") : len(order) - order[::-1].index("part")]
    assert between.count("token") >= 10


def test_a_second_turn_runs_only_what_is_new(model: str | Path) -> None:
    first = question("What is it?", drawn(1, 40, 60))
    loaded = load(model)
    said = mlx_mm.generate(*loaded, first, max_tokens=8, **GREEDY)
    second = [*first, {"role": "assistant", "content": said.text or "x"}, *question("And now?")]
    want = mlx_mm.generate(*loaded, second, max_tokens=8, **GREEDY)
    with serving(model) as engine:
        engine.chat(name_of(model), first, max_tokens=8, **GREEDY).done(SECONDS)
        done = engine.chat(name_of(model), second, max_tokens=8, **GREEDY).done(SECONDS)
        other = engine.chat(name_of(model), question("What is it?", drawn(2, 40, 60)), max_tokens=8, **GREEDY)
        assert done.result.raw == want.raw
        assert done.prompt_tokens == want.prompt_tokens
        assert said.prompt_tokens - 4 <= done.result.cached_tokens < want.prompt_tokens
        assert done.media_tokens > 0
        assert other.done(SECONDS).result.cached_tokens < done.media_tokens + 8  # another picture is another prompt


def test_what_is_refused(tiny_checkpoint: Checkpoint) -> None:
    with serving(tiny_checkpoint("glm46v", name="glm"), max_running=1, max_waiting=1, kv_memory=200_000) as engine:
        with pytest.raises(UnknownModel, match="'other'; expected one of glm"):
            engine.chat("other", question("Hello."))
        assert "bytes of keys and values; expected at most 150,000" in str(
            error_of(engine.chat("glm", question("Hello."), max_tokens=900))
        )
        assert isinstance(error_of(engine.chat("glm", question("Hello. " * 5000), max_tokens=1)), TooLong)
        assert isinstance(error_of(engine.chat("glm", question("Hello."), temperature=-1)), InputError)
        running = threading.Event()
        first = engine.chat("glm", question("Hello."), max_tokens=200, **GREEDY)
        first.on_event(lambda event: running.set())
        assert running.wait(SECONDS)
        engine.chat("glm", question("Hello."), max_tokens=2)
        with pytest.raises(QueueFull) as caught:
            engine.chat("glm", question("Hello."), max_tokens=2)
        assert caught.value.retry_after >= 1
        first.cancel()


def test_memory_for_keys_and_values_bounds_what_runs(tiny_checkpoint: Checkpoint) -> None:
    """Each may need 256 tokens, of which there is room for two."""
    model = tiny_checkpoint("glm46v", name="glm")
    a_token = load(model)[1].defaults.kv_numbers * 4
    most = 0
    with serving(model, kv_memory=int(256 * 2.5 * a_token * 4 / 3)) as engine:
        tickets = [engine.chat("glm", question("Hello."), max_tokens=30, **GREEDY) for _ in range(6)]
        for ticket in tickets:
            ticket.on_event(lambda _: None)
        while engine.stats()["waiting"] or engine.stats()["running"]:
            most = max(most, int(engine.stats()["running"]))
            assert engine.stats()["prompt_cache_bytes"] <= 256 * 2.5 * a_token / 4
            time.sleep(0.002)
        assert most <= 2
        assert all(ticket.ended for ticket in tickets)


def test_a_dead_engine_says_so(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[BaseException] = []
    engine = mlx_mm.server.engine.Engine([tiny_checkpoint("glm46v", name="glm")], on_death=died.append)
    monkeypatch.setattr(answering.Answers, "turn", lambda _: 1 / 0)
    engine.start()
    ticket = engine.chat("glm", question("Hello."))
    assert isinstance(error_of(ticket), EngineDead)
    with pytest.raises(EngineDead):
        engine.chat("glm", question("Hello."))
    assert not engine.alive
    assert [type(error) for error in died] == [ZeroDivisionError]
    engine.close()


def test_what_a_prompt_cannot_run_is_its_own(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Model.request

    def request(self: Model, batch: Any) -> Any:
        if any(np.issubdtype(array.dtype, np.floating) for array in batch.values()):
            raise RuntimeError("no memory")
        return usual(self, batch)

    monkeypatch.setattr(Model, "request", request)
    with serving(tiny_checkpoint("glm46v", name="glm")) as engine:
        fine = engine.chat("glm", question("Hello."), max_tokens=4, **GREEDY)
        guilty = engine.chat("glm", question("What is it?", drawn(1, 40, 60)), max_tokens=4, **GREEDY)
        assert isinstance(error_of(guilty), Broken)
        assert fine.done(SECONDS).result.finish_reason


def test_a_picture_that_is_asked_about_again_is_not_computed_again(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as one of several, and as a frame; what it is for another model is another thing."""
    first, again = tiny_checkpoint("glm46v", name="glm"), tiny_checkpoint("glm4v_moe", name="moe")
    asked = [
        question("What is it?", drawn(1, 40, 60)),
        question("Was ist das?", drawn(2, 60, 40), drawn(1, 40, 60)),
        question("What happens?", drawn(5, 4, 40, 40)),
        question("And then?", drawn(2, 60, 40), drawn(5, 4, 40, 40)),
    ]
    want = {"glm": alone(first, asked, 8), "moe": alone(again, asked[:1], 8)}
    patches: list[int] = []
    usual = VisionTower.__call__

    def counting(self: VisionTower, pixels: mx.array, grids: Any) -> Any:
        patches.append(len(pixels))
        return usual(self, pixels, grids)

    monkeypatch.setattr(VisionTower, "__call__", counting)
    with serving(first, again) as engine:
        for messages, answer in zip(asked, want["glm"], strict=True):
            assert engine.chat("glm", messages, max_tokens=8, **GREEDY).done(SECONDS).result.raw == answer
        once = list(patches)
        assert len(once) == 3  # the first picture, the second, both frames
        assert engine.stats()["pictures_known_total"] == 4
        assert engine.chat("moe", asked[0], max_tokens=8, **GREEDY).done(SECONDS).result.raw == want["moe"][0]
        assert len(patches) == 4


def test_a_callback_that_fails_ends_its_own_request(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda about: reported.append(about.exc_type))
    with serving(tiny_checkpoint("glm46v", name="glm")) as engine:
        for fails in (Reading, Piece, Done):
            ticket = engine.chat("glm", question("Hello."), max_tokens=6, **GREEDY)
            ticket.on_event(lambda event, fails=fails: 1 / 0 if isinstance(event, fails) else None)
        fine = engine.chat("glm", question("Hello."), max_tokens=6, **GREEDY)
        assert fine.done(SECONDS).result.generation_tokens == 6
        idle(engine)
        assert engine.alive
    assert reported == [ZeroDivisionError] * 3


def test_the_end_comes_while_a_prompt_is_read_and_others_wait(tiny_checkpoint: Checkpoint) -> None:
    threads = threading.active_count()
    with serving(tiny_checkpoint("glm46v", name="glm"), prefill=8, max_running=2) as engine:
        reading, events = threading.Event(), list[Any]()
        tickets = [engine.chat("glm", question("Hello, how are you? " * 60), max_tokens=400) for _ in range(6)]
        tickets[0].on_event(lambda event: (events.append(event), reading.set()))
        assert reading.wait(SECONDS)
        engine.close()
        assert isinstance(events[-1], Failed)
        assert all(isinstance(error_of(ticket), EngineDead) for ticket in tickets[1:])
        assert threading.active_count() == threads
        assert (engine.stats()["running"], engine.stats()["waiting"], engine.stats()["prompt_cache_bytes"]) == (0, 0, 0)
        with pytest.raises(EngineDead):
            engine.chat("glm", question("Hello."))


def ask_the_dead(engine: Engine) -> None:
    assert not engine.alive
    with pytest.raises(EngineDead):
        engine.chat("glm", question("Hello."))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_has_no_engine(tiny_checkpoint: Checkpoint) -> None:
    with serving(tiny_checkpoint("glm46v", name="glm")) as engine:
        engine.chat("glm", question("Hello."), max_tokens=2).done(SECONDS)
        child = multiprocessing.get_context("fork").Process(target=ask_the_dead, args=(engine,))
        child.start()
        child.join(SECONDS)
        assert child.exitcode == 0
        assert engine.chat("glm", question("Hello."), max_tokens=2).done(SECONDS)


def test_weights_and_caches_of_a_chat_are_given_back(tiny_checkpoint: Checkpoint) -> None:
    model = tiny_checkpoint("glm46v", name="glm")
    messages = question("What is it?", drawn(1, 40, 60))
    want = alone(model, [messages], 6)
    gc.collect()
    before = mx.get_active_memory()
    with serving(model, idle_unload=0.05) as engine:
        for _ in range(2):
            assert [engine.chat("glm", messages, max_tokens=6, **GREEDY).done(SECONDS).result.raw] == want
            wait_for(lambda: not engine.stats()["models_loaded"] and not engine.stats()["prompt_cache_bytes"])
        broken = [{"role": "user", "content": [{"type": "image", "image": b"none"}]}]
        assert isinstance(error_of(engine.chat("glm", broken)), MediaError)
        wait_for(lambda: not engine.stats()["models_loaded"])
        gc.collect()
        assert mx.get_active_memory() - before < 20_000
        assert engine.stats()["picture_cache_bytes"] == 0


def test_one_by_one_a_second_turn_runs_only_what_is_new_too(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "has_batches", lambda: False)
    first = question("What is it?", drawn(1, 40, 60))
    with serving(tiny_checkpoint("glm46v", name="glm")) as engine:
        said = engine.chat("glm", first, max_tokens=8, **GREEDY).done(SECONDS)
        second = [*first, {"role": "assistant", "content": said.result.text or "x"}, *question("And now?")]
        done = engine.chat("glm", second, max_tokens=8, **GREEDY).done(SECONDS)
        assert said.prompt_tokens - 4 <= done.result.cached_tokens < done.prompt_tokens
