"""What a checkpoint lost against another of the same model, in whatever form both are."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mm.checkpoint import matching, reading
from mlx_mm.errors import InputError, ModalityError
from mlx_mm.evaluate.layers import LayerErrors
from mlx_mm.evaluate.outputs import Rows, Task, answers, prompts, results
from mlx_mm.evaluate.streamed import Streamed
from mlx_mm.load import OpenCheckpoint, open_checkpoint
from mlx_mm.models.contracts import Modality, Model
from mlx_mm.probes import Probes, bundled_probes, fitting, folder_probes, spread
from mlx_mm.processing.arguments import text_or_path
from mlx_mm.progress import Progress, check_progress, progressing
from mlx_mm.quantize import apply
from mlx_mm.quantize.cost import (
    Cost,
    LayerCost,
    TokenCost,
    VectorCost,
    divergence,
    pair_agreement,
    token_cost,
    vector_cost,
)

SMALL_BYTES = 2 << 30  # of weights that stay in memory, so that the model can answer and single layers be exchanged
WORST = 5  # layers that are named
TINY = 1e-12  # is added to probabilities before their logarithm
FEW = 8  # items of a kind by which the effect of a single layer is measured


def compare(
    first: str | Path,
    second: str | Path,
    *,
    calibrate: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    progress: Progress = False,
) -> Cost:
    """What `second` lost against `first`: two checkpoints of one model, such as the source and a converted one.

    first, second: folders, bundled names or hub ids, of whichever program; revision: of `first` on the hub. calibrate:
    a folder with pictures, sounds, .txt (a text a line) or .jsonl (see `folder_probes`) to compare them on; by default
    on bundled ones. Of each kind every second one is taken, which is the half that `convert` does not round with; of
    fewer than 8 all. progress: show it on stderr, or a function that is called with (done, total).
    The memory is that of a layer, or for models below 2 GB that of `first`. Raises InputError for two models, and what
    `load` raises.
    """
    check_progress(progress)
    for name, value in (("first", first), ("second", second)):
        text_or_path(name, value, "a folder, a bundled name or a hub id")
    probes = bundled_probes() if calibrate is None else folder_probes(calibrate)
    source, other = open_checkpoint(first, revision=revision), open_checkpoint(second)
    return measure(source, other, probes, progress)


def measure(source: OpenCheckpoint, other: OpenCheckpoint, probes: Probes, progress: Progress = False) -> Cost:
    """What `other` lost against `source`, tried on `probes`. Raises InputError for two models, or none of the probes
    that they take."""
    start = time.perf_counter()
    source, other = alike(source, other)
    check_measurable(source)
    used = fitting(probes, source).halves()[1]
    processor = source.processor()
    small = reading.Checkpoint(source.folder).num_bytes <= SMALL_BYTES
    theirs, ours = Streamed(source, keep=small), Streamed(other)
    model = theirs.model
    task = answers(used, model, processor) if small and model.kind == "generator" else prompts(used, model, processor)
    errors = LayerErrors(_compared(source, other))
    with progressing(progress, 2 * task.count, "measuring", "run") as advance:
        given = _source_results(theirs, ours, task, errors, advance)
        got = results(ours.model, task, lambda _modality: advance(1))
    worst = errors.worst(WORST)
    if small:
        few = prompts(some_of_each(used, FEW), model, processor)
        worst = _effects(worst, errors, theirs, ours, few)
    return Cost(
        *_costs(model, got, given),
        task.along,
        tuple(worst),
        _described(used, probes),
        time.perf_counter() - start,
    )


def check_measurable(source: OpenCheckpoint) -> None:
    """Raise ModalityError for a checkpoint that gives nothing to compare of something that it takes."""
    model, lacking = source.model(), source.config.without_vectors
    what = "what a conversion loses cannot be measured. Convert it with check=False (--no-check)."
    if model.kind == "generator" and not model.has_head:
        raise ModalityError(f"This checkpoint has no head and cannot answer, so {what}")
    if model.kind == "encoder" and lacking:
        raise ModalityError(
            f"This checkpoint has no pooling head for {lacking[0]} inputs and gives no vectors, so {what}"
        )


def alike(source: OpenCheckpoint, other: OpenCheckpoint) -> tuple[OpenCheckpoint, OpenCheckpoint]:
    """Both as their tensors have them, and with MLPs of the same width where one was filled up with zeros. Raises
    InputError where they are two models."""
    source, other = source.with_tensors()[0], other.with_tensors()[0]
    source, other = _widened(source, other), _widened(other, source)
    what = "their cost cannot be told. Name two checkpoints of one model."
    for name, a, b in (
        ("kind", source.kind, other.kind),
        ("inputs", " and ".join(source.modalities), " and ".join(other.modalities)),
    ):
        if a != b:
            raise InputError(f"{source.name} and {other.name} are two models ({name}: {a}, and {b}), so {what}")
    shapes, others = (matching.parameter_shapes(opened.model()) for opened in (source, other))
    for name in [*shapes, *others]:
        if shapes.get(name) != others.get(name):
            raise InputError(
                f"{source.name} and {other.name} are two models ({name}: {shapes.get(name, 'missing')}, and "
                f"{others.get(name, 'missing')}), so {what}"
            )
    return source, other


def _widened(opened: OpenCheckpoint, like: OpenCheckpoint) -> OpenCheckpoint:
    """With the widths of `like`, where that was filled up with zeros and this was not."""
    padded = like.values.get("padded")
    if not isinstance(padded, Mapping) or "padded" in opened.values:
        return opened
    values = copy.deepcopy(opened.values)
    for key, change in padded.items():
        *sections, name = str(key).split(".")
        section = values
        for part in sections:
            found = section.get(part)
            section = found if isinstance(found, dict) else {}
        if isinstance(change, list) and len(change) == 2:
            section[name] = change[1]
    return dataclasses.replace(opened, values=values, config=opened.family.config.from_dict(values), pads=True)


def _compared(source: OpenCheckpoint, other: OpenCheckpoint) -> dict[str, int | None]:
    """The layers that are quantised in one of them, each with its bits in the other one."""
    theirs, ours = (_bits(opened) for opened in (source, other))
    return {path: ours.get(path) for path in [*theirs, *ours]}


def _bits(opened: OpenCheckpoint) -> dict[str, int]:
    block = apply.read_block(opened.values)
    return {} if block is None else apply.bits_of(block, reading.Checkpoint(opened.folder).names)


def _source_results(
    theirs: Streamed, ours: Streamed, task: Task, errors: LayerErrors, advance: Callable[[int], None]
) -> Rows:
    """What the source gives; on the way each of its layers is compared with the other's."""
    now: list[Modality] = []

    def look(path: str, layer: nn.Module, x: mx.array, chosen: mx.array | None) -> nn.Module:
        if path in errors.bits:
            errors.compare(path, ours.take(path), layer, x, chosen, now[-1])
        return layer

    def begin(modality: Modality) -> None:
        now.append(modality)
        advance(1)

    theirs.look = look
    found = results(theirs.model, task, begin)
    theirs.look = None
    return found


