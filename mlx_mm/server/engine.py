"""The one thread that runs every model of a server, and the queue before it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from mlx_mm.classify import Scores, classify
from mlx_mm.embed import encode_audio, encode_image, encode_text
from mlx_mm.errors import MlxMmError
from mlx_mm.generate import stream_generate
from mlx_mm.generation.answer import Generation, join
from mlx_mm.models.contracts import Modality
from mlx_mm.processing.vectors import Vectors
from mlx_mm.server.models import Models, Served
from mlx_mm.server.tickets import Done, EngineDead, Failed, Piece, QueueFull, Result, Ticket

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_mm.processing.arguments import Texts


@dataclass(frozen=True)
class Limits:
    """max_running: answers that are written at once. max_waiting: requests before them, above which others are
    refused. kv_memory: bytes of keys and values, None for a share of the machine's. idle_unload: seconds without a
    request after which weights are given back, None for never. prefill: tokens of a prompt that run in one turn."""

    max_running: int = 8
    max_waiting: int = 64
    kv_memory: int | None = None
    idle_unload: float | None = None
    prefill: int = 512


class EmbedOptions(TypedDict, total=False):
    """Those of `encode_text`, `encode_image` and `encode_audio`; the kind decides which may be given."""

    task: str | None
    dim: int | None
    normalize: bool
    max_length: int | None
    truncate: bool
    max_num_patches: int | None
    fast_decode: bool
    truncation: str | None
    seed: int


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

    models: folders, bundled names or hub ids. on_death: called once, with what ended the engine's thread, where that
    is a bug. Raises what `mlx_mm.load` does for a model whose config cannot be used, and InputError for two of one
    name.
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        limits: Limits = Limits(),
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._models, self._limits, self._on_death = Models(models), limits, on_death
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mlx_mm engine", daemon=True)
        self._waiting = 0
        self._dead = True

    def start(self) -> None:
        """Take requests."""
        self._dead = False
        self._thread.start()

    def close(self) -> None:
        """End all requests and the thread."""
        self._dead = True
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def models(self) -> list[Served]:
        """What is served."""
        return [slot.about() for slot in self._models.slots()]

    def stats(self) -> dict[str, float]:
        """Numbers of now and counters since the start."""
        return {"running": 0, "waiting": self._waiting, "alive": float(not self._dead)}

    def embed(
        self, model: str, kind: Modality, items: Sequence[object], **options: Unpack[EmbedOptions]
    ) -> Ticket[Vectors]:
        """Vectors (N, D) float32 of texts, images or sounds, equal to those of `encode_text` and its like."""
        slot = self._models[model]
        verbs: dict[str, Callable[..., Vectors]] = {"text": encode_text, "image": encode_image, "audio": encode_audio}

        def work() -> Done[Vectors]:
            loaded = slot.load()
            vectors = verbs[kind](loaded.model, loaded.processor, list(items), **options)
            return Done(np.asarray(vectors))

        return self._submit(lambda _: work())

    def classify(
        self,
        model: str,
        items: Sequence[object],
        labels: Sequence[str] | None = None,
        *,
        template: Texts | None = None,
    ) -> Ticket[list[Scores]]:
        """[(label, score), …] of each image or sound, best first, equal to those of `mlx_mm.classify`."""
        slot = self._models[model]

        def work() -> Done[list[Scores]]:
            loaded = slot.load()
            return Done(classify(loaded.model, loaded.processor, list(items), labels, template=template))  # type: ignore[type-var,misc]

        return self._submit(lambda _: work())

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        **options: Unpack[ChatOptions],
    ) -> Ticket[Generation]:
        """The answer to messages in the OpenAI shape, which hold their images and videos; see `mlx_mm.generate`."""
        slot = self._models[model]

        def work(ticket: Ticket[Generation]) -> Done[Generation]:
            loaded = slot.load()
            pieces = []
            for piece in stream_generate(loaded.model, loaded.processor, messages, tools=tools, **options):
                pieces.append(piece)
                ticket.send(Piece(piece))
                if ticket.cancelled:
                    break
            whole = join(pieces)
            return Done(whole, prompt_tokens=whole.prompt_tokens)

        return self._submit(work)

    def _submit(self, work: Callable[[Ticket[Result]], Done[Result]]) -> Ticket[Result]:
        if self._dead:
            raise EngineDead("The engine has ended; expected it to run. Start the server again.")
        if self._waiting >= self._limits.max_waiting:
            raise QueueFull(f"{self._waiting} requests wait; expected fewer. Try again later.", 1)
        ticket: Ticket[Result] = Ticket()
        self._waiting += 1

        def run() -> None:
            self._waiting -= 1
            if ticket.cancelled:
                return
            try:
                ticket.send(work(ticket))
            except MlxMmError as error:
                ticket.send(Failed(error))

        self._inbox.put(run)
        return ticket

    def _run(self) -> None:
        with contextlib.ExitStack() as died:
            died.push(partial(_report, self))
            while (task := self._inbox.get()) is not None:
                task()

    def died(self, error: BaseException) -> None:
        """A bug has ended the thread."""
        self._dead = True
        if self._on_death is not None:
            self._on_death(error)


def _report(engine: Engine, _kind: object, error: BaseException | None, _trace: object) -> bool:
    if error is not None:
        engine.died(error)
    return error is not None
