"""Using what was accepted, and what its results must be."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz.outcome import BadOutputError, NotFiniteError

PIXELS = (np.arange(40 * 52 * 3).reshape(40, 52, 3) * 7 % 251).astype(np.uint8)
WAVE = (np.sin(np.arange(4800) / 9) / 2).astype(np.float32)
TEXTS = ["a cat", "Zwei Hunde, 猫!"]


def try_checkpoint(random: Random, folder: Path, *, load: bool = True) -> None:
    """What people do with one: load it, more seldom load it lazily, ask what it is or convert it; load: or only the
    latter two."""
    roll = random.random() if load else random.uniform(0.75, 1)
    if roll < 0.75:
        load_and_use(folder, lazy=roll < 0.1)
    elif roll < 0.85:
        describe(folder)
    else:
        import mlx_mm

        bits = random.choice((4, 8, None))
        report = mlx_mm.convert(folder, folder.with_name("new"), bits=bits, group_size=32, check=roll < 0.88)
        if report.cost is not None:
            finite("what the conversion lost", report.cost.as_dict())
        load_and_use(report.out)


def load_and_use(folder: Path, *, lazy: bool = False) -> None:
    """Through the public verbs, everything that the model takes."""
    import mlx_mm

    use(*mlx_mm.load(folder, lazy=lazy))


def use(model: Any, processor: Any) -> None:
    """Vectors of texts, pictures and sounds; scores; a few words."""
    import mlx_mm

    if model.kind == "classifier":
        finite("scores", mlx_mm.classify(model, processor, PIXELS))
    elif model.kind == "generator":
        answered(mlx_mm.generate(model, processor, "What is it?", images=[PIXELS], max_tokens=2))
    else:
        inputs = {"text": TEXTS, "image": [PIXELS], "audio": [(WAVE, 48000)]}
        for modality in model.modalities:
            vectors(getattr(mlx_mm, f"encode_{modality}")(model, processor, inputs[modality]), len(inputs[modality]))


def describe(folder: Path) -> None:
    """As `mlx_mm info` does."""
    from mlx_mm.cli.info import describe_model

    finite("what info says", describe_model(str(folder)))


def vectors(found: Any, count: int | None = None) -> None:
    """(N, D) float32 numbers that can be compared by their cosine, or (D,)."""
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.ndim not in (1, 2):
        raise BadOutputError(f"expected float32 vectors, found {type(found).__name__} {getattr(found, 'dtype', '')}")
    rows = found.reshape(-1, found.shape[-1]) if found.size else np.empty((len(found), 1), np.float32)
    if count is not None and len(rows) != count:
        raise BadOutputError(f"expected {count} vectors, found {len(rows)}")
    if not np.isfinite(rows).all():
        raise NotFiniteError(f"{np.count_nonzero(~np.isfinite(rows))} of {rows.size} numbers of the vectors")
    if found.size and not (np.linalg.norm(rows, axis=1) > 0).all():
        raise NotFiniteError("a vector of length zero")


def undisturbed(found: Any, alone: Any) -> None:
    """The vector of what stands beside a bad input is the one that it has alone."""
    if not np.abs(found - alone).max() < 1e-5:
        raise BadOutputError(f"a vector is {np.abs(found - alone).max():.2g} off beside another input")


def answered(answer: Any) -> None:
    """A `Generation` of text that can be encoded and numbers that are some."""
    for text in (answer.text, answer.raw, answer.reasoning or ""):
        if not isinstance(text, str):
            raise BadOutputError(f"the answer has a {type(text).__name__}")
        text.encode()
    finite("boxes", [answer.boxes, answer.pixel_boxes, answer.prompt_tps, answer.generation_tps])
    if answer.finish_reason not in ("stop", "length", "tool_calls"):
        raise BadOutputError(f"finish_reason is {answer.finish_reason!r}")


def finite(name: str, value: Any) -> None:
    """All numbers of plain values."""
    if isinstance(value, float) and not math.isfinite(value):
        raise NotFiniteError(f"{name}: {value}")
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for item in items:
        finite(name, item)
