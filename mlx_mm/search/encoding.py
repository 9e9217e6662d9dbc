"""Files through a model into the store: read in threads, computed and written in the thread of the caller."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mlx_mm.batches import rows_of
from mlx_mm.errors import MlxMmError
from mlx_mm.models.contracts import Modality
from mlx_mm.models.modalities import features_of, unfit
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.chunks import alike, grouped
from mlx_mm.processing.read_ahead import read_ahead
from mlx_mm.processing.vectors import Vectors, unusable, usable
from mlx_mm.search.planning import Job
from mlx_mm.search.reading import Begun, Claims, Facts, Keep, Part, Reader, Step
from mlx_mm.search.servers import Servers
from mlx_mm.search.spaces import Space
from mlx_mm.search.writing import Outcome

BATCH = 8  # pictures or windows that a model gets at once
AHEAD = 32  # files that are prepared before they are needed, and parts of which batches of one shape are made
FILES, SECONDS = 64, 5.0  # after so many files, or so long, what is done is committed


@dataclass
class _Pending:
    """A file on its way. spans: of its parts; rows: their vectors, as they come."""

    facts: Facts
    status: tuple[int, int, int, int]
    spans: list[tuple[float, float] | None] = field(default_factory=list)
    rows: dict[int, Vectors] = field(default_factory=dict)
    given: bool = False

    @property
    def whole(self) -> bool:
        return self.given and len(self.rows) == len(self.spans)


class Writer(Protocol):
    """What becomes of files that were read; `Writing` is one."""

    @property
    def waiting(self) -> int: ...
    def add(self, outcome: Outcome) -> None: ...
    def commit(self) -> None: ...


def encode(
    keep: Keep,
    space: Space,
    jobs: Sequence[Job],
    claims: Claims,
    writing: Writer,
    advance: Callable[[int], None],
    servers: Sequence[str] = (),
) -> None:
    """Read files, and write what they are with vectors of one space; what is known already costs no model run.

    keep: of a content's digest and thumbnail. writing: what to do with each. Committed every few seconds; an error or
    an interruption leaves what was committed. servers: addresses of what makes vectors of pictures in our place.
    """
    if not jobs:
        return
    modality: Modality = "audio" if "audio" in space.kinds else "image"
    away = None
    if servers and modality == "image":
        away = Servers(servers, space.digest, space.name, space.canaries[modality])
    model, processor = space.opened() if away else space.opened(modality)
    if processor.kind != "encoder":
        raise unfit("pictures and sounds")
    reader = Reader(processor, space.patches, keep, claims, as_files=away is not None)
    pending: dict[int, _Pending] = {}
    last = time.monotonic()

    def fail(index: int, error: MlxMmError) -> None:
        file = pending.pop(index, None)
        status = jobs[index].entry.identity if file is None else file.status
        finish(Outcome(jobs[index], status, None if file is None else file.facts, error=error))

    def finish(outcome: Outcome) -> None:
        nonlocal last
        writing.add(outcome)
        advance(1)
        if writing.waiting >= FILES or time.monotonic() - last >= SECONDS:
            writing.commit()
            last = time.monotonic()

    def settle(index: int) -> None:
        file = pending[index]
        if file.whole:
            del pending[index]
            vectors = np.stack([file.rows[part] for part in range(len(file.spans))])
            finish(Outcome(jobs[index], file.status, file.facts, vectors, file.spans))

    def parts(steps: Iterator[tuple[int, Step]]) -> Iterator[tuple[tuple[int, int], Batch]]:
        for index, step in steps:
            if isinstance(step, Begun):
                if step.known:
                    finish(Outcome(jobs[index], step.status, step.facts))
                else:
                    pending[index] = _Pending(step.facts, step.status)
            elif isinstance(step, Part):
                spans = pending[index].spans
                spans.append(step.span)
                yield (index, len(spans) - 1), step.batch
            else:
                pending[index].given = True
                settle(index)

    with contextlib.closing(
        read_ahead(len(jobs), lambda index: reader.read(jobs[index]), inputs_ahead=AHEAD, on_error=fail)
    ) as steps:
        chunks = (chunk for some in grouped(parts(steps), AHEAD) for chunk in alike(some, BATCH))
        features, weights = features_of(model, modality), model.modules_for(modality)
        here = rows_of(features, weights, chunks, processor.collate, row_by_row=True)
        for keys, rows in here if away is None else away.rows_of(chunks):
            good = usable(rows)
            for (index, part), row, fine in zip(keys, rows, good.tolist(), strict=True):
                if index not in pending:  # damaged further on
                    continue
                if fine:
                    pending[index].rows[part] = row
                    settle(index)
                else:
                    fail(index, unusable(f"vector of {jobs[index].shown} has", row))
    writing.commit()
