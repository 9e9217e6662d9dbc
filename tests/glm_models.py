"""Small GLM models in memory, prompts with pictures for them, and what they answer."""

from __future__ import annotations

import copy
import functools
from typing import Any

import mlx.core as mx
import numpy as np
from comparing import sanitized
from glm_tiny import DENSE, glm_config, glm_pixels, glm_weights
from mlx_lm.generate import generate_step

from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.model import ARCHITECTURES
from mlx_mm.models.glm4v.request import Request

Batch = dict[str, mx.array]
PICTURE, BEGIN, END, VIDEO_BEGIN, VIDEO_END = 500, 502, 503, 504, 505
PIXELS = {"image_grid_thw": "pixel_values", "video_grid_thw": "pixel_values_videos"}


def glm_model(name: str = DENSE, architecture: str = "", **changes: Any) -> Any:
    """A model of the golden file with its weights; changes: of the top of its config.json. Do not alter it."""
    return copy.copy(_model(name, architecture, tuple(changes.items())))


@functools.cache
def _model(name: str, architecture: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    config = glm_config(name) | dict(changes)
    model = ARCHITECTURES[architecture](ModelConfig.from_dict(config))
    weights = glm_weights(config)
    if architecture.endswith("Model"):
        weights = {key.removeprefix("model."): value for key, value in weights.items() if key != "lm_head.weight"}
    model.load_weights(list(sanitized(model, weights).items()), strict=True)
    return model.eval()


def case_batch(case: dict[str, Any]) -> Batch:
    """A golden case as a model takes it."""
    batch = {name: mx.array([case[name]]) for name in ("input_ids", "mm_token_type_ids")}
    for grids, pixels in PIXELS.items():
        if case[grids] is not None:
            batch |= {grids: mx.array(case[grids]), pixels: mx.array(glm_pixels(patches(case[grids])))}
    return batch


def numpy_batch(batch: Batch) -> dict[str, np.ndarray]:
    """The same as the processor gives it."""
    return {name: np.array(value) for name, value in batch.items()}


def request_of(model: Any, batch: Batch) -> Request:
    return Request(model, numpy_batch(batch))


def patches(grids: Any) -> int:
    return sum(frames * rows * cols for frames, rows, cols in grids)


def prompt(*parts: Any, seed: int = 7) -> Batch:
    """A prompt of words (ids), images (rows, cols) and videos (frames, rows, cols), with pixels of its own."""
    ids: list[int] = []
    types: list[int] = []
    grids: dict[int, list[tuple[int, ...]]] = {1: [], 2: []}

    def add(tokens: list[int], kind: int = 0) -> None:
        ids.extend(tokens)
        types.extend([kind] * len(tokens))

    for part in parts:
        if isinstance(part, int):
            add([part])
            continue
        kind = 1 if len(part) == 2 else 2
        *frames, rows, cols = part
        grids[kind].append((*(frames or [1]), rows, cols))
        add([VIDEO_BEGIN] if kind == 2 else [])
        for frame in range(frames[0] if frames else 1):
            add([BEGIN])
            add([PICTURE] * (rows * cols // 4), kind)
            add([END, 20 + frame] if kind == 2 else [END])
        add([VIDEO_END] if kind == 2 else [])
    batch = {"input_ids": mx.array([ids]), "mm_token_type_ids": mx.array([types])}
    for kind, (name, pixels) in zip((1, 2), PIXELS.items(), strict=True):
        if grids[kind]:
            batch |= {name: mx.array(grids[kind]), pixels: mx.array(glm_pixels(patches(grids[kind]), seed + kind - 1))}
    return batch


def padded(batches: list[Batch], *, left: bool = True) -> Batch:
    """Prompts as one batch, pictures one after the other."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    rows: dict[str, list[mx.array]] = {"input_ids": [], "mm_token_type_ids": [], "attention_mask": []}
    for batch in batches:
        missing = longest - batch["input_ids"].shape[1]
        width = [(0, 0), (missing, 0) if left else (0, missing)]
        rows["input_ids"].append(mx.pad(batch["input_ids"], width, constant_values=3))
        rows["mm_token_type_ids"].append(mx.pad(batch["mm_token_type_ids"], width))
        rows["attention_mask"].append(mx.pad(mx.ones_like(batch["input_ids"]), width))
    result = {name: mx.concatenate(parts) for name, parts in rows.items()}
    for name in (*PIXELS, *PIXELS.values()):
        if parts := [batch[name] for batch in batches if name in batch]:
            result[name] = mx.concatenate(parts)
    return result


def answer(model: Any, batch: Batch, count: int = 8, **options: Any) -> list[int]:
    """Greedy tokens by mlx_lm's loop; options are its own."""
    return [
        token
        for token, _ in generate_step(batch["input_ids"][0], request_of(model, batch), max_tokens=count, **options)
    ]


def answer_by_whole_prompts(model: Any, batch: Batch, count: int = 8) -> list[int]:
    """Greedy tokens without any cache: the whole prompt, and all tokens so far, run again for each."""
    tokens: list[int] = []
    for _ in range(count):
        more = mx.array([tokens], mx.int32)
        longer = batch | {
            "input_ids": mx.concatenate([batch["input_ids"], more], axis=1),
            "mm_token_type_ids": mx.concatenate([batch["mm_token_type_ids"], mx.zeros_like(more)], axis=1),
        }
        tokens.append(int(model(**longer, logits_to_keep=1).logits[0, -1].argmax()))
    return tokens


def worst(got: Any, right: Any) -> float:
    """The largest difference."""
    got, right = np.array(got, dtype=np.float64), np.array(right, dtype=np.float64)
    assert got.shape == right.shape
    return float(np.abs(got - right).max())
