"""What `mlx_mm bench` times: a model's work on made-up inputs, in this process or in one without the kernels."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import mlx_mm
from mlx_mm.errors import InputError, MlxMmError

if TYPE_CHECKING:
    from mlx_mm.models.contracts import Model, Processor

LEAST_SECONDS = 0.1  # of a measurement; shorter work is repeated
PICTURE = (480, 640, 3)
SOUND_RATE, SOUND_SECONDS = 48_000, 10
PROMPT_WORDS, ANSWER_TOKENS = 256, 16


class Case(NamedTuple):
    """what: "image", "text", "audio", or of a model that answers "prompt" and "answer"; batch: how many at a time."""

    what: str
    batch: int


def cases_of(model: "Model", batches: list[int]) -> list[Case]:
    """Those of a model; one that answers has one prompt at a time."""
    if model.kind == "generator":
        return [Case("prompt", 1), Case("answer", 1)]
    wanted = [name for name in ("image", "text", "audio") if name in model.modalities]
    return [Case(name, batch) for name in wanted for batch in batches]


def per_second(model: "Model", processor: "Processor", case: Case) -> float:
    """Items, or tokens, a second of a case, by the public verbs; 0 for an answer that ended with its first token."""
    if model.kind == "generator":
        return _tokens_per_second(model, processor, case.what)
    work = work_of(model, processor, case)
    start, times = time.perf_counter(), 0
    while not times or time.perf_counter() - start < LEAST_SECONDS:
        work()
        times += 1
    return times * case.batch / (time.perf_counter() - start)


def work_of(model: "Model", processor: "Processor", case: Case) -> Callable[[], object]:
    """One batch of a case, by the public verbs."""
    random = np.random.default_rng(0)
    if case.what == "text":
        texts = [f"a photo of {number} cats" for number in range(case.batch)]
        return lambda: mlx_mm.encode_text(model, processor, texts, batch_size=case.batch)
    if case.what == "audio":
        noise = random.standard_normal((case.batch, SOUND_RATE * SOUND_SECONDS), dtype=np.float32) / 10
        sounds = [(samples, SOUND_RATE) for samples in noise]
        return lambda: mlx_mm.encode_audio(model, processor, sounds, batch_size=case.batch)
    pictures = [random.integers(0, 256, PICTURE, dtype=np.uint8) for _ in range(case.batch)]
    if model.kind == "classifier":
        return lambda: mlx_mm.classify(model, processor, pictures, batch_size=case.batch)
    return lambda: mlx_mm.encode_image(model, processor, pictures, batch_size=case.batch)


def _tokens_per_second(model: "Model", processor: "Processor", what: str) -> float:
    prompt = "word " * PROMPT_WORDS
    count = 1 if what == "prompt" else ANSWER_TOKENS
    answer = mlx_mm.generate(model, processor, prompt, max_tokens=count, temperature=0, enable_thinking=False)
    return answer.prompt_tps if what == "prompt" else answer.generation_tps


class OtherProcess:
    """The same package in a process of its own, with other environment variables."""

    def __init__(self, model: str, revision: str | None, environment: dict[str, str]) -> None:
        root = str(Path(mlx_mm.__file__).parents[1])
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from mlx_mm.cli.timing import serve; serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, root, model, *([revision] if revision else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C is for the first process, which ends this one
        )

    def per_second(self, case: Case) -> float:
        """As the function of that name. Raises InputError where the process has ended."""
        stdin, stdout = self.process.stdin, self.process.stdout
        line = ""
        if stdin is not None and stdout is not None:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(json.dumps(case) + "\n")
                stdin.flush()
                line = stdout.readline()
        if not line:
            raise InputError(
                "The process without the CPU kernels ended; expected numbers to compare with. Pass --no-pure."
            )
        return float(line)

    def end(self) -> None:
        """At once, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@contextlib.contextmanager
def other_process(model: str, revision: str | None, environment: dict[str, str]) -> Iterator[OtherProcess]:
    """One that lives as long as the block."""
    other = OtherProcess(model, revision, environment)
    try:
        yield other
    finally:
        other.end()


def serve() -> None:
    """The other end: a case a line, an answer a line, until there are no more; an error ends it."""
    with contextlib.suppress(MlxMmError, KeyboardInterrupt, BrokenPipeError):
        model, processor = mlx_mm.load(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else None)
        for line in sys.stdin:
            sys.stdout.write(f"{per_second(model, processor, Case(*json.loads(line)))}\n")
            sys.stdout.flush()