def _effects(
    worst: list[LayerCost], errors: LayerErrors, theirs: Streamed, ours: Streamed, task: Task
) -> list[LayerCost]:
    """The same layers with what each does to the result when it alone is the other's."""
    given = results(theirs.model, task, lambda _modality: None)
    measured = []
    for cost in worst:
        reached = errors.reached[cost.path]
        part = dataclasses.replace(task, batches={kind: task.batches[kind] for kind in task.batches if kind in reached})
        theirs.look = partial(_exchanged, ours, cost.path)
        got = results(theirs.model, part, lambda _modality: None)
        theirs.look = None
        effects = losses_of(theirs.model, got, {kind: given[kind] for kind in got}).values()
        measured.append(dataclasses.replace(cost, effect=sum(effects) / len(effects) if effects else None))
    return measured


def _exchanged(ours: Streamed, exchanged: str, path: str, layer: nn.Module, *_: object) -> nn.Module:
    return ours.take(path) if path == exchanged else layer


def _costs(model: Model, got: Rows, given: Rows) -> tuple[dict[str, VectorCost], float | None, dict[str, TokenCost]]:
    """Of vectors, of pairs of texts and others, and of distributions."""
    if model.kind == "encoder":
        kinds = [kind for kind in ("image", "audio") if kind in got and "text" in got]
        pairs = [pair_agreement((got["text"], got[kind]), (given["text"], given[kind])) for kind in kinds]
        return {kind: vector_cost(got[kind], given[kind]) for kind in got}, pairs[0] if pairs else None, {}
    if model.kind == "classifier":
        got, given = ({kind: np.log(scores + TINY) for kind, scores in rows.items()} for rows in (got, given))
    return {}, None, {kind: token_cost(*divergence(got[kind], given[kind])) for kind in got}


def losses_of(model: Model, got: Rows, given: Rows) -> dict[str, float]:
    """What the rows that a model gives lost against those of the source: 1 - cosine, or the divergence, by kind."""
    vectors, _, tokens = _costs(model, got, given)
    return {kind: max(0.0, 1 - one.mean) for kind, one in vectors.items()} | {k: one.mean for k, one in tokens.items()}


def some_of_each(probes: Probes, count: int) -> Probes:
    """So many of each kind at most."""
    return Probes(
        probes.name,
        tuple(spread(probes.texts, count)),
        tuple(spread(probes.images, count)),
        tuple(spread(probes.sounds, count)),
        tuple(spread(probes.chats, count)),
    )


def _described(used: Probes, given: Probes) -> dict[str, tuple[int, str]]:
    """How many of each kind, and where they are from; of a folder only its last name, which may be published."""
    name = Path(given.name).name
    kinds = {
        "text": (used.texts, given.texts or given.chats),
        "image": (used.images, given.images or any(chat.images for chat in given.chats)),
        "audio": (used.sounds, given.sounds),
        "chat": (used.chats, True),
    }
    return {kind: (len(items), name if own else "bundled") for kind, (items, own) in kinds.items() if items}
