"""What a model gives for probes: vectors, scores, or distributions over the tokens that follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import numpy as np

from mlx_mm.backend.streams import computing
from mlx_mm.generation.prompt_cache import PromptCache
from mlx_mm.generation.token_loop import answer_tokens
from mlx_mm.models.contracts import Generator, Modality, Model, Processor
from mlx_mm.probes import Probes, chat_batch, keep_last, prepared, run
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.vectors import unusable, usable

Rows: TypeAlias = "dict[Modality, np.ndarray]"  # float32 (N, D)

ANSWER_TOKENS = 16  # of the source's answer to a question


@dataclass(frozen=True)
class Task:
    """Batches by what they are. rows: which of the results (B, L) of each batch count, of a generator's; None: all.
    along: as in `quantize.cost.Cost`."""

    batches: Mapping[Modality, list[Batch]]
    rows: Mapping[Modality, list[np.ndarray]] | None = None
    along: str | None = None

    @property
    def count(self) -> int:
        return sum(map(len, self.batches.values()))


def prompts(probes: Probes, model: Model, processor: Processor) -> Task:
    """The probes themselves; of a generator the last tokens of each prompt."""
    batches = prepared(probes, model, processor)
    if model.kind != "generator":
        return Task(batches)
    rows = {
        modality: [batch["attention_mask"][:, batch["logits_to_keep"]] == 1 for batch in of_one]
        for modality, of_one in batches.items()
    }
    return Task(batches, rows, "prompts")


def answers(probes: Probes, model: Generator, processor: Processor) -> Task:
    """The questions with the answers that a model gives, the likeliest token after the likeliest."""
    assert processor.kind == "chat"
    batches: dict[Modality, list[Batch]] = {}
    rows: dict[Modality, list[np.ndarray]] = {}
    for modality in ("text", "image"):
        chats = [chat for chat in probes.chats if bool(chat.images) == (modality == "image")]
        items, counts = [], []
        for chat in chats:
            batch = chat_batch(chat, processor)
            answer = likeliest(model, batch, processor.defaults.stop_ids)
            items.append(_followed(batch, answer[:-1]))
            counts.append(len(answer))
        if items:
            most = max(counts)
            batches[modality] = [keep_last(processor.collate(items), most)]
            rows[modality] = [np.arange(most) >= most - np.array(counts)[:, None]]
    return Task(batches, rows, "answers")


def likeliest(model: Generator, batch: Batch, stop_ids: frozenset[int]) -> list[int]:
    """The first tokens of the answer to one prompt, up to one that ends it."""
    ids = batch["input_ids"][0].tolist()
    with computing():
        request = model.request(batch)
        layers = PromptCache().begin(model, request, request.token_keys(), max_kv_size=None, kv_bits=None)
    steps = answer_tokens(
        ids,
        request,
        layers,
        max_tokens=ANSWER_TOKENS,
        sampler=lambda scores: mx.argmax(scores, axis=-1),
        processors=(),
        prefill_step_size=len(ids),
        kv_bits=None,
        kv_group_size=0,
        progress=lambda _count: None,
    )
    tokens: list[int] = []
    for token in steps:
        tokens.append(token)
        if token in stop_ids:
            break
    steps.close()
    return tokens


def results(model: Model, task: Task, advance: Callable[[Modality], None]) -> Rows:
    """What a model gives, one row for each item, or for each token that counts. advance: called before each batch."""
    found: Rows = {}
    for modality, batches in task.batches.items():
        rows = []
        for place, batch in enumerate(batches):
            advance(modality)
            result = np.array(run(model, modality, batch))
            counted = result if task.rows is None else result[task.rows[modality][place]]
            if not (good := usable(counted, scores=model.kind != "encoder")).all():
                raise unusable(f"result that the model gives for {modality} inputs has", counted[good.argmin()])
            rows.append(counted)
        found[modality] = np.concatenate(rows)
    return found


def _followed(batch: Batch, tokens: list[int]) -> Batch:
    """A prompt (1, L) and what was answered so far."""
    ids = np.array([tokens], batch["input_ids"].dtype)
    more = {"input_ids": ids, "attention_mask": np.ones_like(ids), "mm_token_type_ids": np.zeros_like(ids)}
    return batch | {key: np.concatenate([batch[key], value], axis=1) for key, value in more.items() if key in batch}
