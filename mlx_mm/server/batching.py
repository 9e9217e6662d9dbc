"""Answers that are written side by side, a token of each in every step. The only file that knows BatchGenerator.

mlx_lm's BatchGenerator keeps the rows of a batch together: it pads, joins and takes apart their caches, and samples.
Prompts never go through it, for it would not know where pictures stand: a row is inserted with the caches of all its
tokens but the last. How far a row's places are from its count of tokens travels with the rows as one cache more.

Where mlx_lm has another BatchGenerator, for a model that decodes one request at a time, and for rows that failed
together, there is `Alone`, which has the same methods.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.streams import compute
from mlx_mm.errors import MlxMmError, WeightsError, foreign
from mlx_mm.generation.deltas import Deltas
from mlx_mm.generation.following import deltas_of
from mlx_mm.generation.prompt_cache import Layers
from mlx_mm.generation.request import LayerCache, Request, SharedDecoder
from mlx_mm.generation.sampling import LogitsProcessor, Sampler
from mlx_mm.generation.token_loop import answer_tokens

if TYPE_CHECKING:
    from mlx_lm.generate import BatchGenerator

TOGETHER = ("prompts", "max_tokens", "caches", "all_tokens", "samplers", "logits_processors")  # arguments we pass


@dataclass(frozen=True)
class Row:
    """An answer as it begins to be written. layers: mlx_lm's caches of all `tokens` but the last; of these the row is
    free to make what it likes. processors: get all tokens so far, (L,), and logits (1, V)."""

    request: Request
    layers: Layers
    tokens: list[int]
    max_tokens: int
    sampler: Sampler
    processors: Sequence[LogitsProcessor]


@dataclass(frozen=True)
class Step:
    """What became of a row: its next token, or an error with which it has left."""

    row: int
    token: int = 0
    error: MlxMmError | None = None


class Rows(Protocol):
    """Rows by number. add: what it raises is the row's. step: a token of each; an error is that of no single row, and
    of all. remove: the caches of all its tokens, None where there are none."""

    def __len__(self) -> int: ...
    def add(self, row: Row) -> int: ...
    def step(self) -> list[Step]: ...
    def remove(self, number: int) -> Layers | None: ...


@functools.cache
def has_batches() -> bool:
    """Whether mlx_lm's BatchGenerator is there and takes what we pass."""
    try:
        from mlx_lm.generate import BatchGenerator
    except ImportError:
        return False
    methods = all(hasattr(BatchGenerator, name) for name in ("insert", "next", "remove"))
    return methods and set(TOGETHER) <= set(inspect.signature(BatchGenerator.insert).parameters)


class Together:
    """Up to `most` rows of one model that share each step."""

    def __init__(self, model: SharedDecoder, most: int) -> None:
        self._model, self._most = model, most
        self._rows: set[int] = set()
        self._batch: BatchGenerator | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> int:
        """The number of a new row, whose first token comes with the next step but one."""
        return compute(functools.partial(self._add, row))

    def step(self) -> list[Step]:
        """A token of each row, none of one that has just been added; raises what the step of all does."""
        return compute(self._step)

    def remove(self, number: int) -> Layers | None:
        """Take a row out."""
        return compute(functools.partial(self._remove, number))

    def _add(self, row: Row) -> int:
        from mlx_lm.generate import BatchGenerator

        if self._batch is None:
            self._batch = BatchGenerator(
                cast(nn.Module, _Decoder(self._model)),
                completion_batch_size=self._most,
                prefill_batch_size=self._most,
                stream=mx.default_stream(mx.default_device()),
            )
        (number,) = self._batch.insert(
            [row.tokens[-1:]],
            max_tokens=[row.max_tokens + 1],  # we count, and take the caches of rows that are complete
            caches=[[*row.layers, deltas_of(self._model, row.request, row.layers)]],
            all_tokens=[row.tokens[:-1]],
            samplers=[row.sampler],
            logits_processors=[list(row.processors)],
        )
        self._rows.add(number)
        return cast(int, number)

    def _step(self) -> list[Step]:
        if self._batch is None:
            return []
        _, answers = self._batch.next()
        if not answers:
            return []
        chosen = mx.stack([answer.logprobs[answer.token] for answer in answers]).tolist()
        steps = []
        for answer, logprob in zip(answers, cast("list[float]", chosen), strict=True):
            error = None if math.isfinite(logprob) else _not_finite()
            if error is not None:
                self._remove(answer.uid)
            steps.append(Step(answer.uid, answer.token, error))
        return steps

    def _remove(self, number: int) -> Layers | None:
        assert self._batch is not None
        self._rows.discard(number)
        found = self._batch.remove([number], return_prompt_caches=True)
        if not self._rows:
            self._batch.close()
            self._batch = None  # and with it what is left of the caches
        if number not in found:
            return None
        *layers, deltas = found[number][0]
        mx.eval([layer.state for layer in layers])
        return Layers(layers, cast(Deltas, deltas).twin)


class Alone:
    """Rows of any model, each of which runs by itself."""

    def __init__(self) -> None:
        self._rows: dict[int, _Single] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> int:
        """The number of a new row, whose first token comes with the next step."""
        self._count += 1
        self._rows[self._count] = _Single(row)
        return self._count

    def step(self) -> list[Step]:
        """A token of each row, or its error."""
        steps = []
        for number, single in list(self._rows.items()):
            try:
                with foreign(WeightsError, "The answer cannot be computed", "expected a model that runs. Try again."):
                    steps.append(Step(number, next(single.tokens)))
            except MlxMmError as error:
                self.remove(number)
                steps.append(Step(number, error=error))
        return steps

    def remove(self, number: int) -> Layers | None:
        """Take a row out."""
        single = self._rows.pop(number)
        single.tokens.close()
        return single.row.layers


@dataclass
class _Single:
    row: Row
    tokens: Generator[int, None, None] = field(init=False)

    def __post_init__(self) -> None:
        row = self.row
        before = mx.array(row.tokens[:-1], mx.int32)

        def knowing(process: LogitsProcessor) -> LogitsProcessor:
            return lambda seen, logits: process(mx.concatenate([before, seen.astype(mx.int32)]), logits)

        self.tokens = answer_tokens(
            row.tokens[-1:],
            row.request,
            row.layers,
            max_tokens=row.max_tokens + 1,
            sampler=row.sampler,
            processors=[knowing(process) for process in row.processors],
            prefill_step_size=1,
            kv_bits=None,
            kv_group_size=0,
            progress=lambda done: None,
        )


class _Decoder:
    """What BatchGenerator takes for a model."""

    def __init__(self, model: SharedDecoder) -> None:
        self._model = model

    def __call__(self, input_ids: mx.array, cache: Sequence[LayerCache]) -> mx.array:
        """(B, 1) -> (B, 1, V)."""
        *layers, deltas = cache
        logits = cast(Deltas, deltas).decode(self._model, input_ids, layers)
        # Of all layers but the first nobody reads these, and what would give them grows from step to step.
        mx.async_eval([getattr(layer, name) for layer in layers for name in ("offset", "left_padding")])
        return logits


def _not_finite() -> WeightsError:
    return WeightsError(
        "The model's logits for a token of the answer are not finite; expected numbers. Its weights are damaged or too "
        "large for its precision: load it with dtype='float32', or download or convert it again."
    )
