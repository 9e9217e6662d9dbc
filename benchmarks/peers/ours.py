"""mlx_mm itself, through what its public verbs call. Variants: "", "8bit" and "4bit" for a converted checkpoint."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from workers import Case, MissingError, Run, Timed

BITS = {"8bit": 8, "4bit": 4}


def prepare(kind: str, folder: Path, variant: str):
    """A function from cases of that kind to runs."""
    checkpoint = folder / (variant or "source")
    if kind == "cold":
        return functools.partial(cold, checkpoint, variant)
    import mlx_mm

    model, processor = mlx_mm.load(checkpoint, lazy=True)
    if kind == "audio":
        return functools.partial(hear, model, processor)
    if kind == "language":
        return functools.partial(answer, model)
    if kind == "patches":
        return functools.partial(see, model)
    return functools.partial(encode, model, json.loads((checkpoint / "config.json").read_text()), kind)


def convert(folder: Path, variant: str, *, everything: bool = False) -> None:
    """Makes what a variant needs of folder/source."""
    import mlx_mm

    recipe = "all" if everything else None
    mlx_mm.convert(folder / "source", folder / variant, bits=BITS[variant], recipe=recipe, overwrite=True)


def encode(model, config: dict, kind: str, case: Case) -> Run:
    """A batch through the tower, as encode_image and encode_text run it."""
    import encoders
    import mlx.core as mx

    from mlx_mm.backend.parts import run_in_parts

    values = encoders.make_batch(config, kind, case["batch"], case.get("tokens", 0))
    name, features = ("input_ids", "get_text_features") if kind == "text" else ("pixel_values", "get_image_features")
    batch = {name: mx.array(values.astype(np.int32) if kind == "text" else values)}
    weights = list(model.modules_for(kind))
    return lambda: np.array(run_in_parts(getattr(model, features), batch, weights))


def hear(model, processor, case: Case) -> Run:
    """Log-mel alone, the tower alone, or encode_audio."""
    import sounds

    import mlx_mm
    from mlx_mm.backend.parts import run_row_by_row

    clips = [(samples, 48000) for samples in sounds.sounds(case["batch"])]
    if case["stage"] == "log-mel":
        return lambda: processor.audio(clips)["input_features"]
    if case["stage"] == "whole":
        return lambda: mlx_mm.encode_audio(model, processor, clips, batch_size=case["batch"])
    batch, weights = mlx_mm.to_mlx(processor.audio(clips)), list(model.modules_for("audio"))
    return lambda: np.array(run_row_by_row(model.get_audio_features, batch, weights))


def answer(model, case: Case) -> Run:
    """Reads a prompt, or adds tokens to one that was read: the likeliest ones, one after the other."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from works import DECODED

    ids = np.random.default_rng(0).integers(1, 200, (1, case["tokens"]))

    def begin():
        request = model.request({"input_ids": ids})
        return request, make_prompt_cache(request)

    def step(request, cache, tokens) -> mx.array:
        logits = request(tokens, cache=cache)
        mx.eval(logits, [layer.state for layer in cache])
        return logits

    def read() -> Timed:
        request, cache = begin()
        tokens = mx.array(ids)
        mx.eval(tokens)
        start = time.perf_counter()
        logits = step(request, cache, tokens)
        seconds = time.perf_counter() - start
        return Timed(np.array(logits.astype(mx.float32)), seconds)

    if case["stage"] == "prefill":
        return read
    request, cache = begin()
    step(request, cache, mx.array(ids))

    def add() -> np.ndarray:
        token = mx.array([[5]])
        for _ in range(DECODED):
            logits = step(request, cache, token)
            token = mx.argmax(logits[:, -1, :], axis=-1, keepdims=True)
        return np.array(logits.astype(mx.float32))

    return add


def see(model, case: Case) -> Run:
    """A picture's patches through a tower that gives tokens."""
    import mlx.core as mx

    pixels, grid = patches(case)

    def run() -> np.ndarray:
        features = model.get_image_features(mx.array(pixels), mx.array(grid))
        mx.eval(features)
        return np.array(features[0].astype(mx.float32))

    return run


def patches(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Random ones of one picture, and its grid of time, rows and columns."""
    side = case["side"] // 14
    pixels = np.random.default_rng(0).standard_normal((side * side, 1176), dtype=np.float32)
    return pixels, np.array([[1, side, side]])


COLD = """
import sys
import numpy as np
import mlx_mm
model, processor = mlx_mm.load(sys.argv[1])
picture = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
np.save(sys.argv[2], mlx_mm.encode_image(model, processor, picture))
"""


def cold(checkpoint: Path, variant: str, case: Case) -> Run:
    """A process of its own."""
    bundled = case["model"] == "bundled"
    if bundled and variant:
        raise MissingError("the bundled checkpoint is compared as it is")
    return started(COLD, "emoji-siglip2" if bundled else checkpoint, checkpoint.parent / "cold.npy")


def started(code: str, checkpoint: Path | str, out: Path) -> Run:
    """A run that is a Python process, which is told a checkpoint and where its vector goes.

    It keeps what it compiles of Python: packages that pip installed are compiled, sources of ours are by the first run.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run() -> Timed:
        start = time.perf_counter()
        arguments = [sys.executable, "-c", code, str(checkpoint), str(out)]
        process = subprocess.Popen(arguments, stdout=sys.stderr, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"a process ended with {process.returncode}")
        vector = np.load(out)
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Timed(vector / np.linalg.norm(vector), seconds, usage.ru_utime + usage.ru_stime, memory)

    return run
