"""Answers on their way: those that wait for memory, prompts that are read a part a turn, and rows that are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from mlx_mm.backend import device
from mlx_mm.backend.streams import compute, computing, give_back_memory
from mlx_mm.errors import MlxMmError, foreign
from mlx_mm.generate import Question, begin_request
from mlx_mm.generation.answer import Clock, Generation, join
from mlx_mm.generation.appending import STEP
from mlx_mm.generation.prompt_cache import Layers, PromptCache
from mlx_mm.generation.request import HasPictures, Request, SharedDecoder
from mlx_mm.generation.telling import Teller
from mlx_mm.server.batching import Alone, Row, Rows, Together, has_batches
from mlx_mm.server.features import Features
from mlx_mm.server.prompt_caches import PromptCaches
from mlx_mm.server.tickets import Broken, Done, Failed, Piece, Reading, Ticket, TooLong

CACHED = 4  # a part of so many of the memory for keys and values is for prompts that ended and for pictures
PICTURED = 4  # and of this a part of so many for pictures


@dataclass
class Answer:
    """A question that was asked, from its arrival to its last token.

    tokens: of the prompt, and of the answer so far. keys: one for each of them. place: how many of them the cache has.
    """

    ticket: Ticket[Generation]
    model: str
    question: Question
    tokens: list[int] = field(init=False)
    keys: list[int] = field(default_factory=list)
    cache: PromptCache = field(default_factory=PromptCache)
    pieces: list[Generation] = field(default_factory=list)
    place: int = 0
    alone: bool = False
    request: Request | None = None
    layers: Layers = field(default_factory=Layers)
    teller: Teller | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.question.ids)

    @property
    def room(self) -> int:
        """Tokens for which it may need memory."""
        return -(-(len(self.question.ids) + self.question.max_tokens) // STEP) * STEP

    @property
    def said(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.question.ids)

    @property
    def token_bytes(self) -> int:
        """Of keys and values."""
        return self.question.defaults.kv_numbers * (4 if device.on_cpu() else 2)


class Answers:
    """Those of all models. Only the engine's thread calls it; numbers may be read by any.

    most: rows at once. memory: bytes of keys and values, a part of them for prompts that ended. prefill: tokens of a
    prompt in one turn.
    """

    def __init__(self, most: int, memory: int, prefill: int) -> None:
        self._most, self._prefill = most, prefill
        kept = memory // CACHED
        self.memory = memory - kept  # for those that run
        self.features = Features(kept // PICTURED)
        self.caches = PromptCaches(kept - kept // PICTURED)
        self._waiting: deque[Answer] = deque()
        self._reading: deque[Answer] = deque()
        self._together: dict[str, Together] = {}
        self._alone = Alone()
        self._rows: dict[tuple[Rows, int], Answer] = {}
        self.read = self.cached = self.written = self.cancelled = 0  # tokens, and answers nobody waited for

    @property
    def running(self) -> int:
        """Answers that are read or written."""
        return len(self._reading) + len(self._rows)

    @property
    def waiting(self) -> int:
        """Answers that have not begun."""
        return len(self._waiting)

    def reserved(self, new: Answer | None = None) -> int:
        """Bytes that keys and values of what runs may have: rows of a batch are as long as the longest."""
        held: dict[str, list[Answer]] = {}
        for answer in (*self._reading, *self._rows.values(), *([] if new is None else [new])):
            held.setdefault(answer.model, []).append(answer)
        return sum(
            len(answers) * max(answer.room for answer in answers) * answers[0].token_bytes for answers in held.values()
        )

    def check(self, answer: Answer) -> None:
        """Raise TooLong for what does not fit with nothing beside it. Any thread may call it."""
        needed = answer.room * answer.token_bytes
        if needed > self.memory:
            raise TooLong(
                f"The prompt has {len(answer.question.ids):,} tokens and its answer up to "
                f"{answer.question.max_tokens:,}, which need {needed:,} bytes of keys and values; expected at most "
                f"{self.memory:,}. Shorten it, ask for less with max_tokens, or start the server with more --kv-memory."
            )

    def add(self, answer: Answer) -> None:
        """Have it answered in its turn."""
        self._waiting.append(answer)

    def turn(self) -> bool:
        """Drop what nobody waits for, begin what fits, read a part of one prompt, write a token of each row; whether
        there was anything to do."""
        self._drop()
        self._admit()
        busy = self.running > 0
        self._read_part()
        self._write()
        return busy

    def forget(self, model: str) -> None:
        """A model's weights are given back."""
        self.caches.drop(model)
        self.features.drop(model)
        self._together.pop(model, None)

    def end(self) -> None:
        """Forget all: no batch stays, and no cache."""
        for rows, number in list(self._rows):
            rows.remove(number)
        self._rows.clear()
        self._waiting.clear()
        self._reading.clear()
        self._together.clear()
        self.caches.clear()
        self.features.clear()

    def _drop(self) -> None:
        for answer in [answer for answer in self._waiting if answer.ticket.cancelled]:
            self._waiting.remove(answer)
            self._left(answer)
        for answer in [answer for answer in self._reading if answer.ticket.cancelled]:
            self._reading.remove(answer)
            self._keep(answer, answer.layers, answer.keys[: answer.place])
            self._left(answer)
        for (rows, number), answer in list(self._rows.items()):
            if answer.ticket.cancelled:
                self._take_out(rows, number)
                self._left(answer)

    def _left(self, answer: Answer) -> None:
        self.cancelled += 1
        answer.ticket.leave()

    def _admit(self) -> None:
        while self._waiting and self.running < self._most and self.reserved(self._waiting[0]) <= self.memory:
            answer = self._waiting.popleft()
            if self._try(answer, partial(self._begin, answer)):
                self._reading.append(answer)

    def _begin(self, answer: Answer) -> None:
        """Take what is known of its prompt."""
        question = answer.question
        with computing():
            if answer.request is None:
                answer.request = begin_request(question)
                if isinstance(answer.request, HasPictures):
                    answer.request.share(self.features.of(answer.model))
                answer.keys = answer.request.token_keys()
            answer.cache = PromptCache() if answer.alone else self.caches.take(answer.model, answer.keys)
            answer.layers = answer.cache.begin(
                question.model, answer.request, answer.keys, max_kv_size=None, kv_bits=None
            )
        answer.place = len(answer.cache)
        if answer.teller is None:
            self.cached += answer.place
            answer.teller = question.teller(Clock(len(question.ids), answer.place))

    def _read_part(self) -> None:
        if not self._reading:
            return
        answer = self._reading.popleft()
        if self._try(answer, partial(self._read, answer)):
            if answer.place < len(answer.tokens) - 1:
                self._reading.append(answer)
            else:
                self._try(answer, partial(self._begin_to_write, answer))

    def _read(self, answer: Answer) -> None:
        end = min(answer.place + self._prefill, len(answer.tokens) - 1)

        def run() -> None:
            assert answer.request is not None
            answer.request(mx.array([answer.tokens[answer.place : end]]), cache=answer.layers)
            mx.eval([layer.state for layer in answer.layers])
            give_back_memory()

        if end > answer.place:
            compute(run)
        self.read += end - answer.place
        answer.place = end
        answer.ticket.send(Reading(end, len(answer.tokens)))

    def _begin_to_write(self, answer: Answer) -> None:
        question = answer.question
        assert answer.request is not None
        row = Row(
            answer.request,
            answer.layers,
            answer.tokens,
            question.max_tokens - answer.said,
            question.sampler,
            question.processors([], len(question.ids)),
        )
        rows = self._rows_for(answer)
        self._rows[rows, rows.add(row)] = answer
        answer.layers = Layers()

    def _rows_for(self, answer: Answer) -> Rows:
        model = answer.question.model
        if answer.alone or not isinstance(model, SharedDecoder) or not has_batches():
            return self._alone
        return self._together.setdefault(answer.model, Together(model, self._most))

    def _write(self) -> None:
        everywhere: list[Rows] = [*self._together.values(), self._alone]
        for rows in everywhere:
            if len(rows):
                try:
                    with foreign(Broken, "A token cannot be computed", "expected a model that runs."):
                        steps = rows.step()
                except MlxMmError:
                    self._retry(rows)
                    continue
                for step in steps:
                    self._advance(rows, step.row, step.token, step.error)

    def _advance(self, rows: Rows, number: int, token: int, error: MlxMmError | None) -> None:
        answer = self._rows[rows, number]
        if error is not None:
            del self._rows[rows, number]
            answer.ticket.send(Failed(error))
            return
        self._try(answer, partial(self._hear, answer, token))
        if answer.ticket.ended:
            self._take_out(rows, number)

    def _hear(self, answer: Answer, token: int) -> None:
        teller = answer.teller
        assert teller is not None
        answer.tokens.append(token)
        answer.keys.append(token)
        self.written += 1
        piece = teller.take(token)
        if piece is not None:
            self._tell(answer, piece)
        if teller.over or answer.said >= answer.question.max_tokens:
            self._tell(answer, teller.end())
            prompt = answer.keys[: len(answer.question.ids)]
            media = sum(key < 0 for key in prompt)
            thought = sum(bool(piece.reasoning) for piece in answer.pieces)
            answer.ticket.send(Done(join(answer.pieces), len(prompt), media, reasoning_tokens=thought))

    def _tell(self, answer: Answer, piece: Generation) -> None:
        answer.pieces.append(piece)
        answer.ticket.send(Piece(piece))

    def _take_out(self, rows: Rows, number: int) -> None:
        """A row ends, and what was computed of it is kept."""
        answer = self._rows.pop((rows, number))
        layers: Layers | None = None
        try:
            with foreign(Broken, "A row cannot be taken out", "expected a batch that is whole."):
                layers = rows.remove(number)
        except MlxMmError:
            self._retry(rows)
        self._keep(answer, layers or Layers(), answer.keys)

    def _retry(self, rows: Rows) -> None:
        """After a step that failed for all, each begins again by itself, so that only the guilty fail."""
        for (held, number), answer in list(self._rows.items()):
            if held is rows:
                del self._rows[held, number]
                answer.alone = True
                if self._try(answer, partial(self._begin, answer)):
                    self._reading.append(answer)
        self._together = {name: batch for name, batch in self._together.items() if batch is not rows}

    def _keep(self, answer: Answer, layers: Layers, keys: Sequence[int]) -> None:
        cache = answer.cache
        cache.layers, cache.keys = layers, list(keys)
        with computing():
            cache.cut(len(cache.keys))
        self.caches.put(answer.model, cache)

    def _try(self, answer: Answer, step: Callable[[], None]) -> bool:
        """Whether a step of one answer succeeds; what it raises is that answer's alone."""
        try:
            with foreign(Broken, "The answer cannot be computed", "expected a prompt that the machine can run."):
                step()
        except MlxMmError as error:
            answer.ticket.send(Failed(error))
            return False
        return True
