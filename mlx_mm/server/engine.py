"""The engine of a server: one thread that runs every model, and a few that decode and tokenise what it is asked.

Each of its turns drops what nobody waits for any more, reads a part of one prompt, writes a token of every answer, and
runs a few items through one encoder. So a long prompt slows the others and never stops them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mlx_mm.backend.memory import memory_for_answers
from mlx_mm.backend.ranks import Group, in_touch, tell, told
from mlx_mm.backend.streams import computing, give_back_memory
from mlx_mm.classify import Scores
from mlx_mm.errors import InputError, LengthError, MlxMmError, foreign
from mlx_mm.generate import ask
from mlx_mm.generation.answer import Generation
from mlx_mm.generation.following import check_whole, follow, rest
from mlx_mm.load import open_checkpoint
from mlx_mm.models.contracts import Generator, Modality
from mlx_mm.processing.read_ahead import WORKER_THREADS
from mlx_mm.processing.vectors import Vectors
from mlx_mm.server.answers import Answer, Answers
from mlx_mm.server.encodings import Encodings
from mlx_mm.server.models import Models, Served, Slot
from mlx_mm.server.preparing import EmbedOptions, classifying, embedding
from mlx_mm.server.tickets import (
    Broken,
    Done,
    EngineDead,
    Event,
    Failed,
    Piece,
    QueueFull,
    Reading,
    Refused,
    Result,
    Ticket,
    TooLong,
    UnknownModel,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_mm.processing.arguments import Texts

__all__ = [
    "Broken",
    "ChatOptions",
    "Done",
    "EmbedOptions",
    "Engine",
    "EngineDead",
    "Event",
    "Failed",
    "Limits",
    "Piece",
    "QueueFull",
    "Reading",
    "Refused",
    "Served",
    "Ticket",
    "TooLong",
    "UnknownModel",
    "follow_engine",
]


@dataclass(frozen=True)
class Limits:
    """max_running: answers that are written at once. max_waiting: requests before them, above which others are
    refused. kv_memory: bytes of keys and values, None for a quarter of the machine's. idle_unload: seconds without a
    request after which a model's weights are given back, None for never. prefill: tokens of a prompt in one turn."""

    max_running: int = 8
    max_waiting: int = 64
    kv_memory: int | None = None
    idle_unload: float | None = None
    prefill: int = 512


class ChatOptions(TypedDict, total=False):
    """Those of `generate`."""

    max_tokens: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    enable_thinking: bool | None
    thinking_budget: int | None
    stop: Texts | None
    fps: float | None
    max_pixels: int | None


class Engine:
    """Runs requests to several models. Any thread may ask.

    models: folders, bundled names or hub ids. on_death: called once by the engine's thread, with the bug that ends it.
    Raises what `mlx_mm.load` does for a model whose config cannot be used, and InputError for two of one name.
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        limits: Limits = Limits(),
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._models, self._limits, self._on_death = Models(models), limits, on_death
        memory = memory_for_answers() if limits.kv_memory is None else limits.kv_memory
        self._answers = Answers(limits.max_running, memory, limits.prefill)
        self._encodings = Encodings()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mlx_mm engine", daemon=True)
        self._pools = {  # one each: while a model is loaded, those who ask for it wait there
            slot.name: ThreadPoolExecutor(WORKER_THREADS, "mlx_mm prepares") for slot in self._models.slots()
        }
        self._lock = threading.Lock()  # of what follows
        self._open: dict[int, Callable[[MlxMmError], None]] = {}  # requests that are not complete, by a number
        self._asked = self._refused = self._turns = 0
        self._alive = False
        self._rest: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Take requests."""
        self._alive = True
        self._thread.start()

    def lead(self, group: Group, wake: Callable[[], None]) -> Generator:
        """Read the part that this process, rank 0, has of the one model that answers, while the others read theirs by
        `follow_engine`; the other models are whole, and here alone. Before `start`. wake: the others, who sleep while
        nothing is answered. Raises InputError where none answers, or several do."""
        slots = self._models.slots()
        places = [place for place, slot in enumerate(slots) if slot.checkpoint.kind == "generator"]
        if len(places) != 1:
            names = ", ".join(slots[place].name for place in places) or "none"
            raise InputError(
                f"Of the models of several ranks {names} answer; expected one that does, which they divide, and any "
                "number of others beside it. Start with --model for that one, and a server of its own for another."
            )
        tell(places, group)
        with in_touch():
            model = slots[places[0]].load(group).model
        assert model.kind == "generator"
        self._rest = partial(rest, model, wake)
        return model

    def give_up(self, why: MlxMmError) -> None:
        """Take no more requests, and end those that there are with EngineDead, without waiting for what computes."""
        with self._lock:
            self._alive = False
        self._end_all(EngineDead(str(why)))

    def close(self) -> None:
        """End what runs, with EngineDead for those who wait, and the threads."""
        with self._lock:
            self._alive = False
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
        if self._thread.ident is not None:
            self._wake()
            self._thread.join()
        self._end_all(_dead())

    @property
    def alive(self) -> bool:
        """Whether it takes requests: not after a fork either, where it has no thread."""
        return self._alive and self._thread.is_alive()

    def models(self) -> list[Served]:
        """What is served."""
        return [slot.about() for slot in self._models.slots()]

    def stats(self) -> dict[str, float]:
        """Numbers of now, and counters since the start, which end in _total."""
        answers, caches = self._answers, self._answers.caches
        running = answers.running
        return {
            "alive": self.alive,
            "running": running,
            "waiting": max(0, len(self._open) - running),
            "models_loaded": sum(slot.loaded is not None for slot in self._models.slots()),
            "kv_limit_bytes": answers.memory,
            "prompt_caches": len(caches),
            "prompt_cache_bytes": caches.nbytes,
            "picture_cache_bytes": answers.features.nbytes,
            "requests_total": self._asked,
            "refused_total": self._refused,
            "cancelled_total": answers.cancelled,
            "prompt_tokens_total": answers.read,
            "cached_tokens_total": answers.cached,
            "generated_tokens_total": answers.written,
            "pictures_known_total": answers.features.found,
            "encoded_items_total": self._encodings.encoded,
            "evicted_prompt_caches_total": caches.evicted,
            "turns_total": self._turns,
        }

    def embed(
        self, model: str, kind: Modality, items: Sequence[object], **options: Unpack[EmbedOptions]
    ) -> Ticket[Vectors]:
        """Vectors (N, D) float32 of texts, images or sounds, equal to those of `encode_text` and its like."""

        def prepare(ticket: Ticket[Vectors], slot: Slot) -> None:
            self._inbox.put(partial(self._encodings.add, embedding(ticket, slot, kind, items, options)))

        return self._submit(model, prepare)

    def classify(
        self,
        model: str,
        items: Sequence[object],
        labels: Sequence[str] | None = None,
        *,
        template: Texts | None = None,
    ) -> Ticket[list[Scores]]:
        """[(label, score), …] of each image or sound, best first, equal to those of `mlx_mm.classify`."""

        def prepare(ticket: Ticket[list[Scores]], slot: Slot) -> None:
            self._inbox.put(partial(self._encodings.add, classifying(ticket, slot, items, labels, template)))

        return self._submit(model, prepare)

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        **options: Unpack[ChatOptions],
    ) -> Ticket[Generation]:
        """The answer to messages in the OpenAI shape, which hold their images and videos; see `mlx_mm.generate`."""

        def prepare(ticket: Ticket[Generation], slot: Slot) -> None:
            loaded = slot.load()
            try:
                question = ask(loaded.model, loaded.processor, messages, tools=tools, **options)
            except LengthError as error:
                raise TooLong(str(error)) from error
            answer = Answer(ticket, slot.name, question)
            self._answers.check(answer)
            self._inbox.put(partial(self._answers.add, answer))

        return self._submit(model, prepare)

    def _submit(self, model: str, prepare: Callable[[Ticket[Result], Slot], None]) -> Ticket[Result]:
        """Prepare a request in another thread and hand it to the engine's."""
        slot = self._models[model]

        def run() -> None:
            if ticket.cancelled:
                self._answers.cancelled += 1
                ticket.leave()
                return
            try:
                with foreign(Broken, "The request cannot be prepared", "expected one that the machine can read."):
                    prepare(ticket, slot)
            except MlxMmError as error:
                ticket.send(Failed(error))
                self._wake()  # it may have loaded a model that nobody asks for again

        if not self.alive:  # before the lock, which a thread may have held when this process was forked
            raise _dead()
        with self._lock:
            if not self._alive:
                raise _dead()
            waiting = len(self._open) - self._answers.running
            if waiting >= self._limits.max_waiting:
                self._refused += 1
                raise QueueFull(
                    f"{waiting} requests wait; expected fewer than {self._limits.max_waiting}. Try again later.",
                    retry_after=1 + waiting // self._limits.max_running,
                )
            self._asked += 1
            ticket: Ticket[Result] = Ticket(self._wake, partial(self._left, self._asked, slot))
            self._open[self._asked] = lambda error: ticket.send(Failed(error))
            slot.enter()
            self._pools[slot.name].submit(run)
        return ticket

    def _left(self, number: int, slot: Slot) -> None:
        with self._lock:
            del self._open[number]
            slot.leave()

    def _run(self) -> None:
        with contextlib.ExitStack() as died:
            died.push(self._died)
            busy = False
            while self._alive:
                self._take_messages(wait=not busy)
                self._turns += 1
                answering, encoding = self._answers.turn(), self._encodings.turn()
                busy = answering or encoding
                if not answering:
                    self._rest()
                check_whole()
                self._unload_idle()
            self._answers.end()

    def _take_messages(self, *, wait: bool) -> None:
        """Do what other threads ask for; where there is nothing else to do, wait for one."""
        with contextlib.suppress(queue.Empty):
            message = self._inbox.get(wait, self._until_idle() if wait else None)
            while True:
                message()
                message = self._inbox.get_nowait()

    def _until_idle(self) -> float | None:
        """Seconds until a model may be given back; None where none is there."""
        limit = self._limits.idle_unload
        if limit is None or not any(slot.loaded for slot in self._models.slots()):
            return None
        return max(0.01, limit - max(slot.idle_seconds() for slot in self._models.slots()))

    def _unload_idle(self) -> None:
        limit = self._limits.idle_unload
        for slot in self._models.slots() if limit is not None else ():
            if limit is not None and slot.idle_seconds() >= limit:
                with self._lock:  # so that nobody asks for it meanwhile
                    if slot.users:
                        continue
                    slot.unload()
                self._answers.forget(slot.name)
                with computing():
                    give_back_memory()

    def _wake(self) -> None:
        self._inbox.put(lambda: None)

    def _died(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        """A bug ends the thread: nobody waits in vain, and whoever started it is told."""
        if error is not None:
            self._alive = False
            self._end_all(_dead())
            if self._on_death is not None:
                self._on_death(error)
        return error is not None

    def _end_all(self, error: EngineDead) -> None:
        with self._lock:
            ends = list(self._open.values())
        for end in ends:
            end(error)


def follow_engine(models: Sequence[str | Path], group: Group, sleep: Callable[[], None]) -> None:
    """As one of several ranks, but not rank 0: read a part of the model that answers among those that all ranks were
    given, and run what the engine of rank 0 runs, until it dismisses its followers. sleep: until rank 0 wakes them."""
    with in_touch():
        (place,) = told(1, group)
        model, _ = open_checkpoint(models[place]).load(group=group)
        assert model.kind == "generator"
        follow(model, sleep)


def _dead() -> EngineDead:
    return EngineDead("The engine has ended; expected it to run. Start the server again.")
